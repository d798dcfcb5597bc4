// Shows a page that changes while work goes on: a server for this machine's own browsers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace formwork {

/// Serves what `page` returns at every request to http://127.0.0.1:port/ until it is destroyed; no
/// other machine can reach it. `page` is called on threads of the server, never twice at a time;
/// what it throws is shown in place of the page.
class Watch {
 public:
  /// `port` 1 to 65535; 0 lets the system choose. Refuses a port that is taken.
  Watch(int64_t port, std::function<std::string()> page);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// "http://127.0.0.1:8000/"
  const std::string& address() const { return address_; }

 private:
  struct Server;
  std::unique_ptr<Server> server_;
  std::string address_;
};

}  // namespace formwork

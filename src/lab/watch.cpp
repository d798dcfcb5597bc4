#include "lab/watch.h"

#include <httplib.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>

#include "core/error.h"

namespace formwork {

struct Watch::Server {
  httplib::Server http;
  std::mutex mutex;  // one page is made at a time
  std::thread thread;
};

namespace {

constexpr char kHost[] = "127.0.0.1";

/// The library's own options let two programs share a port, and each would answer now and then.
void socket_options(socket_t socket) {
  const int yes = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
}

/// Whether a request names this machine: a page elsewhere whose name was pointed here does not.
bool is_ours(const httplib::Request& request, const std::string& port) {
  const std::string host = request.get_header_value("Host");
  return host == kHost + (":" + port) || host == "localhost:" + port;
}

}  // namespace

Watch::Watch(int64_t port, std::function<std::string()> page) : server_(new Server) {
  check(port >= 0 && port <= 65535, "--watch", "found ", port, "; valid: a port from 1 to 65535");
  httplib::Server& http = server_->http;
  http.set_socket_options(socket_options);
  http.set_keep_alive_max_count(1);  // a waiting browser would hold up the end
  http.new_task_queue = [] { return new httplib::ThreadPool(2); };
  errno = 0;
  const bool any = port == 0;
  const int bound = any ? http.bind_to_any_port(kHost)
                    : http.bind_to_port(kHost, static_cast<int>(port)) ? static_cast<int>(port)
                                                                       : -1;
  if (bound < 0) {
    const bool taken = errno == EADDRINUSE;
    refuse("--watch", "port ", port, taken ? " is used by another program" : " cannot be opened (",
           taken ? "" : std::strerror(errno), taken ? "" : ")",
           "; valid: a free port from 1024 to 65535");
  }
  const std::string number = std::to_string(bound);
  address_ = "http://" + std::string(kHost) + ":" + number + "/";
  http.Get("/", [this, number, page = std::move(page)](const httplib::Request& request,
                                                       httplib::Response& response) {
    response.set_header("Cache-Control", "no-store");
    if (!is_ours(request, number)) {
      response.status = 403;
      return;
    }
    try {
      const std::lock_guard<std::mutex> lock(server_->mutex);
      response.set_content(page(), "text/html; charset=utf-8");
    } catch (const std::exception& error) {
      response.status = 500;
      response.set_content(error.what(), "text/plain; charset=utf-8");
    }
  });
  server_->thread = std::thread([this] { server_->http.listen_after_bind(); });
  // Before it runs, it cannot be stopped.
  while (!http.is_running()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

Watch::~Watch() {
  if (!server_->thread.joinable()) return;
  server_->http.stop();
  server_->thread.join();
}

}  // namespace formwork

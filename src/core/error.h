// The one exception type of Formwork and the one function that throws it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace formwork {

/// Whose fault it is: the request was wrong (exit code 2) or the work failed (exit code 1).
enum class Fault { request, failure };

/// An error for a person: one sentence that says where, what was found and what would be valid.
class Error : public std::runtime_error {
 public:
  Error(Fault fault, const std::string& sentence) : std::runtime_error(sentence), fault_(fault) {}
  Fault fault() const { return fault_; }

 private:
  Fault fault_;
};

/// Joins anything that can be streamed into one string.
template <class... Parts>
std::string join_text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws a request error "<where>: <parts...>". `where` is an axis, key or file:line:column.
template <class... Parts>
[[noreturn]] void refuse(std::string_view where, const Parts&... parts) {
  throw Error(Fault::request, join_text(where, ": ", parts...));
}

/// Throws a failure "<where>: <parts...>": the request was legal, the work could not be done.
template <class... Parts>
[[noreturn]] void fail(std::string_view where, const Parts&... parts) {
  throw Error(Fault::failure, join_text(where, ": ", parts...));
}

/// Refuses unless `ok`; the sentence is only built when it is needed.
template <class... Parts>
void check(bool ok, std::string_view where, const Parts&... parts) {
  if (!ok) refuse(where, parts...);
}

}  // namespace formwork

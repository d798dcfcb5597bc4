#include "lab/method_docs.h"

#include <algorithm>
#include <map>
#include <set>
#include <string_view>

namespace formwork {

namespace assets {
// Made by cmake/method_docs.cmake.
std::string_view method_lines();
std::string_view golden_folders();
}  // namespace assets

namespace {

std::string_view next_part(std::string_view& text, char end) {
  const size_t at = std::min(text.find(end), text.size());
  const std::string_view part = text.substr(0, at);
  text.remove_prefix(std::min(at + 1, text.size()));
  return part;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  return text;
}

/// A line of a source: those that begin a comment, a class or a registration, or name a method.
struct Line {
  std::string folder;
  int64_t number = 0;
  std::string_view text;
};

/// The lines as grep wrote them, path:number:text.
std::vector<Line> lines() {
  std::vector<Line> all;
  for (std::string_view rest = assets::method_lines(); !rest.empty();) {
    std::string_view line = next_part(rest, '\n');
    const std::string_view path = next_part(line, ':');
    const int64_t number = std::stoll(std::string(next_part(line, ':')));
    all.push_back({std::string(path.substr(0, path.rfind('/'))), number, line});
  }
  return all;
}

/// "class Local final : public Mixer {" → "Local"; the name that a registration gives second.
std::string_view word(std::string_view text) {
  text = trimmed(text);
  return text.substr(0, std::min(text.find_first_of(" ,>:{;"), text.size()));
}

/// By folder and class, the comment that ends on the line above the class.
std::map<std::string, std::string> class_comments(const std::vector<Line>& all) {
  std::map<std::string, std::string> comments;
  std::string comment;
  int64_t expected = 0;
  for (const Line& line : all) {
    if (line.number != expected) comment.clear();
    expected = line.number + 1;
    if (line.text.starts_with("///")) {
      comment += (comment.empty() ? "" : " ") + std::string(trimmed(line.text.substr(3)));
      continue;
    }
    const size_t keyword = line.text.starts_with("class ")    ? 6
                           : line.text.starts_with("struct ") ? 7
                                                              : 0;
    if (keyword > 0 && !comment.empty())
      comments[line.folder + "/" + std::string(word(line.text.substr(keyword)))] = comment;
    comment.clear();
  }
  return comments;
}

/// By folder and method, its comment.
std::map<std::string, std::string> method_comments() {
  const std::vector<Line> all = lines();
  const std::map<std::string, std::string> comments = class_comments(all);
  std::map<std::string, std::string> found;
  std::string registered;  // folder and class of the registration whose name comes next
  for (const Line& line : all) {
    if (const size_t start = line.text.find("Register<"); start != std::string_view::npos) {
      std::string_view arguments = line.text.substr(start + 9);
      next_part(arguments, ',');
      registered = line.folder + "/" + std::string(word(arguments));
    }
    const size_t quote = line.text.find('"');
    if (registered.empty() || quote == std::string_view::npos || line.text.starts_with("///"))
      continue;
    std::string_view rest = line.text.substr(quote + 1);
    const std::string name(next_part(rest, '"'));
    if (const auto comment = comments.find(registered); comment != comments.end())
      found[line.folder + "/" + name] = comment->second;
    registered.clear();
  }
  return found;
}

}  // namespace

std::string comment_of(const MethodInfo& method) {
  static const std::map<std::string, std::string> all = method_comments();
  const std::string folder = method.axis == "task" ? "src/tasks" : "src/methods/" + method.axis;
  const auto found = all.find(folder + "/" + method.name);
  return found == all.end() ? "" : found->second;
}

bool has_golden(const std::string& specification) {
  static const std::set<std::string, std::less<>> all = [] {
    std::set<std::string, std::less<>> names;
    for (std::string_view rest = assets::golden_folders(); !rest.empty();)
      names.emplace(next_part(rest, '\n'));
    return names;
  }();
  return all.contains(specification);
}

}  // namespace formwork

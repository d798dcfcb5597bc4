#include "lab/figures.h"

#include <fstream>

#include "formats/json.h"

namespace formwork {

std::optional<double> number_at(const Value& table, const std::string& key) {
  const Value* found = table.find(key);
  if (found && found->get<double>()) return *found->get<double>();
  if (found && found->get<int64_t>()) return static_cast<double>(*found->get<int64_t>());
  return std::nullopt;
}

std::string text_at(const Value& table, const std::string& key) {
  const Value* found = table.find(key);
  const std::string* text = found ? found->get<std::string>() : nullptr;
  return text ? *text : "";
}

bool flag_at(const Value& table, const std::string& key) {
  const Value* found = table.find(key);
  const bool* flag = found ? found->get<bool>() : nullptr;
  return flag && *flag;
}

Value value_of(const std::optional<double>& figure) {
  return figure ? Value(*figure) : Value();
}

Value read_json_if_there(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return Value(Table{});
  return parse_json(std::string{std::istreambuf_iterator<char>(in), {}}, path);
}

}  // namespace formwork

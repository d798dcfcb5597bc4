#include "formats/json.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace formwork {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const Value& value) {
  if (const bool* v = value.get<bool>()) return *v;
  if (const int64_t* v = value.get<int64_t>()) return *v;
  if (const double* v = value.get<double>()) return std::isfinite(*v) ? Json(*v) : Json();
  if (const std::string* v = value.get<std::string>()) return *v;
  if (const List* v = value.get<List>()) {
    Json list = Json::array();
    for (const Value& item : *v) list.push_back(to_json(item));
    return list;
  }
  if (const Table* v = value.get<Table>()) {
    Json object = Json::object();
    for (const auto& [key, item] : *v) object[key] = to_json(item);
    return object;
  }
  return Json();
}

Value from_json(const Json& json, const std::string& where) {
  switch (json.type()) {
    case Json::value_t::boolean:
      return json.get<bool>();
    case Json::value_t::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return json.get<double>();
      return json.get<int64_t>();
    case Json::value_t::number_integer:
      return json.get<int64_t>();
    case Json::value_t::number_float:
      return json.get<double>();
    case Json::value_t::string:
      return json.get<std::string>();
    case Json::value_t::array: {
      List list;
      for (const Json& item : json) list.push_back(from_json(item, where));
      return list;
    }
    case Json::value_t::object: {
      Table table;
      for (const auto& [key, item] : json.items()) table.emplace_back(key, from_json(item, where));
      return table;
    }
    default:
      return {};
  }
}

}  // namespace

std::string write_json(const Value& value, int indent) {
  return to_json(value).dump(indent > 0 ? indent : -1, ' ', false, Json::error_handler_t::replace);
}

Value parse_json(std::string_view text, const std::string& where) {
  try {
    return from_json(Json::parse(text), where);
  } catch (const Json::parse_error& error) {
    refuse(where, "not valid JSON at byte ", error.byte, " of ", text.size());
  } catch (const Json::exception&) {
    refuse(where, "not valid JSON: a number is out of range");
  }
}

}  // namespace formwork

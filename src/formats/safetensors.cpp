#include "formats/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>

#include "core/error.h"

namespace formwork {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "tensors are stored little-endian");

constexpr uint64_t kLargestHeader = 100'000'000;  // the limit of the format's own library
constexpr size_t kLengthBytes = 8;
constexpr std::string_view kMetadata = "__metadata__";

struct TypeRow {
  DType dtype;
  std::string_view name;
  size_t size;
};
constexpr std::array<TypeRow, 10> kTypes{{{DType::f64, "F64", 8},
                                          {DType::f32, "F32", 4},
                                          {DType::f16, "F16", 2},
                                          {DType::bf16, "BF16", 2},
                                          {DType::i64, "I64", 8},
                                          {DType::i32, "I32", 4},
                                          {DType::i16, "I16", 2},
                                          {DType::i8, "I8", 1},
                                          {DType::u8, "U8", 1},
                                          {DType::boolean, "BOOL", 1}}};

/// Bytes of a tensor, or nothing where the product does not fit into 63 bits.
std::optional<uint64_t> tensor_size(DType dtype, const std::vector<int64_t>& shape) {
  uint64_t size = dtype_size(dtype);
  constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  for (const int64_t extent : shape) {
    if (static_cast<uint64_t>(extent) > kMost / size) return std::nullopt;
    size *= static_cast<uint64_t>(extent);
  }
  return size;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return json(shape).dump();
}

// Keeps what the file wrote readable in a one-line message, whatever bytes it holds.
std::string excerpt(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

/// Parses the header; a key written twice is refused, since which one counts would be a guess.
json parse_header(std::string_view text, const std::string& where) {
  std::set<std::string> seen;
  std::string twice;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::key && depth == 1) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!seen.insert(key).second && twice.empty()) twice = excerpt(parsed);
    }
    return true;
  };
  json header;
  try {
    header = json::parse(text.begin(), text.end(), watch);
  } catch (const json::parse_error& error) {
    refuse(where, "the header is not valid JSON at byte ", kLengthBytes + error.byte,
           " of the file; a safetensors header is one JSON object");
  } catch (const json::exception&) {
    refuse(where, "the header holds a number that no safetensors header may hold");
  }
  check(header.is_object(), where, "the header is not a JSON object but ", excerpt(header));
  check(twice.empty(), where, "the header names ", twice, " twice");
  return header;
}

TextMap parse_metadata(const json& value, const std::string& where) {
  check(value.is_object(), where, "__metadata__ is not an object of strings but ", excerpt(value));
  TextMap metadata;
  for (const auto& [key, text] : value.items()) {
    check(text.is_string(), where, "__metadata__.", excerpt(json(key)), " is not a string but ",
          excerpt(text));
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

/// A JSON array of integers in 0 .. 2^63-1.
std::vector<int64_t> parse_integers(const json& value, const std::string& what) {
  check(value.is_array(), what, "is not a list of integers but ", excerpt(value));
  std::vector<int64_t> integers;
  for (const json& item : value) {
    const bool fits =
        item.is_number_unsigned() &&
        item.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    check(fits, what, "holds ", excerpt(item), ", an integer from 0 to 2^63-1 is needed");
    integers.push_back(static_cast<int64_t>(item.get<uint64_t>()));
  }
  return integers;
}

std::string type_names() {
  std::string names;
  for (const TypeRow& row : kTypes) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

TensorEntry parse_entry(const std::string& name, const json& value, uint64_t data_size,
                        const std::string& where) {
  const std::string tensor = join_text(where, ": tensor ", excerpt(json(name)));
  check(value.is_object(), tensor, "is not described by an object but by ", excerpt(value));
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    check(value.contains(key), tensor, "has no ", key);
  }
  check(value.size() == 3, tensor, "has keys besides dtype, shape and data_offsets");

  TensorEntry entry;
  entry.name = name;
  const json& type = value.at("dtype");
  const auto dtype = type.is_string() ? parse_dtype(type.get<std::string>()) : std::nullopt;
  check(dtype.has_value(), tensor, "dtype is ", excerpt(type), ", known types are ", type_names());
  entry.dtype = *dtype;
  entry.shape = parse_integers(value.at("shape"), tensor + ": shape");
  const auto offsets = parse_integers(value.at("data_offsets"), tensor + ": data_offsets");
  check(offsets.size() == 2, tensor, "data_offsets holds ", offsets.size(),
        " numbers, [begin, end] is needed");
  entry.begin = static_cast<uint64_t>(offsets[0]);
  entry.end = static_cast<uint64_t>(offsets[1]);
  check(entry.begin <= entry.end && entry.end <= data_size, tensor, "claims bytes ", entry.begin,
        " to ", entry.end, " of the data, which has ", data_size, " bytes");
  const auto size = tensor_size(entry.dtype, entry.shape);
  check(size.has_value() && *size == entry.end - entry.begin, tensor, "claims ",
        entry.end - entry.begin, " bytes, but ", dtype_name(entry.dtype), " ",
        shape_text(entry.shape), " needs ", size ? std::to_string(*size) : "more than 2^63");
  return entry;
}

/// Sorts by position and refuses overlaps, holes and bytes that belong to no tensor.
void check_layout(std::vector<TensorEntry>& entries, uint64_t data_size, const std::string& where) {
  std::sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t reached = 0;
  for (const TensorEntry& entry : entries) {
    check(entry.begin == reached, where, "tensor ", excerpt(json(entry.name)), " begins at byte ",
          entry.begin, " of the data, ",
          entry.begin < reached ? "inside the tensor before it, which ends at "
                                : "leaving a hole after ",
          reached);
    reached = entry.end;
  }
  check(reached == data_size, where, "the tensors end at byte ", reached,
        " of the data, which has ", data_size, " bytes");
}

struct Mapping {
  void* address = nullptr;
  size_t size = 0;
  ~Mapping() {
    if (address != nullptr) ::munmap(address, size);
  }
};

[[noreturn]] void refuse_system(const std::string& path, std::string_view action) {
  refuse(path, "cannot ", action, " it: ", std::generic_category().message(errno));
}

std::shared_ptr<const Mapping> map_file(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) refuse_system(path, "open");
  struct Closer {
    int descriptor;
    ~Closer() { ::close(descriptor); }
  } const closer{descriptor};
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) refuse_system(path, "read");
  check(S_ISREG(status.st_mode), path, "is not a regular file, a safetensors file is needed");
  auto mapping = std::make_shared<Mapping>();
  if (status.st_size == 0) return mapping;
  mapping->size = static_cast<size_t>(status.st_size);
  void* address = ::mmap(nullptr, mapping->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (address == MAP_FAILED) refuse_system(path, "map");
  mapping->address = address;
  return mapping;
}

}  // namespace

std::string_view dtype_name(DType dtype) {
  return kTypes[static_cast<size_t>(dtype)].name;
}

size_t dtype_size(DType dtype) {
  return kTypes[static_cast<size_t>(dtype)].size;
}

std::optional<DType> parse_dtype(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  const auto mapping = map_file(path);
  SafetensorsFile file =
      parse({static_cast<const std::byte*>(mapping->address), mapping->size}, path);
  file.owner_ = mapping;
  return file;
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& where) {
  check(bytes.size() >= kLengthBytes, where, "has ", bytes.size(),
        " bytes, a safetensors file begins with an 8-byte header length");
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  const uint64_t rest = bytes.size() - kLengthBytes;
  check(length <= rest, where, "claims a header of ", length, " bytes, but only ", rest,
        " bytes follow its length");
  check(length <= kLargestHeader, where, "claims a header of ", length, " bytes, at most ",
        kLargestHeader, " are allowed");

  SafetensorsFile file;
  file.path_ = where;
  file.data_ = bytes.subspan(kLengthBytes + length);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  const json header = parse_header(text, where);
  for (const auto& [name, value] : header.items()) {
    if (name == kMetadata) {
      file.metadata_ = parse_metadata(value, where);
    } else {
      file.entries_.push_back(parse_entry(name, value, file.data_.size(), where));
    }
  }
  check_layout(file.entries_, file.data_.size(), where);
  return file;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto at = std::find_if(entries_.begin(), entries_.end(),
                               [&](const TensorEntry& entry) { return entry.name == name; });
  return at == entries_.end() ? nullptr : &*at;
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorEntry& entry) const {
  return data_.subspan(entry.begin, entry.end - entry.begin);
}

std::string safetensors_header(std::vector<TensorBytes>& tensors, const TextMap& metadata,
                               std::string_view where) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorBytes& a, const TensorBytes& b) {
    const size_t wide_a = dtype_size(a.dtype), wide_b = dtype_size(b.dtype);
    return wide_a != wide_b ? wide_a > wide_b : a.name < b.name;
  });
  std::set<std::string_view> names{kMetadata};
  std::string text = "{";
  uint64_t position = 0;
  try {
    if (!metadata.empty()) text += "\"__metadata__\":" + json(metadata).dump();
    for (const TensorBytes& tensor : tensors) {
      check(names.insert(tensor.name).second, where, "tensor name \"", tensor.name,
            "\" is used twice or reserved");
      const auto size = tensor_size(tensor.dtype, tensor.shape);
      check(size && *size == tensor.bytes.size(), where, "tensor \"", tensor.name, "\" has ",
            tensor.bytes.size(), " bytes, which is not what its type and shape need");
      if (text.size() > 1) text += ',';
      text += json(tensor.name).dump() + ":{\"dtype\":\"";
      text += dtype_name(tensor.dtype);
      text += join_text("\",\"shape\":", shape_text(tensor.shape), ",\"data_offsets\":[", position,
                        ",", position + *size, "]}");
      position += *size;
    }
  } catch (const json::exception&) {
    refuse(where, "a tensor name or a piece of metadata is not valid UTF-8");
  }
  text += '}';
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  check(length <= kLargestHeader, where, "its header would need ", length, " bytes, at most ",
        kLargestHeader, " are allowed");
  std::string header(kLengthBytes, '\0');
  std::memcpy(header.data(), &length, kLengthBytes);
  return header + text;
}

}  // namespace formwork

// The safetensors format (8-byte little-endian header length, JSON header, raw tensors), without
// libtorch: everything a file claims is checked before it is believed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace formwork {

/// Element types of the format that Formwork reads and writes.
enum class DType { f64, f32, f16, bf16, i64, i32, i16, i8, u8, boolean };

/// The format's name of a type ("F32", "BOOL") and its size in bytes.
std::string_view dtype_name(DType dtype);
size_t dtype_size(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);

/// One tensor of a header: bytes [begin, end) of the data that follows the header.
struct TensorEntry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

using TextMap = std::map<std::string, std::string>;

/// A checked safetensors file: names, types, shapes, metadata and the bytes of each tensor.
/// Copies share the bytes, which live as long as one copy does.
class SafetensorsFile {
 public:
  /// Maps the file at `path`. Errors (Fault::request) name the file, the tensor and the byte.
  static SafetensorsFile open(const std::string& path);
  /// Reads from memory that the caller keeps alive; `where` names it in errors.
  static SafetensorsFile parse(std::span<const std::byte> bytes, const std::string& where);

  const std::string& path() const { return path_; }
  /// In the order of the file's bytes.
  const std::vector<TensorEntry>& entries() const { return entries_; }
  const TextMap& metadata() const { return metadata_; }
  /// The entry called `name`, or null.
  const TensorEntry* find(std::string_view name) const;
  std::span<const std::byte> bytes(const TensorEntry& entry) const;

 private:
  std::string path_;
  std::shared_ptr<const void> owner_;  // the mapping; null for memory of the caller
  std::span<const std::byte> data_;    // all that follows the header
  std::vector<TensorEntry> entries_;
  TextMap metadata_;
};

/// A tensor to be written.
struct TensorBytes {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Sorts `tensors` into the canonical order (wide types first, so that every tensor is aligned;
/// then by name) and returns the length field and header, padded to a multiple of 8 bytes. The file
/// is this followed by the tensors' bytes in their new order. `where` names the file in errors.
std::string safetensors_header(std::vector<TensorBytes>& tensors, const TextMap& metadata,
                               std::string_view where);

}  // namespace formwork

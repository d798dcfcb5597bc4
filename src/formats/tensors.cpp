#include "formats/tensors.h"

#include <ATen/ATen.h>

#include <array>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "formats/atomic_file.h"

namespace formwork {
namespace {

constexpr std::array<std::pair<DType, at::ScalarType>, 10> kScalarTypes{{
    {DType::f64, at::kDouble},
    {DType::f32, at::kFloat},
    {DType::f16, at::kHalf},
    {DType::bf16, at::kBFloat16},
    {DType::i64, at::kLong},
    {DType::i32, at::kInt},
    {DType::i16, at::kShort},
    {DType::i8, at::kChar},
    {DType::u8, at::kByte},
    {DType::boolean, at::kBool},
}};

at::ScalarType scalar_type(DType dtype) {
  return kScalarTypes[static_cast<size_t>(dtype)].second;
}

std::optional<DType> stored_type(at::ScalarType type) {
  for (const auto& [dtype, scalar] : kScalarTypes) {
    if (scalar == type) return dtype;
  }
  return std::nullopt;
}

}  // namespace

at::Tensor load_tensor(const SafetensorsFile& file, const TensorEntry& entry) {
  at::Tensor tensor = at::empty(entry.shape, at::TensorOptions(scalar_type(entry.dtype)));
  const auto bytes = file.bytes(entry);
  if (bytes.empty()) return tensor;
  if (entry.dtype == DType::boolean) {
    // A bool that is neither 0 nor 1 is undefined behaviour later on, so it is normalised here.
    bool* out = tensor.mutable_data_ptr<bool>();
    for (size_t i = 0; i < bytes.size(); ++i) out[i] = bytes[i] != std::byte{0};
  } else {
    std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  }
  return tensor;
}

TensorMap load_tensors(const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  TensorMap tensors;
  for (const TensorEntry& entry : file.entries()) tensors[entry.name] = load_tensor(file, entry);
  return tensors;
}

void save_tensors(const std::string& path, const TensorMap& tensors, const TextMap& metadata) {
  std::vector<at::Tensor> held;  // keeps copies made here alive until they are written
  std::vector<TensorBytes> parts;
  for (const auto& [name, tensor] : tensors) {
    check(tensor.defined(), path, "tensor \"", name, "\" is undefined");
    const auto dtype = stored_type(tensor.scalar_type());
    check(dtype.has_value(), path, "tensor \"", name, "\" has type ",
          at::toString(tensor.scalar_type()), ", which safetensors files cannot hold");
    held.push_back(tensor.detach().to(at::kCPU).contiguous());
    const at::Tensor& plain = held.back();
    parts.push_back({name,
                     *dtype,
                     plain.sizes().vec(),
                     {static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()}});
  }
  const std::string header = safetensors_header(parts, metadata, path);
  uint64_t needed = header.size();
  for (const TensorBytes& part : parts) needed += part.bytes.size();
  AtomicFile file(path, needed);
  file.write(header);
  for (const TensorBytes& part : parts) file.write(part.bytes);
  file.commit();
}

}  // namespace formwork

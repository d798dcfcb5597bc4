// Named tensors in safetensors files.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "formats/safetensors.h"

namespace formwork {

using TensorMap = std::map<std::string, at::Tensor>;

/// The tensor of one entry, copied into memory of its own (CPU, contiguous).
at::Tensor load_tensor(const SafetensorsFile& file, const TensorEntry& entry);

/// All tensors of a file. Errors as SafetensorsFile::open.
TensorMap load_tensors(const std::string& path);

/// Writes all tensors (any device and layout of strides) and the metadata in canonical order,
/// atomically (see AtomicFile). Types that the format lacks are refused by name.
void save_tensors(const std::string& path, const TensorMap& tensors, const TextMap& metadata = {});

}  // namespace formwork

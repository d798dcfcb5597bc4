#include "support/golden.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "core/error.h"
#include "formats/tensors.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;

const char* setting(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

// ctest says where the project is; this file's own place serves a program started by hand.
std::string project_golden() {
  const char* source = setting("FORMWORK_SOURCE");
  const fs::path root = source != nullptr
                            ? fs::path(source)
                            : fs::absolute(__FILE__).parent_path().parent_path().parent_path();
  return (root / "tests" / "golden").string();
}

const char* foreign_root() {
  return setting("FORMWORK_GOLDEN_DIR");
}

GoldenCase load_case(const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  GoldenCase result{path, nlohmann::json::object(), {}};
  const auto config = file.metadata().find("config");
  if (config != file.metadata().end()) result.config = nlohmann::json::parse(config->second);
  for (const TensorEntry& entry : file.entries()) {
    result.tensors[entry.name] = load_tensor(file, entry);
  }
  return result;
}

double tolerance_floor(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return 1e-5;
    case at::kHalf:
    case at::kBFloat16:
      return 1e-2;
    default:
      return 0.0;
  }
}

std::string index_text(int64_t flat, at::IntArrayRef shape) {
  std::vector<int64_t> index(shape.size());
  for (size_t i = shape.size(); i-- > 0; flat /= shape[i]) index[i] = flat % shape[i];
  return join_text(at::IntArrayRef(index));
}

// Differences where both are finite; infinite where one is not and the two are not the same.
at::Tensor difference(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor same =
      actual.eq(expected).logical_or(actual.isnan().logical_and(expected.isnan()));
  at::Tensor apart = (actual - expected).abs();
  apart = apart.masked_fill(apart.isfinite().logical_not(), INFINITY);
  return apart.masked_fill(same, 0.0);
}

void report(const std::string& name, const at::Tensor& actual, const at::Tensor& expected,
            double allowed) {
  const at::Tensor apart = difference(actual, expected).flatten();
  const int64_t worst = apart.argmax().item<int64_t>();
  const double gap = apart[worst].item<double>();
  if (gap <= allowed) return;
  ADD_FAILURE() << name << ": differs by " << gap << " (allowed " << allowed << ") at "
                << index_text(worst, expected.sizes()) << " of " << expected.sizes() << ": got "
                << actual.flatten()[worst].item<double>() << ", expected "
                << expected.flatten()[worst].item<double>() << "; "
                << apart.gt(allowed).sum().item<int64_t>() << " of " << apart.numel()
                << " numbers are off";
}

}  // namespace

const at::Tensor& GoldenCase::at(const std::string& name) const {
  const auto found = tensors.find(name);
  check(found != tensors.end(), file, "has no tensor called ", name);
  return found->second;
}

std::map<std::string, at::Tensor> GoldenCase::under(const std::string& prefix) const {
  std::map<std::string, at::Tensor> result;
  for (const auto& [name, tensor] : tensors) {
    if (name.starts_with(prefix)) result[name.substr(prefix.size())] = tensor;
  }
  return result;
}

std::string golden_root() {
  const char* root = foreign_root();
  return root != nullptr ? root : project_golden();
}

std::vector<GoldenCase> golden_cases(const std::string& slug) {
  const fs::path folder = fs::path(golden_root()) / slug;
  std::vector<std::string> files;
  if (fs::is_directory(folder)) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  if (files.empty() && foreign_root() != nullptr) {
    [&] { GTEST_SKIP() << folder.string() << " holds no reference numbers"; }();
  } else if (files.empty()) {
    ADD_FAILURE() << folder.string() << " holds no reference numbers";
  }
  std::vector<GoldenCase> cases;
  for (const std::string& file : files) cases.push_back(load_case(file));
  return cases;
}

void expect_close(const std::string& name, const at::Tensor& actual, const at::Tensor& expected,
                  double relative) {
  if (!actual.defined() || !expected.defined()) {
    ADD_FAILURE() << name << ": " << (actual.defined() ? "the reference" : "the result")
                  << " is undefined";
    return;
  }
  if (actual.sizes() != expected.sizes()) {
    ADD_FAILURE() << name << ": has shape " << actual.sizes() << ", expected " << expected.sizes();
    return;
  }
  if (expected.numel() == 0) return;
  const at::Tensor got = actual.detach().to(at::kCPU, at::kDouble);
  const at::Tensor wanted = expected.detach().to(at::kCPU, at::kDouble);
  if (!expected.is_floating_point()) return report(name, got, wanted, 0.0);
  const at::Tensor finite = wanted.masked_fill(wanted.isfinite().logical_not(), 0.0);
  const double largest = finite.abs().max().item<double>();
  const double part = std::max(relative, tolerance_floor(expected.scalar_type()));
  report(name, got, wanted, largest < 1e-12 ? 1e-12 : part * largest);
}

}  // namespace formwork

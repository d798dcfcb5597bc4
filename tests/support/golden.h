// Reference numbers for tests: every safetensors file of tests/golden/<slug>/.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace formwork {

/// One file of reference numbers.
struct GoldenCase {
  std::string file;  ///< its path, for messages
  nlohmann::json config;
  std::map<std::string, at::Tensor> tensors;  ///< in.*, param.*, buffer.*, out.*, grad.*

  bool has(const std::string& name) const { return tensors.count(name) > 0; }
  /// The tensor called `name`; a missing one throws an error that names it and the file.
  const at::Tensor& at(const std::string& name) const;
  /// All tensors under a prefix such as "param.", by the rest of their names.
  std::map<std::string, at::Tensor> under(const std::string& prefix) const;
  /// A key of `config`, or `otherwise` where it is absent or null.
  template <class T>
  T option(const std::string& key, T otherwise) const {
    const auto found = config.find(key);
    return found == config.end() || found->is_null() ? otherwise : found->template get<T>();
  }
};

/// The root folder: FORMWORK_GOLDEN_DIR where it is set, else tests/golden of the project.
std::string golden_root();

/// All cases of a method, sorted by file name. A folder that FORMWORK_GOLDEN_DIR lacks marks the
/// running test as skipped, naming it, and gives no case; in the project itself it is a failure.
std::vector<GoldenCase> golden_cases(const std::string& slug);

/// Expects max|actual - expected| <= relative * max|expected| (1e-12 absolute where the reference
/// is smaller than that). `relative` is raised to what the reference's type can hold: 1e-5 for
/// float32, 1e-2 for 16 bits; integers and bools must be equal; infinities and NaNs must agree.
void expect_close(const std::string& name, const at::Tensor& actual, const at::Tensor& expected,
                  double relative = 1e-10);

}  // namespace formwork

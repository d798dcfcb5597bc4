// Every reference number of the baseline norms, by the names of the tensors.
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "kernels/rms_norm.h"
#include "methods/norm/norm.h"
#include "support/golden.h"

namespace formwork {
namespace {

/// The norm of a golden name with the options and parameters of the case.
std::shared_ptr<Norm> build(const GoldenCase& golden, const std::string& name) {
  struct Entry {
    const char *golden_name, *kind;
    Table options;
  };
  const auto number = [&](const char* key, double otherwise) {
    return golden.option(key, otherwise);
  };
  const Entry entries[] = {
      {"layer_norm", "layer_norm", {{"eps", number("ln_eps", 1e-5)}}},
      {"rms_norm", "rms_norm", {{"eps", number("rms_eps", 1e-6)}}},
      {"batch_norm_tokens",
       "batch_norm",
       {{"eps", number("bn_eps", 1e-5)}, {"momentum", number("bn_momentum", 0.1)}}},
      {"scale_norm", "scale_norm", {{"eps", number("scale_norm_eps", 1e-5)}}},
      {"dyt", "dynamic_tanh", {{"alpha_init", number("dyt_alpha_init", 0.5)}}},
  };
  for (const Entry& entry : entries) {
    if (name != entry.golden_name) continue;
    NormSite site;
    site.width = golden.at("in.x").size(-1);
    const auto norm = Choice<Norm>(entry.kind).set(entry.options).make(site);
    norm->to(at::kDouble);
    const c10::NoGradGuard no_grad;
    const auto tensors = norm->named_tensors();
    for (const auto& [parameter, value] : golden.under("param." + name + "."))
      Tensor(tensors.at(parameter)).copy_(value);
    return norm;
  }
  return nullptr;
}

void check_gradients(const GoldenCase& golden, const std::string& name, Norm& norm,
                     const Tensor& x) {
  const std::string where = golden.file + " " + name;
  if (golden.has("grad.in." + name + ".x"))
    expect_close(where + " x", x.grad(), golden.at("grad.in." + name + ".x"));
  const auto tensors = norm.named_tensors();
  for (const auto& [parameter, value] : golden.under("grad.param." + name + "."))
    expect_close(where + " " + parameter, tensors.at(parameter).grad(), value);
}

void check_buffers(const GoldenCase& golden, const std::string& name, Norm& norm,
                   const std::string& prefix) {
  for (const auto& [buffer, value] : norm.buffers()) {
    const std::string full = "buffer." + name + "." + prefix + buffer;
    if (golden.has(full)) expect_close(golden.file + " " + full, value, golden.at(full));
  }
}

void check_norm(const GoldenCase& golden, const std::string& name) {
  const auto norm = build(golden, name);
  if (!norm) {
    ADD_FAILURE() << golden.file << ": no check for out." << name;
    return;
  }
  const Tensor x = golden.at("in.x").clone().requires_grad_(true);
  const std::string out = "out." + name + ".";
  if (golden.has(out + "y")) {
    const Tensor y = norm->forward(x);
    expect_close(golden.file + " " + name, y, golden.at(out + "y"));
    if (golden.has("in.cotangent")) (y * golden.at("in.cotangent")).sum().backward();
    check_gradients(golden, name, *norm, x);
    check_buffers(golden, name, *norm, "");
  }
  if (golden.has(out + "eval_y")) {
    norm->eval();
    expect_close(golden.file + " eval " + name, norm->forward(x), golden.at(out + "eval_y"));
  }
  if (golden.has(out + "masked_y")) {
    const auto fresh = build(golden, name);
    const Tensor valid = golden.at("in.pad_mask").to(at::kBool).logical_not();
    expect_close(golden.file + " masked " + name, fresh->forward(x, valid),
                 golden.at(out + "masked_y"));
    check_buffers(golden, name, *fresh, "masked_");
  }
}

void check_added(const GoldenCase& golden) {
  const AddedNorm added =
      add_rms_norm(golden.at("in.x"), golden.at("in.residual"), golden.at("param.rms_norm.weight"),
                   golden.option("rms_eps", 1e-6));
  expect_close(golden.file + " sum", added.sum, golden.at("out.fused_add_rms.residual"));
  expect_close(golden.file + " norm", added.y, golden.at("out.fused_add_rms.y"));
}

TEST(golden, norm_baselines) {
  for (const GoldenCase& golden : golden_cases("norm_baselines")) {
    std::string done;
    for (const auto& [tensor, value] : golden.under("out.")) {
      const std::string name = tensor.substr(0, tensor.find('.'));
      if (name == done) continue;
      done = name;
      if (name == "fused_add_rms")
        check_added(golden);
      else
        check_norm(golden, name);
    }
  }
}

}  // namespace
}  // namespace formwork

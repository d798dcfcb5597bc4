#include "support/mixers.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "methods/position/position.h"

namespace formwork::test {

std::shared_ptr<Mixer> MixerCase::make() const {
  const c10::NoGradGuard no_grad;
  Site site = plain_site(width, heads, 11);
  site.causal = causal;
  site.cross = cross;
  PositionSite where;
  where.width = width;
  where.heads = heads;
  where.head_width = width / heads;
  where.length = 64;
  where.causal = causal;
  where.random = RandomStream(5);
  site.position = Choice<Position>(position).make(where);
  site.make_linear = [](const LinearSite& at) {
    LinearSite copy = at;
    copy.init.kind = "xavier_uniform";
    return Choice<Linear>("dense").make(copy);
  };
  Choice<Mixer> choice(kind);
  choice.set(options);
  std::shared_ptr<Mixer> mixer = choice.make(site);
  // Zero biases would hide a bias that is left out.
  uint64_t seed = 100;
  for (const Parameter& parameter : mixer->parameters())
    if (parameter.role == Role::bias || parameter.role == Role::norm)
      parameter.tensor.add_(0.3 * random_tensor(parameter.tensor.sizes(), ++seed, at::kFloat));
  mixer->to(at::kDouble);
  site.position->to(at::kDouble);
  return mixer;
}

Tensor random_tensor(at::IntArrayRef shape, uint64_t seed, at::ScalarType type) {
  return at::empty(shape, type).normal_(0.0, 1.0, generator_of(RandomStream(seed)));
}

Tensor run(Mixer& mixer, const Tensor& x, const Tensor& valid) {
  Stream stream;
  stream.valid = valid;
  return mixer.forward(x, stream);
}

Tensor feed(Mixer& mixer, const Tensor& x, State& state, const Tensor& valid) {
  Stream stream;
  stream.valid = valid;
  stream.positions = state.next_positions(x.size(1), valid);
  return mixer.forward(x, stream, &state);
}

Tensor lengths_mask(const std::vector<int64_t>& lengths, int64_t n) {
  return at::arange(n).unsqueeze(0) < at::tensor(lengths).unsqueeze(1);
}

void expect_same_row(const char* what, const State& a, const State& b, int64_t row) {
  EXPECT_EQ(a.length[row].item<int64_t>(), b.length[row].item<int64_t>()) << what;
  for (const auto& [name, tensor] : a.tensors)
    expect_same_bits((what + (": " + name)).c_str(), tensor[row], b.tensors.at(name)[row]);
}

void check_golden(const GoldenCase& golden, Mixer& mixer) {
  std::map<std::string, Tensor> parameters;
  for (const Parameter& parameter : mixer.parameters())
    parameters.emplace(parameter.name, parameter.tensor);
  const auto given = golden.under("param.");
  ASSERT_EQ(parameters.size(), given.size()) << golden.file;
  {
    const c10::NoGradGuard no_grad;
    for (const auto& [name, tensor] : given) parameters.at(name).set_data(tensor.clone());
  }
  const Tensor x = golden.at("in.x").clone().requires_grad_(true);
  const Tensor valid = golden.has("in.pad_mask") ? golden.at("in.pad_mask") > 0.5 : Tensor();
  const Tensor y = run(mixer, x, valid);
  expect_close(golden.file + " out.y", y, golden.at("out.y"));
  if (!golden.has("in.cotangent")) return;
  std::vector<Tensor> inputs{x};
  std::vector<std::string> names{"grad.in.x"};
  for (const auto& [name, tensor] : given) {
    inputs.push_back(parameters.at(name));
    names.push_back("grad.param." + name);
  }
  const auto gradients = torch::autograd::grad({(y * golden.at("in.cotangent")).sum()}, inputs);
  for (size_t i = 0; i < names.size(); ++i)
    if (golden.has(names[i]))
      expect_close(golden.file + " " + names[i], gradients[i], golden.at(names[i]));
}

MixerCase projected_case(const GoldenCase& golden, const std::string& kind) {
  MixerCase result;
  result.kind = kind;
  result.width = golden.at("in.x").size(2);
  result.heads = golden.option<int64_t>("heads", 1);
  result.causal = golden.option<bool>("causal", false);
  result.options.emplace_back("qkv_dim", Value(golden.at("param.q_proj.weight").size(0)));
  result.options.emplace_back("bias", Value(golden.has("param.q_proj.bias")));
  return result;
}

}  // namespace formwork::test

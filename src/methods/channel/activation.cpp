#include "methods/channel/activation.h"

#include "core/error.h"

namespace formwork {
namespace {

using at::Tensor;

struct Named {
  const char* name;
  Tensor (*function)(const Tensor&);
};

constexpr Named kActivations[] = {
    {"gelu", [](const Tensor& v) { return at::gelu(v, "none"); }},
    {"gelu_tanh", [](const Tensor& v) { return at::gelu(v, "tanh"); }},
    {"relu", [](const Tensor& v) { return at::relu(v); }},
    {"relu2", [](const Tensor& v) { return at::relu(v).square(); }},
    {"silu", [](const Tensor& v) { return at::silu(v); }},
    {"sigmoid", [](const Tensor& v) { return at::sigmoid(v); }},
    {"identity", [](const Tensor& v) { return v; }},
};

}  // namespace

const std::vector<std::string>& activation_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const Named& entry : kActivations) all.emplace_back(entry.name);
    return all;
  }();
  return names;
}

Tensor (*activation(const std::string& name))(const Tensor&) {
  for (const Named& entry : kActivations)
    if (name == entry.name) return entry.function;
  fail("activation", "no function is called ", name);
}

}  // namespace formwork

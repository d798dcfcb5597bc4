#include "methods/module.h"

#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>

#include <set>

#include "core/memory.h"
#include "core/options.h"

namespace formwork {
namespace {

constexpr std::pair<Role, const char*> kRoles[] = {
    {Role::query, "query"}, {Role::key, "key"},
    {Role::value, "value"}, {Role::output, "output"},
    {Role::up, "up"},       {Role::gate, "gate"},
    {Role::down, "down"},   {Role::embedding, "embedding"},
    {Role::head, "head"},   {Role::position, "position"},
    {Role::norm, "norm"},   {Role::bias, "bias"},
    {Role::other, "other"}};

std::string full_name(const std::string& prefix, const std::string& name) {
  if (prefix.empty()) return name;
  return name.empty() ? prefix : prefix + "." + name;
}

/// Memory for a tensor of parameters, asked for only where there is room for it.
Tensor empty_parameter(at::IntArrayRef shape) {
  double bytes = sizeof(float);
  for (const int64_t size : shape) bytes *= static_cast<double>(size);
  if (bytes > 1 << 28)  // smaller ones are not worth looking at the machine
    check_room(bytes, "model.width",
               join_text("for parameters of shape ", shape,
                         "; make model.width, model.depth or the vocabulary smaller"));
  return at::empty(shape);
}

}  // namespace

const char* role_name(Role role) {
  for (const auto& [value, name] : kRoles)
    if (value == role) return name;
  return "other";
}

Role role_from_name(const std::string& name, const std::string& where) {
  std::vector<std::string> valid;
  for (const auto& [value, text] : kRoles) {
    if (name == text) return value;
    valid.emplace_back(text);
  }
  refuse(where, unknown_name("role", name, valid));
}

void Module::visit(const std::string& prefix, std::unordered_set<const Module*>& seen,
                   const std::function<void(const std::string&, Module&)>& visitor) {
  if (!seen.insert(this).second) return;
  visitor(prefix, *this);
  for (const auto& [name, child] : children_) child->visit(full_name(prefix, name), seen, visitor);
}

void Module::visit(const std::function<void(const std::string&, Module&)>& visitor) {
  std::unordered_set<const Module*> seen;
  visit("", seen, visitor);
}

std::vector<Parameter> Module::parameters() const {
  std::vector<Parameter> all;
  std::set<const void*> seen;
  const_cast<Module*>(this)->visit([&](const std::string& prefix, Module& module) {
    for (const Parameter& parameter : module.own_parameters_) {
      if (!seen.insert(parameter.tensor.unsafeGetTensorImpl()).second) continue;
      all.push_back(parameter);
      all.back().name = full_name(prefix, parameter.name);
    }
  });
  return all;
}

std::vector<std::pair<std::string, Tensor>> Module::buffers() const {
  std::vector<std::pair<std::string, Tensor>> all;
  const_cast<Module*>(this)->visit([&](const std::string& prefix, Module& module) {
    for (const auto& [name, tensor] : module.own_buffers_)
      all.emplace_back(full_name(prefix, name), tensor);
  });
  return all;
}

std::map<std::string, Tensor> Module::named_tensors() const {
  std::map<std::string, Tensor> all;
  for (const Parameter& parameter : parameters()) all.emplace(parameter.name, parameter.tensor);
  for (const auto& [name, tensor] : buffers()) all.emplace(name, tensor);
  return all;
}

int64_t Module::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& parameter : parameters()) count += parameter.tensor.numel();
  return count;
}

void Module::to(at::ScalarType type) {
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : named_tensors())
    if (tensor.is_floating_point()) tensor.set_data(tensor.to(type));
}

void Module::to(const at::Device& device) {
  const c10::NoGradGuard no_grad;
  for (auto& [name, tensor] : named_tensors()) tensor.set_data(tensor.to(device));
}

void Module::train(bool on) {
  visit([on](const std::string&, Module& module) { module.training_ = on; });
}

Tensor Module::add_parameter(const std::string& name, const Tensor& start, Role role, double rate) {
  own_parameters_.push_back(
      {name, start.detach().contiguous().requires_grad_(true), role, 1.0, rate});
  return own_parameters_.back().tensor;
}

void Module::drop_parameter(const std::string& name) {
  std::erase_if(own_parameters_,
                [&](const Parameter& parameter) { return parameter.name == name; });
}

Tensor Module::add_buffer(const std::string& name, const Tensor& start) {
  own_buffers_.emplace_back(name, start);
  return start;
}

at::Generator generator_of(const RandomStream& stream) {
  return at::detail::createCPUGenerator(stream.key());
}

Tensor normal_tensor(at::IntArrayRef shape, double deviation, const RandomStream& stream) {
  return empty_parameter(shape).normal_(0.0, deviation, generator_of(stream));
}

Tensor uniform_tensor(at::IntArrayRef shape, double low, double high, const RandomStream& stream) {
  return empty_parameter(shape).uniform_(low, high, generator_of(stream));
}

}  // namespace formwork

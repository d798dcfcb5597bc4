#include "methods/state.h"

#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace formwork {

State::State(std::string owner, Forgetting forgetting, int64_t batch, int64_t capacity,
             int64_t slack)
    : length(at::zeros({batch}, at::kLong)),
      owner_(std::move(owner)),
      forgetting_(forgetting),
      capacity_(capacity),
      slack_(slack) {}

int64_t State::common_length() const {
  const auto lengths = length.accessor<int64_t, 1>();
  for (int64_t b = 1; b < lengths.size(0); ++b)
    if (lengths[b] != lengths[0]) return -1;
  return lengths.size(0) == 0 ? 0 : lengths[0];
}

Tensor State::next_positions(int64_t n, const Tensor& valid) const {
  const Tensor start = length.unsqueeze(1);
  if (!valid.defined()) return start + at::arange(n).unsqueeze(0);
  const Tensor real = valid.to(at::kCPU, at::kLong);
  return start + real.cumsum(1) - real;
}

void State::accept(const Tensor& x, const Tensor& valid) {
  check(x.size(0) == batch(), owner_, "the state has ", batch(), " rows and the input ", x.size(0),
        "; choose the rows with select(), or make a new state");
  check(!valid.defined() || valid.sizes() == x.sizes().slice(0, 2), owner_, "valid has shape ",
        valid.defined() ? valid.sizes() : at::IntArrayRef{}, "; valid: ", x.sizes().slice(0, 2),
        ", one entry a token");
  check(!(c10::GradMode::is_enabled() && x.requires_grad()), owner_,
        "decoding with a state keeps no gradients, but the input wants one; decode under "
        "c10::NoGradGuard or detach the input");
  for (const auto& [name, tensor] : tensors) {
    check(tensor.device() == x.device(), owner_, "the state lies on ", tensor.device().str(),
          " and the input on ", x.device().str(), "; move the state with to()");
    check(forgetting_ == Forgetting::snapshot || !tensor.is_floating_point() ||
              tensor.scalar_type() == x.scalar_type(),
          owner_, "the state holds ", tensor.scalar_type(), " and the input is ", x.scalar_type(),
          "; make the state with the input's type, or convert it with to()");
  }
  expect_room(x.size(1), valid);
  if (!in_block() || !overwrites()) return;
  block_.inputs.push_back(x.detach());
  block_.valid.push_back(valid.defined() ? valid.to(at::kCPU, at::kBool)
                                         : at::ones({x.size(0), x.size(1)}, at::kBool));
}

void State::advance(int64_t n, const Tensor& valid) {
  if (forgetting_ == Forgetting::fixed) return;
  // Out of place: a clone or an earlier reader may hold the old lengths.
  length = valid.defined() ? length + valid.to(at::kCPU, at::kLong).sum(1) : length + n;
}

void State::expect_room(int64_t n, const Tensor& valid) const {
  if (capacity_ < 0 || batch() == 0) return;
  // Where all tokens are valid, as when one is decoded, without an operator: each costs
  // microseconds.
  const int64_t* now = length.const_data_ptr<int64_t>();
  const int64_t longest =
      valid.defined() ? (length + valid.to(at::kCPU, at::kLong).sum(1)).max().item<int64_t>()
                      : *std::max_element(now, now + batch()) + n;
  check(longest <= capacity_, owner_, "the state holds ", capacity_,
        " tokens a row and would need ", longest, "; make it with a larger capacity");
}

State State::clone() const {
  State copy = *this;
  copy.block_ = {};
  copy.length = length.clone();
  for (auto& [name, tensor] : copy.tensors) tensor = tensor.clone();
  return copy;
}

State State::select(const Tensor& index) const {
  State chosen = *this;
  chosen.block_ = {};
  chosen.length = length.index_select(0, index);
  for (auto& [name, tensor] : chosen.tensors)
    tensor = tensor.index_select(0, index.to(tensor.device()));
  return chosen;
}

State State::merge(const std::vector<State>& parts) {
  if (parts.empty()) fail("state", "nothing to merge");
  State merged = parts.front();
  merged.block_ = {};
  std::vector<Tensor> lengths;
  for (const State& part : parts) {
    check(part.owner_ == merged.owner_ && part.capacity_ == merged.capacity_ &&
              part.tensors.size() == merged.tensors.size(),
          merged.owner_, "states of different capacity or kind cannot be merged");
    lengths.push_back(part.length);
  }
  merged.length = at::cat(lengths);
  for (auto& [name, tensor] : merged.tensors) {
    std::vector<Tensor> rows;
    for (const State& part : parts) {
      const Tensor& other = part.tensors.at(name);
      check(other.sizes().slice(1) == tensor.sizes().slice(1), merged.owner_, "rows of ", name,
            " with shapes ", tensor.sizes().slice(1), " and ", other.sizes().slice(1),
            " cannot stand in one state");
      rows.push_back(other);
    }
    tensor = at::cat(rows);
  }
  return merged;
}

void State::restore(int64_t row, const State& other, int64_t from) {
  for (auto& [name, tensor] : tensors) {
    const auto found = other.tensors.find(name);
    check(found != other.tensors.end() && found->second.sizes().slice(1) == tensor.sizes().slice(1),
          owner_, "row ", from, " of the other state has no ", name, " of shape ",
          tensor.sizes().slice(1), "; restore from a state of the same kind and capacity");
    tensor.select(0, row).copy_(found->second.select(0, from));
  }
  length = length.clone();
  length.select(0, row).copy_(other.length.select(0, from));
}

void State::reset(int64_t row) {
  for (auto& [name, tensor] : tensors) tensor.select(0, row).zero_();
  length = length.clone();
  length.select(0, row).zero_();
}

bool State::can_crop(const Tensor& n) const {
  if (n.numel() == 0) return true;
  const int64_t most = n.max().item<int64_t>();
  if (forgetting_ == Forgetting::ring) return most <= slack_;
  return forgetting_ != Forgetting::snapshot || most == 0;
}

void State::crop(const Tensor& n) {
  check(n.sizes() == length.sizes(), owner_, "tokens to forget have shape ", n.sizes(),
        "; valid: ", length.sizes(), ", one number a row");
  if (forgetting_ == Forgetting::fixed || n.numel() == 0) return;
  check(n.min().item<int64_t>() >= 0 && (n <= length).all().item<bool>(), owner_,
        "cannot forget fewer than 0 tokens or more than the row has");
  if (!can_crop(n)) {
    if (forgetting_ == Forgetting::snapshot)
      refuse(owner_, "a recurrent state cannot forget tokens; use begin() and commit()");
    refuse(owner_, "a ring with slack ", slack_, " cannot forget ", n.max().item<int64_t>(),
           " tokens; make the state with more slack, or use begin() and commit()");
  }
  length = length - n;
}

int64_t State::bytes() const {
  int64_t sum = 0;
  for (const auto& [name, tensor] : tensors) sum += static_cast<int64_t>(tensor.nbytes());
  return sum;
}

void State::to(at::ScalarType type, const at::Device& device) {
  // Recurrent sums stay in float32 or wider: rounding would accumulate.
  const bool keep_type = forgetting_ == Forgetting::snapshot;
  for (auto& [name, tensor] : tensors)
    tensor = tensor.is_floating_point() && !keep_type ? tensor.to(device, type) : tensor.to(device);
}

std::map<std::string, Tensor> State::serialise() const {
  std::map<std::string, Tensor> all = tensors;
  all.emplace("length", length);
  return all;
}

void State::deserialise(const std::map<std::string, Tensor>& from) {
  const auto& saved_length = from.find("length");
  check(saved_length != from.end() && saved_length->second.dim() == 1, owner_,
        "the saved state has no 'length' of shape [B]");
  const int64_t rows = saved_length->second.size(0);
  std::map<std::string, Tensor> read;
  for (const auto& [name, tensor] : tensors) {
    const auto found = from.find(name);
    check(found != from.end(), owner_, "the saved state has no tensor '", name, "'");
    const Tensor& saved = found->second;
    check(saved.dim() == tensor.dim() && saved.size(0) == rows &&
              saved.sizes().slice(1) == tensor.sizes().slice(1),
          owner_, "saved tensor '", name, "' has shape ", saved.sizes(), " where ", rows,
          " rows of ", tensor.sizes().slice(1), " are needed");
    read.emplace(name, saved.to(tensor.options(), /*non_blocking=*/false, /*copy=*/true));
  }
  // What a fixed state reads is made on first use: it takes what was saved.
  if (forgetting_ == Forgetting::fixed && tensors.empty())
    for (const auto& [name, tensor] : from)
      if (name != "length") read.emplace(name, tensor.clone());
  tensors = std::move(read);
  length = saved_length->second.to(at::kCPU, at::kLong).clone();
  block_ = {};
}

void State::begin() {
  check(!in_block(), owner_, "begin inside an open block; commit or roll back first");
  block_.length = length;
  if (overwrites())
    for (const auto& [name, tensor] : tensors) block_.tensors.emplace(name, tensor.clone());
}

void State::rollback() {
  check(in_block(), owner_, "rollback without begin");
  Block block = end_block();
  if (overwrites()) tensors = std::move(block.tensors);
  length = std::move(block.length);
}

Tensor State::fed() const {
  check(in_block(), owner_, "no block is open; call begin() before the tokens that may be dropped");
  return length - block_.length;
}

State::Block State::end_block() {
  return std::exchange(block_, Block{});
}

}  // namespace formwork

#include "methods/state.h"

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

void State::advance(int64_t n, const Tensor& valid) {
  // Out of place: a clone or an earlier reader may hold the old lengths.
  length = valid.defined() ? length + valid.to(at::kCPU, at::kLong).sum(1) : length + n;
}

void State::expect_room(int64_t n, const Tensor& valid) const {
  if (capacity_ < 0 || batch() == 0) return;
  const Tensor after = valid.defined() ? length + valid.to(at::kCPU, at::kLong).sum(1) : length + n;
  const int64_t longest = after.max().item<int64_t>();
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
    check(part.capacity_ == merged.capacity_ && part.tensors.size() == merged.tensors.size(),
          merged.owner_, "states of different capacity or kind cannot be merged");
    lengths.push_back(part.length);
  }
  merged.length = at::cat(lengths);
  for (auto& [name, tensor] : merged.tensors) {
    std::vector<Tensor> rows;
    for (const State& part : parts) rows.push_back(part.tensors.at(name));
    tensor = at::cat(rows);
  }
  return merged;
}

void State::restore(int64_t row, const State& other, int64_t from) {
  for (auto& [name, tensor] : tensors)
    tensor.select(0, row).copy_(other.tensors.at(name).select(0, from));
  length = length.clone();
  length.select(0, row).copy_(other.length.select(0, from));
}

void State::reset(int64_t row) {
  if (forgetting_ != Forgetting::fixed)
    for (auto& [name, tensor] : tensors) tensor.select(0, row).zero_();
  length = length.clone();
  length.select(0, row).zero_();
}

void State::crop(const Tensor& n) {
  if (n.numel() == 0 || n.max().item<int64_t>() == 0) return;
  check(n.min().item<int64_t>() >= 0 && (n <= length).all().item<bool>(), owner_,
        "cannot forget more tokens than the row has");
  switch (forgetting_) {
    case Forgetting::append_only:
      length = length - n;
      return;
    case Forgetting::fixed:
      return;
    case Forgetting::ring:
      check(n.max().item<int64_t>() <= slack_, owner_, "a ring with slack ", slack_,
            " cannot forget ", n.max().item<int64_t>(), " tokens; make the state with more slack");
      length = length - n;
      return;
    case Forgetting::snapshot:
      refuse(owner_, "a recurrent state cannot forget tokens; use begin() and commit()");
  }
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
  for (auto& [name, tensor] : serialise()) {
    const auto found = from.find(name);
    check(found != from.end(), owner_, "the saved state has no tensor '", name, "'");
    check(found->second.sizes().slice(1) == tensor.sizes().slice(1), owner_, "saved tensor '", name,
          "' has shape ", found->second.sizes(), " where ", tensor.sizes(), " is needed");
  }
  for (auto& [name, tensor] : tensors) tensor = from.at(name).clone();
  length = from.at("length").clone();
}

void State::begin() {
  check(!in_block(), owner_, "begin inside an open block; commit or roll back first");
  block_.snapshot.push_back(clone());
}

void State::rollback() {
  check(in_block(), owner_, "rollback without begin");
  State start = std::move(block_.snapshot.front());
  block_ = {};
  tensors = std::move(start.tensors);
  length = std::move(start.length);
}

}  // namespace formwork

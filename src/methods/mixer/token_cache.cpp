#include "methods/mixer/token_cache.h"

#include <algorithm>

#include "core/error.h"

namespace formwork {

Tensor CacheView::allowed() const {
  return (at::arange(total, places.options()) <= places.unsqueeze(-1)).unsqueeze(1);
}

void CacheView::limit(Scores& scores) const {
  const int64_t n = places.size(-1);
  scores.causal = together && total == n && n > 1;
  if (!together || (total > n && n > 1)) scores.allowed = allowed();
}

State make_token_cache(const char* owner, const std::vector<const char*>& names,
                       const std::vector<int64_t>& widths, int64_t heads, int64_t batch,
                       int64_t capacity, const at::TensorOptions& options) {
  check(capacity >= 1, owner, "a state for ", capacity,
        " tokens cannot hold keys and values; valid: at least 1");
  State state(owner, Forgetting::append_only, batch, capacity);
  for (size_t i = 0; i < names.size(); ++i)
    state.tensors[names[i]] = at::zeros({batch, heads, capacity, widths[i]}, options);
  return state;
}

CacheView write_tokens(State& state, const std::vector<std::pair<const char*, Tensor>>& tokens,
                       const Tensor& valid) {
  const Tensor& first = tokens.front().second;
  const int64_t batch = first.size(0), n = first.size(2);
  const int64_t start = state.common_length();
  CacheView view;
  view.together = start >= 0 && all_valid(valid);
  if (view.together) {
    view.places = at::arange(start, start + n, first.options().dtype(at::kLong))
                      .unsqueeze(0)
                      .narrow(0, 0, std::min<int64_t>(1, batch));
    view.total = start + n;
    for (const auto& [name, tensor] : tokens)
      state.tensors.at(name).narrow(2, start, n).copy_(tensor);
  } else {
    // Every valid token goes to its row's next place.
    view.places = state.next_positions(n, valid).to(first.device());
    const Tensor real =
        valid.defined() ? valid : at::ones({batch, n}, first.options().dtype(at::kBool));
    const std::vector<Tensor> at_token = at::where(real);
    const c10::List<std::optional<Tensor>> from({at_token[0], at_token[1]});
    const c10::List<std::optional<Tensor>> to({at_token[0], at::index(view.places, from)});
    for (const auto& [name, tensor] : tokens) {
      const Tensor kept = state.tensors.at(name).transpose(1, 2);
      kept.index_put_(to, at::index(tensor.transpose(1, 2), from).to(kept.scalar_type()));
    }
  }
  if (!view.together) {
    const Tensor after = state.length + (valid.defined() ? valid.to(at::kCPU, at::kLong).sum(1)
                                                         : at::full({batch}, n, at::kLong));
    view.total = std::max<int64_t>(1, after.max().item<int64_t>());
  }
  return view;
}

CacheView keep_tokens(State& state, const std::vector<std::pair<const char*, Tensor>>& tokens,
                      const Tensor& valid) {
  const CacheView view = write_tokens(state, tokens, valid);
  state.advance(tokens.front().second.size(2), valid);
  return view;
}

}  // namespace formwork

// The laws of decoding with a state (decode_state.md), for any causal mixer.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "support/mixers.h"

namespace formwork::test {
namespace {

constexpr int64_t kRows = 3, kTokens = 11, kCapacity = 40;

struct Decoding {
  Mixer& mixer;
  int64_t width;
  double tolerance;

  Tensor inputs(int64_t n, uint64_t seed) const { return random_tensor({kRows, n, width}, seed); }
  State fresh(int64_t rows = kRows) const { return mixer.make_state(rows, kCapacity, at::kDouble); }
  /// The outputs of one row's tokens [n,D] alone, without a state.
  Tensor alone(const Tensor& row) const { return run(mixer, row.unsqueeze(0)).squeeze(0); }

  void split_law() const {
    const Tensor x = inputs(kTokens, 1);
    const Tensor full = run(mixer, x);
    for (int64_t a = 0; a <= kTokens; ++a) {
      State state = fresh();
      std::vector<Tensor> parts;
      if (a > 0) parts.push_back(feed(mixer, x.narrow(1, 0, a), state));
      if (a < kTokens) parts.push_back(feed(mixer, x.narrow(1, a, kTokens - a), state));
      expect_near("two parts", at::cat(parts, 1), full, tolerance);
    }
    State state = fresh();
    std::vector<Tensor> steps;
    for (int64_t i = 0; i < kTokens; ++i) steps.push_back(feed(mixer, x.narrow(1, i, 1), state));
    expect_near("steps", at::cat(steps, 1), full, tolerance);
    EXPECT_EQ(state.common_length(), kTokens);
  }

  /// Rows with holes in any place: each is as its valid tokens alone, in one call or many.
  void ragged() const {
    const Tensor x = inputs(kTokens + 6, 2);
    const Tensor valid = random_tensor({kRows, kTokens + 6}, 3) > -0.4;
    valid[1].narrow(0, 0, kTokens).fill_(false);
    // What stands at invalid tokens does not matter, not even when it is infinite.
    const Tensor dirty = x.masked_fill(valid.logical_not().unsqueeze(-1), INFINITY);
    for (const std::vector<int64_t>& parts : {std::vector<int64_t>{17},
                                              {kTokens, 6},
                                              {4, 1, 1, 5, 1, 5},
                                              std::vector<int64_t>(17, 1)}) {
      State state = fresh();
      std::vector<Tensor> outputs;
      int64_t at = 0;
      for (const int64_t n : parts) {
        outputs.push_back(feed(mixer, dirty.narrow(1, at, n), state, valid.narrow(1, at, n)));
        at += n;
      }
      const Tensor y = at::cat(outputs, 1);
      expect_same_bits("outputs at invalid tokens", y.index({valid.logical_not()}),
                       at::zeros_like(y.index({valid.logical_not()})));
      for (int64_t b = 0; b < kRows; ++b) {
        const Tensor own = alone(x[b].index({valid[b]}));
        expect_near("a row of its own", y[b].index({valid[b]}), own, tolerance);
        EXPECT_EQ(state.length[b].item<int64_t>(), own.size(0));
      }
    }
  }

  void invalid_is_neutral() const {
    for (const int64_t n : {1, 5}) {
      State state = fresh();
      feed(mixer, inputs(7, 4), state, lengths_mask({7, 4, 0}, 7));
      const State before = state.clone();
      const Tensor none = at::zeros({kRows, n}, at::kBool);
      feed(mixer, inputs(n, 5), state, none);
      for (int64_t b = 0; b < kRows; ++b) expect_same_row("nothing valid", state, before, b);
      const Tensor one = none.clone();
      one[0].fill_(true);
      feed(mixer, inputs(n, 6), state, one);
      for (int64_t b = 1; b < kRows; ++b) expect_same_row("one row valid", state, before, b);
    }
  }

  void rows() const {
    const Tensor x = inputs(6, 7), next = inputs(3, 8);
    State state = fresh();
    feed(mixer, x, state, lengths_mask({6, 2, 5}, 6));
    State copy = state.clone();
    feed(mixer, next, copy);
    const State untouched = state.clone();
    for (int64_t b = 0; b < kRows; ++b) expect_same_row("clone", state, untouched, b);

    const Tensor index = at::tensor({2, 0, 2, 1}, at::kLong);
    State chosen = state.select(index);
    State whole = state.clone();
    const Tensor y = feed(mixer, next, whole);
    expect_near("select", feed(mixer, next.index_select(0, index), chosen),
                y.index_select(0, index), tolerance);

    State merged = State::merge(
        {state.select(at::tensor({1}, at::kLong)), state.select(at::tensor({0, 2}, at::kLong))});
    const Tensor order = at::tensor({1, 0, 2}, at::kLong);
    expect_near("merge", feed(mixer, next.index_select(0, order), merged), y.index_select(0, order),
                tolerance);

    State other = fresh();
    feed(mixer, inputs(4, 9), other);
    other.restore(1, state, 2);
    expect_near("restore",
                feed(mixer, next.index_select(0, at::tensor({0, 2, 1}, at::kLong)), other)[1], y[2],
                tolerance);
    other.reset(0);
    EXPECT_EQ(other.length[0].item<int64_t>(), 0);
    expect_near("reset", feed(mixer, next, other)[0], alone(next[0]), tolerance);

    State loaded = fresh();
    loaded.deserialise(state.serialise());
    for (int64_t b = 0; b < kRows; ++b) expect_same_row("load", loaded, state, b);
    expect_near("loaded", feed(mixer, next, loaded), y, tolerance);
  }

  /// What follows a state must be what follows the valid tokens that each row was fed.
  void expect_history(State& state, const std::vector<Tensor>& history) const {
    const Tensor next = inputs(3, 20);
    State copy = state.clone();
    const Tensor y = feed(mixer, next, copy);
    for (int64_t b = 0; b < kRows; ++b) {
      const int64_t row = static_cast<int64_t>(b);
      const Tensor& own = history[static_cast<size_t>(b)];
      EXPECT_EQ(state.length[row].item<int64_t>(), own.size(0));
      const Tensor both = alone(at::cat({own, next[row]}));
      expect_near("after the kept tokens", y[row], both.narrow(0, own.size(0), 3), tolerance);
    }
  }

  void speculation() const {
    const Tensor x = inputs(7, 10), draft = inputs(5, 11);
    const Tensor valid = lengths_mask({7, 3, 0}, 7);
    Tensor draft_valid = at::ones({kRows, 5}, at::kBool);
    draft_valid[1][2].fill_(false);
    State start = fresh();
    feed(mixer, x, start, valid);
    for (int64_t m = 0; m <= 5; ++m) {
      for (const bool holes : {false, true}) {
        State state = start.clone();
        const std::vector<int64_t> kept{m, std::min<int64_t>((m + 2) % 6, holes ? 4 : 5), 5 - m};
        state.begin();
        if (holes) {
          feed(mixer, draft.narrow(1, 0, 3), state, draft_valid.narrow(1, 0, 3));
          feed(mixer, draft.narrow(1, 3, 2), state, draft_valid.narrow(1, 3, 2));
        } else {
          feed(mixer, draft.narrow(1, 0, 4), state);
          feed(mixer, draft.narrow(1, 4, 1), state);
        }
        mixer.commit(state, at::tensor(kept));
        EXPECT_FALSE(state.in_block());
        std::vector<Tensor> history;
        for (int64_t b = 0; b < kRows; ++b) {
          Tensor fed = draft[b];
          if (holes) fed = fed.index({draft_valid[b]});
          history.push_back(
              at::cat({x[b].index({valid[b]}), fed.narrow(0, 0, kept[static_cast<size_t>(b)])}));
        }
        expect_history(state, history);
      }
    }
    State state = start.clone();
    expect_refused([&] { mixer.commit(state, at::zeros({kRows}, at::kLong)); }, "begin()");
    state.begin();
    feed(mixer, draft, state);
    expect_refused([&] { mixer.commit(state, at::full({kRows}, 6, at::kLong)); }, "keep");
    state.rollback();
    for (int64_t b = 0; b < kRows; ++b)
      EXPECT_EQ(state.length[b].item<int64_t>(), start.length[b].item<int64_t>());
    State again = start.clone();
    expect_near("rollback", feed(mixer, draft, state), feed(mixer, draft, again), tolerance);
  }

  void forgetting() const {
    const Tensor x = inputs(9, 12);
    State state = fresh();
    feed(mixer, x, state);
    const Tensor n = at::tensor({2, 0, 1}, at::kLong);
    if (!state.can_crop(n)) {
      expect_refused([&] { state.crop(n); }, state.owner());
      return;
    }
    state.crop(n);
    expect_history(state, {x[0].narrow(0, 0, 7), x[1], x[2].narrow(0, 0, 8)});
    expect_refused([&] { state.crop(at::full({kRows}, 99, at::kLong)); }, "forget");
  }

  void never_sees_the_future() const {
    const Tensor x = inputs(kTokens, 13);
    const Tensor y = run(mixer, x);
    for (int64_t j = 0; j < kTokens; ++j) {
      Tensor changed = x.clone();
      changed.select(1, j).add_(1.0);
      const Tensor z = run(mixer, changed);
      expect_near("outputs before a changed token", z.narrow(1, 0, j), y.narrow(1, 0, j), 1e-14);
      EXPECT_GT((z.select(1, j) - y.select(1, j)).abs().max().item<double>(), 1e-9);
    }
  }

  void refusals() const {
    State state = fresh();
    expect_refused([&] { feed(mixer, random_tensor({2, 1, width}, 1), state); }, "select()");
    expect_refused([&] { feed(mixer, inputs(2, 1).requires_grad_(true), state); }, "no gradients");
    if (state.capacity() >= 0)
      expect_refused([&] { feed(mixer, inputs(kCapacity + 1, 1), state); }, "capacity");
    if (state.forgetting() != Forgetting::snapshot)
      expect_refused([&] { feed(mixer, inputs(1, 1).to(at::kFloat), state); }, "type");
    EXPECT_EQ(state.common_length(), 0);
    state.begin();
    expect_refused([&] { state.begin(); }, "open block");
  }
};

}  // namespace

void check_decoding(Mixer& mixer, int64_t width, double tolerance) {
  const c10::NoGradGuard no_grad;
  mixer.eval();
  const Decoding decoding{mixer, width, tolerance};
  decoding.split_law();
  decoding.ragged();
  decoding.invalid_is_neutral();
  decoding.rows();
  decoding.speculation();
  decoding.forgetting();
  decoding.never_sees_the_future();
  const c10::AutoGradMode with_gradients(true);
  decoding.refusals();
}

}  // namespace formwork::test

#include <ATen/Parallel.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/rows.h"
#include "kernels/simd_levels.h"

namespace formwork::cpu {
namespace {

using at::Tensor;

/// Parts that the queries of a single head are divided into in the backward pass; a fixed number,
/// so that sums do not depend on the threads.
constexpr int64_t kParts = 4;
constexpr double kLogE = 1.4426950408889634;  // of 2: the tiles' softmax is a power of two

int64_t tiles_of(int64_t n) {
  return (n + kTile - 1) / kTile;
}
int64_t padded_width(int64_t width) {
  return (width + kWidthUnit - 1) / kWidthUnit * kWidthUnit;
}

struct Sizes {
  int64_t batch, heads, kv_heads, queries, keys, width, value_width;
  int64_t row_width, value_row_width, query_tiles, key_tiles;

  Sizes(const Tensor& q, const Tensor& k, const Tensor& v)
      : batch(q.size(0)),
        heads(q.size(1)),
        kv_heads(k.size(1)),
        queries(q.size(2)),
        keys(k.size(2)),
        width(q.size(3)),
        value_width(v.size(3)),
        row_width(padded_width(width)),
        value_row_width(padded_width(value_width)),
        query_tiles(tiles_of(queries)),
        key_tiles(tiles_of(keys)) {}
  int64_t group() const { return heads / kv_heads; }
};

/// One head of a tensor [B,H,N,C] whose channels lie side by side.
template <class T>
struct Head {
  T* data;
  int64_t stride;  // from row to row

  Head(const Tensor& x, int64_t b, int64_t h)
      : data(x.data_ptr<T>() + b * x.stride(0) + h * x.stride(1)), stride(x.stride(2)) {}
  T* row(int64_t n) const { return data + n * stride; }
};

void scale_row(float* row, int64_t channels, float factor) {
  if (factor == 1.0f) return;
  using L = Lanes<float>;
  int64_t c = 0;
  for (; c + L::kCount <= channels; c += L::kCount) L::store(row + c, L::load(row + c) * factor);
  for (; c < channels; ++c) row[c] *= factor;
}

/// Rows first .. first+count-1 as float32, `factor` times, each filled up with zeros to `width`.
template <class T>
void pack_rows(const Head<T>& from, int64_t first, int64_t count, int64_t channels, int64_t width,
               float factor, float* to) {
  for (int64_t n = 0; n < count; ++n, to += width) {
    widen(from.row(first + n), to, channels);
    scale_row(to, channels, factor);
    std::fill(to + channels, to + width, 0.0f);
  }
}

/// [tiles][channels][kTile] from rows [tiles·kTile][row_width].
void lay_across(const float* rows, int64_t tiles, int64_t channels, int64_t row_width, float* to) {
  for (int64_t tile = 0; tile < tiles; ++tile, to += channels * kTile, rows += kTile * row_width)
    for (int64_t first = 0; first < kTile; first += 16)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t n = first; n < first + 16; ++n) to[c * kTile + n] = rows[n * row_width + c];
}

/// The packed keys and values of one head at a time, in memory that its thread keeps.
template <class T>
class Packer {
 public:
  Packer(const Sizes& sizes, const Tensor& k, const Tensor& v, const AttentionRule& rule,
         bool backward)
      : s_(sizes), k_(k), v_(v), rule_(rule), backward_(backward) {
    const size_t padded = static_cast<size_t>(sizes.key_tiles * kTile);
    key_rows_.assign(padded * static_cast<size_t>(sizes.row_width), 0.0f);
    value_rows_.assign(padded * static_cast<size_t>(sizes.value_row_width), 0.0f);
    keys_across_.resize(padded * static_cast<size_t>(sizes.width));
    if (backward) values_across_.resize(padded * static_cast<size_t>(sizes.value_width));
    shut_.resize(padded);
    any_shut_.resize(static_cast<size_t>(sizes.key_tiles));
  }

  const PackedKeys& head(int64_t b, int64_t kv_head) {
    if (b == batch_ && kv_head == kv_head_) return packed_;
    if (b != batch_) close_keys(b);
    batch_ = b;
    kv_head_ = kv_head;
    pack_rows(Head<T>(k_, b, kv_head), 0, s_.keys, s_.width, s_.row_width, 1.0f, key_rows_.data());
    pack_rows(Head<T>(v_, b, kv_head), 0, s_.keys, s_.value_width, s_.value_row_width, 1.0f,
              value_rows_.data());
    lay_across(key_rows_.data(), s_.key_tiles, s_.width, s_.row_width, keys_across_.data());
    if (backward_)
      lay_across(value_rows_.data(), s_.key_tiles, s_.value_width, s_.value_row_width,
                 values_across_.data());
    packed_ = {s_.keys,          s_.width,           s_.row_width,
               s_.value_width,   s_.value_row_width, keys_across_.data(),
               key_rows_.data(), value_rows_.data(), values_across_.data(),
               shut_.data(),     any_shut_.data()};
    return packed_;
  }

 private:
  void close_keys(int64_t b) {
    const bool* valid =
        rule_.key_valid.defined() ? rule_.key_valid.data_ptr<bool>() + b * s_.keys : nullptr;
    std::fill(any_shut_.begin(), any_shut_.end(), uint8_t{0});
    for (int64_t n = 0; n < s_.key_tiles * kTile; ++n) {
      const bool open = n < s_.keys && (!valid || valid[n]);
      shut_[static_cast<size_t>(n)] = open ? 0.0f : -std::numeric_limits<float>::infinity();
      if (!open) any_shut_[static_cast<size_t>(n / kTile)] = 1;
    }
  }

  const Sizes& s_;
  const Tensor &k_, &v_;
  const AttentionRule& rule_;
  bool backward_;
  int64_t batch_ = -1, kv_head_ = -1;
  std::vector<float> key_rows_, value_rows_, keys_across_, values_across_, shut_;
  std::vector<uint8_t> any_shut_;
  PackedKeys packed_;
};

QueryTile query_tile(const Sizes& s, const AttentionRule& rule, int64_t first, const float* rows) {
  QueryTile tile;
  tile.rows = rows;
  tile.count = std::min(kTile, s.queries - first);
  tile.causal = rule.causal;
  tile.last_key = first + s.keys - s.queries;
  return tile;
}

/// [B,H,N,C] that lies in memory as [B,N,H,C].
Tensor heads_inside(const Tensor& like, int64_t b, int64_t h, int64_t n, int64_t c) {
  return at::empty({b, n, h, c}, like.options()).transpose(1, 2);
}

template <class T>
void forward_tiles(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                   const AttentionRule& rule, AttentionForward& result) {
  const AttentionTiles& tiles = *simd_levels().front().attention;
  const float factor = static_cast<float>(rule.scale * kLogE);
  float* log_sums = result.log_sum.template data_ptr<float>();
  at::parallel_for(0, s.batch * s.heads * s.query_tiles, 1, [&](int64_t begin, int64_t end) {
    Packer<T> packer(s, k, v, rule, false);
    std::vector<float> rows(static_cast<size_t>(kTile * s.row_width));
    std::vector<float> out(static_cast<size_t>(kTile * s.value_row_width));
    std::vector<float> scores(static_cast<size_t>(kTile * kTile));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % s.query_tiles * kTile;
      const int64_t head = item / s.query_tiles;
      const int64_t b = head / s.heads, h = head % s.heads;
      const QueryTile tile = query_tile(s, rule, first, rows.data());
      pack_rows(Head<T>(q, b, h), first, tile.count, s.width, s.row_width, factor, rows.data());
      tiles.forward(packer.head(b, h / s.group()), tile, out.data(),
                    log_sums + head * s.queries + first, scores.data());
      const Head<T> to(result.out, b, h);
      for (int64_t r = 0; r < tile.count; ++r)
        narrow(out.data() + r * s.value_row_width, to.row(first + r), s.value_width);
    }
  });
}

/// What a thread needs for the gradient of one head of keys after the other.
template <class T>
class BackwardWorker {
 public:
  BackwardWorker(const Sizes& sizes, const AttentionRule& rule, const Tensor& gradient,
                 const Tensor& q, const Tensor& k, const Tensor& v, const AttentionForward& forward)
      : s_(sizes),
        rule_(rule),
        gradient_(gradient),
        q_(q),
        forward_(forward),
        packer_(sizes, k, v, rule, true),
        rows_(static_cast<size_t>(kTile * sizes.row_width)),
        query_gradient_(rows_.size()),
        slope_rows_(static_cast<size_t>(kTile * sizes.value_row_width)),
        out_rows_(slope_rows_.size()),
        weights_(static_cast<size_t>(kTile * kTile)),
        slopes_(weights_.size()),
        key_gradient_(static_cast<size_t>(sizes.key_tiles * kTile * sizes.row_width)),
        value_gradient_(static_cast<size_t>(sizes.key_tiles * kTile * sizes.value_row_width)) {}

  void head(int64_t b, int64_t kv_head, AttentionBackward& result) {
    part(b, kv_head, 0, 1, result);
    finish(b, kv_head, result);
  }

  /// Every `parts`-th tile of queries of a head from `first_tile` on; add() and finish() follow.
  void part(int64_t b, int64_t kv_head, int64_t first_tile, int64_t parts,
            AttentionBackward& result) {
    std::fill(key_gradient_.begin(), key_gradient_.end(), 0.0f);
    std::fill(value_gradient_.begin(), value_gradient_.end(), 0.0f);
    for (int64_t h = kv_head * s_.group(); h < (kv_head + 1) * s_.group(); ++h)
      for (int64_t first = first_tile * kTile; first < s_.queries; first += parts * kTile)
        tile(b, h, kv_head, first, result);
  }

  /// Adds what another part has found for the same keys and values.
  void add(const BackwardWorker& other) {
    for (size_t i = 0; i < key_gradient_.size(); ++i) key_gradient_[i] += other.key_gradient_[i];
    for (size_t i = 0; i < value_gradient_.size(); ++i)
      value_gradient_[i] += other.value_gradient_[i];
  }

  void finish(int64_t b, int64_t kv_head, AttentionBackward& result) {
    // The tiles saw queries that were log2(e)·scale times the real ones.
    put(key_gradient_, Head<T>(result.k, b, kv_head), 0, s_.keys, s_.width, s_.row_width,
        static_cast<float>(1.0 / kLogE));
    put(value_gradient_, Head<T>(result.v, b, kv_head), 0, s_.keys, s_.value_width,
        s_.value_row_width, 1.0f);
  }

 private:
  void tile(int64_t b, int64_t h, int64_t kv_head, int64_t first, AttentionBackward& result) {
    const QueryTile queries = query_tile(s_, rule_, first, rows_.data());
    pack_rows(Head<T>(q_, b, h), first, queries.count, s_.width, s_.row_width,
              static_cast<float>(rule_.scale * kLogE), rows_.data());
    pack_rows(Head<T>(gradient_, b, h), first, queries.count, s_.value_width, s_.value_row_width,
              1.0f, slope_rows_.data());
    pack_rows(Head<T>(forward_.out, b, h), first, queries.count, s_.value_width, s_.value_row_width,
              1.0f, out_rows_.data());
    const float* log_sum =
        forward_.log_sum.template data_ptr<float>() + (b * s_.heads + h) * s_.queries + first;
    simd_levels().front().attention->backward(packer_.head(b, kv_head), queries, slope_rows_.data(),
                                              out_rows_.data(), log_sum, query_gradient_.data(),
                                              key_gradient_.data(), value_gradient_.data(),
                                              weights_.data(), slopes_.data());
    put(query_gradient_, Head<T>(result.q, b, h), first, queries.count, s_.width, s_.row_width,
        static_cast<float>(rule_.scale));
  }

  void put(std::vector<float>& rows, const Head<T>& to, int64_t first, int64_t count,
           int64_t channels, int64_t width, float factor) {
    for (int64_t r = 0; r < count; ++r) {
      float* row = rows.data() + r * width;
      scale_row(row, channels, factor);
      narrow(row, to.row(first + r), channels);
    }
  }

  const Sizes& s_;
  const AttentionRule& rule_;
  const Tensor &gradient_, &q_;
  const AttentionForward& forward_;
  Packer<T> packer_;
  std::vector<float> rows_, query_gradient_, slope_rows_, out_rows_, weights_, slopes_;
  std::vector<float> key_gradient_, value_gradient_;
};

}  // namespace

AttentionForward attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const AttentionRule& rule) {
  RECORD_FUNCTION("formwork::attention", std::vector<c10::IValue>({q, k, rule.causal}));
  const Sizes s(q, k, v);
  AttentionForward result;
  result.out = heads_inside(q, s.batch, s.heads, s.queries, s.value_width);
  result.log_sum = at::empty({s.batch, s.heads, s.queries}, q.options().dtype(at::kFloat));
  if (q.scalar_type() == at::kFloat)
    forward_tiles<float>(s, q, k, v, rule, result);
  else
    forward_tiles<c10::BFloat16>(s, q, k, v, rule, result);
  return result;
}

AttentionBackward attention_backward(const Tensor& gradient, const Tensor& q, const Tensor& k,
                                     const Tensor& v, const AttentionForward& forward,
                                     const AttentionRule& rule) {
  RECORD_FUNCTION("formwork::attention_backward", std::vector<c10::IValue>({q, k, rule.causal}));
  const Sizes s(q, k, v);
  AttentionBackward result;
  result.q = heads_inside(q, s.batch, s.heads, s.queries, s.width);
  result.k = heads_inside(k, s.batch, s.kv_heads, s.keys, s.width);
  result.v = heads_inside(v, s.batch, s.kv_heads, s.keys, s.value_width);
  const int64_t parts = s.batch * s.kv_heads == 1 ? std::min(kParts, s.query_tiles) : 1;
  const auto run = [&](auto type) {
    using Worker = BackwardWorker<decltype(type)>;
    if (parts > 1) {
      std::vector<std::unique_ptr<Worker>> workers(static_cast<size_t>(parts));
      at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          auto& worker = workers[static_cast<size_t>(i)];
          worker = std::make_unique<Worker>(s, rule, gradient, q, k, v, forward);
          worker->part(0, 0, i, parts, result);
        }
      });
      for (int64_t i = 1; i < parts; ++i) workers.front()->add(*workers[static_cast<size_t>(i)]);
      workers.front()->finish(0, 0, result);
      return;
    }
    at::parallel_for(0, s.batch * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
      Worker worker(s, rule, gradient, q, k, v, forward);
      for (int64_t item = begin; item < end; ++item)
        worker.head(item / s.kv_heads, item % s.kv_heads, result);
    });
  };
  if (q.scalar_type() == at::kFloat)
    run(float{});
  else
    run(c10::BFloat16{});
  return result;
}

}  // namespace formwork::cpu

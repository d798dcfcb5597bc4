#include <ATen/record_function.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/attention.h"
#include "kernels/attention_sight.h"
#include "kernels/attention_stream.h"
#include "kernels/attention_turn.h"
#include "kernels/rows.h"
#include "kernels/simd_levels.h"
#include "kernels/turns.h"

namespace formwork::cpu {
namespace {

using at::Tensor;

/// Items that the backward pass is divided into at least, where there are as many tiles of queries;
/// a fixed number, so that sums do not depend on the threads.
constexpr int64_t kLeastItems = 4;
/// Tiles of queries that are taken at once at most: each tile of keys, in the backward pass with
/// its gradients, is fetched for all of them, and 4 of them stay in half a megabyte of cache.
constexpr int64_t kMostTogether = 4;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kLogE = 1.4426950408889634;  // of 2: the tiles' softmax is a power of two

/// One head of a tensor [B,H,N,C] whose channels lie side by side.
template <class T>
struct Head {
  T* data;
  int64_t stride;  // from row to row

  Head(const Tensor& x, int64_t b, int64_t h)
      : data(x.data_ptr<T>() + b * x.stride(0) + h * x.stride(1)), stride(x.stride(2)) {}
  T* row(int64_t n) const { return data + n * stride; }
};

/// Float32 rows, in the tensor itself or packed.
struct FloatRows {
  const float* data;
  int64_t stride;
  const float* row(int64_t n) const { return data + n * stride; }
};

/// FloatRows first .. first+count-1 as float32, each filled up with zeros to `width`.
template <class T>
FloatRows pack_rows(const Head<T>& from, int64_t first, int64_t count, int64_t channels,
                    int64_t width, const Scratch& memory) {
  float* to = memory.data();
  for (int64_t n = 0; n < count; ++n, to += width) {
    widen(from.row(first + n), to, channels);
    std::fill(to + channels, to + width, 0.0f);
  }
  return {memory.data(), width};
}

/// The same rows where they lie, if that serves a product which reads them number by number.
template <class T>
FloatRows read_rows(const Head<T>& from, int64_t first, int64_t count, int64_t channels,
                    const Scratch& memory) {
  if constexpr (std::is_same_v<T, float>)
    return {from.row(first), from.stride};
  else
    return pack_rows(from, first, count, channels, channels, memory);
}

/// Memory for read_rows.
template <class T>
Scratch unless_float(int64_t count) {
  return std::is_same_v<T, float> ? Scratch() : Scratch(count);
}

/// What a spot's queries see of the tile of keys from `key` on, and where that lies.
KeyTile key_tile(const Sight& sight, const Sight::Spot& spot, int64_t key, const FloatRows& keys,
                 const FloatRows& values) {
  KeyTile tile = sight.look(spot, key);
  tile.keys = keys.row(key);
  tile.key_stride = keys.stride;
  tile.values = values.row(key);
  tile.value_stride = values.stride;
  return tile;
}

/// factor · from into `to`, which may be `from`.
void scale_row(const float* from, int64_t n, float factor, float* to) {
  using L = Lanes<float>;
  int64_t c = 0;
  for (; c + L::kCount <= n; c += L::kCount) L::store(to + c, L::load(from + c) * factor);
  for (; c < n; ++c) to[c] = from[c] * factor;
}

/// `factor` times rows [count][width] into rows of a head; the rows themselves may change.
template <class T>
void put_rows(float* rows, int64_t count, int64_t channels, int64_t width, float factor,
              const Head<T>& to, int64_t first) {
  for (int64_t n = 0; n < count; ++n, rows += width) {
    if constexpr (std::is_same_v<T, float>) {
      scale_row(rows, channels, factor, to.row(first + n));
    } else {
      scale_row(rows, channels, factor, rows);
      narrow(rows, to.row(first + n), channels);
    }
  }
}

/// [B,H,N,C] that lies in memory as [B,N,H,C].
Tensor heads_inside(const Tensor& like, int64_t b, int64_t h, int64_t n, int64_t c) {
  return at::empty({b, n, h, c}, like.options()).transpose(1, 2);
}

struct Inputs {
  const AttentionSizes& sizes;
  const Sight& sight;
  const AttentionTiles& tiles;
  const Turn& turn;
  float scale;
  const Tensor &q, &k, &v;

  /// Place of a query among the keys.
  int64_t place(int64_t query) const { return query + sizes.keys - sizes.queries; }
};

/// A tile of queries in the forward pass and its softmax so far.
struct OpenQueries {
  explicit OpenQueries(const AttentionSizes& s)
      : across(kTile * s.width), out(kTile * s.padded_value_width) {}

  Scratch across, out;
  Sight::Spot spot;
  Sight::Range seen{0, 0};
  QueryTile queries;
  RunningSoftmax softmax;
};

/// The outputs of one group of tiles of queries after the other.
template <class T>
class ForwardWorker {
 public:
  ForwardWorker(const Inputs& in, const AttentionResult& result)
      : in_(in),
        s_(in.sizes),
        result_(result),
        keys_memory_(s_.keys * s_.width),
        values_memory_(s_.keys * s_.padded_value_width),
        rows_memory_(kTile * s_.width),
        scores_(kTile * kTile) {}

  /// Tiles first .. last - 1 of a head.
  void tiles(int64_t b, int64_t h, int64_t first, int64_t last) {
    load(b, h / s_.group());
    while (static_cast<int64_t>(open_.size()) < last - first)
      open_.push_back(std::make_unique<OpenQueries>(s_));
    int64_t begin = s_.keys, end = 0;
    for (int64_t i = 0; i < last - first; ++i) {
      const Sight::Range seen = open(b, h, (first + i) * kTile, *open_[i]);
      begin = std::min(begin, seen.begin);
      end = std::max(end, seen.end);
    }
    for (int64_t key = begin / kTile * kTile; key < end; key += kTile)
      for (int64_t i = 0; i < last - first; ++i) multiply(*open_[i], key);
    for (int64_t i = 0; i < last - first; ++i) finish(*open_[i]);
  }

 private:
  /// Rows of queries or keys, turned where the rule says so; the first has place `place`.
  FloatRows rows_to_multiply(const Tensor& x, int64_t b, int64_t h, int64_t first, int64_t count,
                             const Scratch& memory, int64_t place) const {
    if (!in_.turn) return read_rows(Head<T>(x, b, h), first, count, s_.width, memory);
    const FloatRows rows = pack_rows(Head<T>(x, b, h), first, count, s_.width, s_.width, memory);
    in_.turn(memory.data(), s_.width, count, b, place);
    return rows;
  }

  /// Packs queries; gives the keys they see.
  Sight::Range open(int64_t b, int64_t h, int64_t first, OpenQueries& tile) const {
    tile.spot.batch = b;
    tile.spot.head = h;
    tile.spot.first = first;
    const int64_t count = tile.spot.count = std::min(kTile, s_.queries - first);
    const FloatRows rows =
        rows_to_multiply(in_.q, b, h, first, count, rows_memory_, in_.place(first));
    in_.tiles.lay_across(rows.data, rows.stride, count, s_.width,
                         in_.scale * static_cast<float>(kLogE), tile.across.data());
    tile.queries.count = count;
    tile.queries.width = s_.width;
    tile.queries.value_width = s_.value_width;
    tile.queries.across = tile.across.data();
    tile.softmax.out = tile.out.data();
    std::fill_n(tile.softmax.most, kTile, -kInfinity);
    std::fill_n(tile.softmax.total, kTile, 0.0f);
    std::fill_n(tile.softmax.out, count * s_.padded_value_width, 0.0f);
    return tile.seen = in_.sight.range(first, count);
  }

  void multiply(OpenQueries& tile, int64_t key) const {
    if (key + kTile <= tile.seen.begin || key >= tile.seen.end) return;
    const KeyTile keys = key_tile(in_.sight, tile.spot, key, keys_, values_);
    if (keys.count > 0) in_.tiles.forward(tile.queries, keys, tile.softmax, scores_.data());
  }

  void finish(OpenQueries& tile) const {
    const int64_t b = tile.spot.batch, h = tile.spot.head, first = tile.spot.first;
    float* log_sum = result_.log_sum_exp.template data_ptr<float>();
    in_.tiles.finish(tile.queries, tile.softmax, log_sum + (b * s_.heads + h) * s_.queries + first);
    put_rows(tile.softmax.out, tile.spot.count, s_.value_width, s_.padded_value_width, 1.0f,
             Head<T>(result_.out, b, h), first);
  }

  void load(int64_t b, int64_t kv_head) {
    if (b == batch_ && kv_head == kv_head_) return;
    batch_ = b;
    kv_head_ = kv_head;
    keys_ = rows_to_multiply(in_.k, b, kv_head, 0, s_.keys, keys_memory_, 0);
    values_ = pack_rows(Head<T>(in_.v, b, kv_head), 0, s_.keys, s_.value_width,
                        s_.padded_value_width, values_memory_);
  }

  const Inputs& in_;
  const AttentionSizes& s_;
  const AttentionResult& result_;
  Scratch keys_memory_, values_memory_, rows_memory_, scores_;
  std::vector<std::unique_ptr<OpenQueries>> open_;
  int64_t batch_ = -1, kv_head_ = -1;
  FloatRows keys_, values_;
};

template <class T>
void forward_tiles(const Inputs& in, const AttentionResult& result) {
  const AttentionSizes& s = in.sizes;
  // A head's tiles stay together where there are heads enough: its keys are packed once.
  const int64_t heads = s.batch * s.heads;
  const int64_t most = std::max<int64_t>(1, 4 * at::get_num_threads() / heads);
  const int64_t chunks = std::min(s.query_tiles, most);
  in_turns(
      heads * chunks, [&] { return ForwardWorker<T>(in, result); },
      [&](ForwardWorker<T>& worker, int64_t item) {
        const int64_t head = item / chunks;
        // The last queries first: under causal rules they have the most to do.
        const int64_t chunk = chunks - 1 - item % chunks;
        const int64_t first = s.query_tiles * chunk / chunks;
        for (int64_t end = s.query_tiles * (chunk + 1) / chunks; end > first; end -= kMostTogether)
          worker.tiles(head / s.heads, head % s.heads, std::max(first, end - kMostTogether), end);
      });
}

/// Where gradients of the biases are summed.
struct BiasSums {
  Tensor bias;     // as the bias itself, float32; undefined where nobody asks
  Tensor offsets;  // [parts,B,H,Nq+Nk-1] float64, in the order that Sight has
};

/// A tile of queries in the backward pass: packed queries and gradients, what the softmax of each
/// query was, and the gradient so far.
struct OpenTile {
  explicit OpenTile(const AttentionSizes& s)
      : rows(kTile * s.padded_width),
        across(kTile * s.width),
        gradient(kTile * s.padded_width),
        out_gradient_rows(kTile * s.padded_value_width),
        out_gradient_across(kTile * s.value_width) {}

  Scratch rows, across, gradient, out_gradient_rows, out_gradient_across;
  alignas(64) float log_sum[kTile];
  alignas(64) float inner[kTile];
  Sight::Spot spot;
  Sight::Range seen{0, 0};
  QueryTile queries;
};

/// What a thread needs for the gradient of one head of keys after the other.
template <class T>
class BackwardWorker {
 public:
  /// `together` tiles of queries are open at once.
  BackwardWorker(const Inputs& in, const AttentionSlopes& slopes, const AttentionResult& forward,
                 const AttentionBackward& result, const BiasSums& sums, int64_t part,
                 int64_t together)
      : in_(in),
        s_(in.sizes),
        slopes_(slopes),
        forward_(forward),
        result_(result),
        sums_(sums),
        part_(part),
        keys_memory_(s_.keys * s_.padded_width),
        values_memory_(unless_float<T>(s_.keys * s_.value_width)),
        key_gradient_(s_.keys * s_.padded_width),
        value_gradient_(s_.keys * s_.padded_value_width),
        out_memory_(unless_float<T>(kTile * s_.value_width)),
        weights_(kTile * kTile),
        score_gradient_(kTile * kTile) {
    for (int64_t i = 0; i < together; ++i) tiles_.push_back(std::make_unique<OpenTile>(s_));
  }

  /// One of `parts` groups of tiles in each round, so that all parts see early and late queries;
  /// finish() follows.
  void head(int64_t b, int64_t kv_head, int64_t parts) {
    keys_ =
        pack_rows(Head<T>(in_.k, b, kv_head), 0, s_.keys, s_.width, s_.padded_width, keys_memory_);
    in_.turn(keys_memory_.data(), s_.padded_width, s_.keys, b, 0);
    values_ = read_rows(Head<T>(in_.v, b, kv_head), 0, s_.keys, s_.value_width, values_memory_);
    std::fill_n(key_gradient_.data(), s_.keys * s_.padded_width, 0.0f);
    std::fill_n(value_gradient_.data(), s_.keys * s_.padded_value_width, 0.0f);
    const int64_t together = static_cast<int64_t>(tiles_.size());
    const int64_t groups = (s_.query_tiles + together - 1) / together;
    for (int64_t h = kv_head * s_.group(); h < (kv_head + 1) * s_.group(); ++h)
      for (int64_t round = 0; round * parts < groups; ++round) {
        const int64_t group = round * parts + (round % 2 == 0 ? part_ : parts - 1 - part_);
        if (group < groups) query_tiles(b, h, group * together);
      }
  }

  /// Adds what another part has found for the same keys and values.
  void add(const BackwardWorker& other) {
    add(other.key_gradient_, s_.keys * s_.padded_width, key_gradient_);
    add(other.value_gradient_, s_.keys * s_.padded_value_width, value_gradient_);
  }

  void finish(int64_t b, int64_t kv_head) {
    in_.turn(key_gradient_.data(), s_.padded_width, s_.keys, b, 0, true);
    put_rows(key_gradient_.data(), s_.keys, s_.width, s_.padded_width, in_.scale,
             Head<T>(result_.k, b, kv_head), 0);
    put_rows(value_gradient_.data(), s_.keys, s_.value_width, s_.padded_value_width, 1.0f,
             Head<T>(result_.v, b, kv_head), 0);
  }

 private:
  static void add(const Scratch& from, int64_t count, const Scratch& to) {
    for (int64_t i = 0; i < count; ++i) to.data()[i] += from.data()[i];
  }

  void query_tiles(int64_t b, int64_t h, int64_t first) {
    const int64_t count = std::min(static_cast<int64_t>(tiles_.size()), s_.query_tiles - first);
    int64_t begin = s_.keys, end = 0;
    for (int64_t i = 0; i < count; ++i) {
      const Sight::Range seen = open(b, h, (first + i) * kTile, *tiles_[i]);
      begin = std::min(begin, seen.begin);
      end = std::max(end, seen.end);
    }
    for (int64_t key = begin / kTile * kTile; key < end; key += kTile)
      for (int64_t i = 0; i < count; ++i) multiply(*tiles_[i], key);
    for (int64_t i = 0; i < count; ++i) {
      const OpenTile& tile = *tiles_[i];
      in_.turn(tile.gradient.data(), s_.padded_width, tile.spot.count, b,
               in_.place(tile.spot.first), true);
      put_rows(tile.gradient.data(), tile.spot.count, s_.width, s_.padded_width, in_.scale,
               Head<T>(result_.q, b, h), tile.spot.first);
    }
  }

  void multiply(const OpenTile& tile, int64_t key) {
    if (key + kTile <= tile.seen.begin || key >= tile.seen.end) return;
    const KeyTile keys = key_tile(in_.sight, tile.spot, key, keys_, values_);
    if (keys.count == 0) return;
    in_.tiles.backward(tile.queries, keys,
                       {tile.gradient.data(), key_gradient_.data() + key * s_.padded_width,
                        value_gradient_.data() + key * s_.padded_value_width, weights_.data(),
                        score_gradient_.data()});
    add_biases(tile.spot, keys, key);
  }

  /// Packs queries, gradients and what the softmax of each query was; gives the keys they see.
  Sight::Range open(int64_t b, int64_t h, int64_t first, OpenTile& tile) {
    tile.spot.batch = b;
    tile.spot.head = h;
    tile.spot.first = first;
    tile.spot.count = std::min(kTile, s_.queries - first);
    const int64_t count = tile.spot.count;
    const FloatRows rows =
        pack_rows(Head<T>(in_.q, b, h), first, count, s_.width, s_.padded_width, tile.rows);
    in_.turn(tile.rows.data(), s_.padded_width, count, b, in_.place(first));
    in_.tiles.lay_across(rows.data, rows.stride, count, s_.width,
                         in_.scale * static_cast<float>(kLogE), tile.across.data());
    const FloatRows gradient = pack_rows(Head<T>(slopes_.out, b, h), first, count, s_.value_width,
                                         s_.padded_value_width, tile.out_gradient_rows);
    in_.tiles.lay_across(gradient.data, gradient.stride, count, s_.value_width, 1.0f,
                         tile.out_gradient_across.data());
    const FloatRows out =
        read_rows(Head<T>(forward_.out, b, h), first, count, s_.value_width, out_memory_);
    const int64_t at = (b * s_.heads + h) * s_.queries + first;
    const float* log_sum = forward_.log_sum_exp.template data_ptr<float>() + at;
    for (int64_t r = 0; r < kTile; ++r) {
      const bool some = r < count && log_sum[r] != -kInfinity;
      tile.log_sum[r] = some ? log_sum[r] * static_cast<float>(kLogE) : kInfinity;
    }
    std::fill_n(tile.inner, kTile, 0.0f);
    for (int64_t r = 0; r < count; ++r)
      tile.inner[r] = inner_product(out.row(r), gradient.row(r), s_.value_width);
    if (slopes_.log_sum_exp.defined()) {
      const float* of_sum = slopes_.log_sum_exp.template data_ptr<float>() + at;
      for (int64_t r = 0; r < count; ++r) tile.inner[r] -= of_sum[r];
    }
    std::fill_n(tile.gradient.data(), count * s_.padded_width, 0.0f);
    tile.queries.count = count;
    tile.queries.width = s_.width;
    tile.queries.value_width = s_.value_width;
    tile.queries.across = tile.across.data();
    tile.queries.rows = rows.data;
    tile.queries.gradient_across = tile.out_gradient_across.data();
    tile.queries.gradient_rows = gradient.data;
    tile.queries.log_sum = tile.log_sum;
    tile.queries.inner = tile.inner;
    return tile.seen = in_.sight.range(first, count);
  }

  static float inner_product(const float* a, const float* b, int64_t n) {
    using L = Lanes<float>;
    L::Vector sums{};
    int64_t i = 0;
    for (; i + L::kCount <= n; i += L::kCount) sums += L::load(a + i) * L::load(b + i);
    float total = L::sum(sums);
    for (; i < n; ++i) total += a[i] * b[i];
    return total;
  }

  void add_biases(const Sight::Spot& spot, const KeyTile& keys, int64_t first_key) {
    if (sums_.bias.defined()) {
      const Tensor& bias = sums_.bias;
      float* to = bias.template data_ptr<float>() +
                  (bias.size(0) == 1 ? 0 : spot.batch * bias.stride(0)) +
                  (bias.size(1) == 1 ? 0 : spot.head * bias.stride(1)) +
                  spot.first * bias.stride(2) + first_key;
      in_.tiles.add_dense(score_gradient_.data(), spot.count, keys.count, to, bias.stride(2));
    }
    if (sums_.offsets.defined()) {
      const int64_t head = (part_ * s_.batch + spot.batch) * s_.heads + spot.head;
      double* to = sums_.offsets.template data_ptr<double>() + head * sums_.offsets.size(3);
      in_.tiles.add_offsets(score_gradient_.data(), spot.count, keys.count,
                            to + in_.sight.first_offset(spot, keys, first_key));
    }
  }

  const Inputs& in_;
  const AttentionSizes& s_;
  const AttentionSlopes& slopes_;
  const AttentionResult& forward_;
  const AttentionBackward& result_;
  const BiasSums& sums_;
  int64_t part_;
  Scratch keys_memory_, values_memory_, key_gradient_, value_gradient_;
  Scratch out_memory_, weights_, score_gradient_;
  std::vector<std::unique_ptr<OpenTile>> tiles_;
  FloatRows keys_, values_;
};

/// How the backward pass is divided: an item is all heads whose gradients meet in one bias, and
/// where items are few, several threads share the queries of each head.
struct Division {
  int64_t batches = 1, kv_heads = 1;  // of an item
  int64_t items, parts;
  int64_t together;  // tiles of queries that a thread takes at once

  Division(const AttentionSizes& s, const AttentionRule& rule, bool bias) {
    if (bias && rule.bias.size(0) == 1) batches = s.batch;
    if (bias && rule.bias.size(1) == 1) kv_heads = s.kv_heads;
    items = s.batch / batches * (s.kv_heads / kv_heads);
    parts = std::min(s.query_tiles, (kLeastItems + items - 1) / items);
    together = std::clamp<int64_t>(s.query_tiles / parts, 1, kMostTogether);
  }

  /// body(batch entry, key head) for the heads of an item.
  template <class Body>
  void heads(const AttentionSizes& s, int64_t item, const Body& body) const {
    const int64_t across = s.kv_heads / kv_heads;
    const int64_t b = item / across * batches, h = item % across * kv_heads;
    for (int64_t i = b; i < b + batches; ++i)
      for (int64_t j = h; j < h + kv_heads; ++j) body(i, j);
  }
};

template <class T>
void backward_tiles(const Inputs& in, const Division& division, const AttentionSlopes& slopes,
                    const AttentionResult& forward, const AttentionBackward& result,
                    const BiasSums& sums) {
  using Worker = BackwardWorker<T>;
  const auto make = [&](int64_t part) {
    return std::make_unique<Worker>(in, slopes, forward, result, sums, part, division.together);
  };
  if (division.parts == 1) {
    in_turns(
        division.items, [&] { return make(0); },
        [&](std::unique_ptr<Worker>& worker, int64_t item) {
          division.heads(in.sizes, item, [&](int64_t b, int64_t kv_head) {
            worker->head(b, kv_head, 1);
            worker->finish(b, kv_head);
          });
        });
    return;
  }
  std::vector<std::unique_ptr<Worker>> workers;
  for (int64_t part = 0; part < division.parts; ++part) workers.push_back(make(part));
  for (int64_t item = 0; item < division.items; ++item)
    division.heads(in.sizes, item, [&](int64_t b, int64_t kv_head) {
      in_turns(
          division.parts, [] { return 0; },
          [&](int, int64_t part) { workers[part]->head(b, kv_head, division.parts); });
      for (int64_t part = 1; part < division.parts; ++part) workers[0]->add(*workers[part]);
      workers[0]->finish(b, kv_head);
    });
}

/// [H|1,Nq+Nk-1] from sums in the tiles' order.
Tensor offset_gradient(const Tensor& sums, const Tensor& bias) {
  Tensor total = at::zeros(sums.sizes().slice(2), sums.options());
  for (int64_t part = 0; part < sums.size(0); ++part)
    for (int64_t b = 0; b < sums.size(1); ++b) total += sums[part][b];
  if (bias.size(0) == 1) {
    Tensor shared = at::zeros_like(total[0]);
    for (int64_t h = 0; h < total.size(0); ++h) shared += total[h];
    total = shared.unsqueeze(0);
  }
  return total.flip(-1).to(at::kFloat);
}

}  // namespace

AttentionResult attention_forward(const Tensor& q, const Tensor& k, const Tensor& v,
                                  const AttentionRule& rule) {
  RECORD_FUNCTION("formwork::attention", std::vector<c10::IValue>({q, k, rule.causal}));
  const AttentionSizes s(q, k, v);
  const AttentionTiles& tiles = *simd_levels().front().attention;
  const Sight sight(s, rule, tiles);
  AttentionResult result;
  result.out = heads_inside(q, s.batch, s.heads, s.queries, s.value_width);
  result.log_sum_exp = at::empty({s.batch, s.heads, s.queries}, q.options().dtype(at::kFloat));
  const Turn turn(rule);
  const Inputs in{s, sight, tiles, turn, static_cast<float>(rule.scale), q, k, v};
  if (attention_streams(q, k) && !turn)
    attention_stream(s, sight, q, k, v, rule.scale, result);
  else if (q.scalar_type() == at::kFloat)
    forward_tiles<float>(in, result);
  else
    forward_tiles<c10::BFloat16>(in, result);
  return result;
}

AttentionBackward attention_backward(const AttentionSlopes& slopes, const Tensor& q,
                                     const Tensor& k, const Tensor& v,
                                     const AttentionResult& forward, const AttentionRule& rule) {
  RECORD_FUNCTION("formwork::attention_backward", std::vector<c10::IValue>({q, k, rule.causal}));
  const AttentionSizes s(q, k, v);
  const AttentionTiles& tiles = *simd_levels().front().attention;
  const Sight sight(s, rule, tiles);
  AttentionBackward result;
  result.q = heads_inside(q, s.batch, s.heads, s.queries, s.width);
  result.k = heads_inside(k, s.batch, s.kv_heads, s.keys, s.width);
  result.v = heads_inside(v, s.batch, s.kv_heads, s.keys, s.value_width);
  const Division division(s, rule, slopes.bias);
  BiasSums sums;
  if (slopes.bias) sums.bias = at::zeros(rule.bias.sizes(), rule.bias.options());
  if (slopes.offset_bias)
    sums.offsets = at::zeros({division.parts, s.batch, s.heads, s.queries + s.keys - 1},
                             rule.offset_bias.options().dtype(at::kDouble));
  const Turn turn(rule);
  const Inputs in{s, sight, tiles, turn, static_cast<float>(rule.scale), q, k, v};
  if (q.scalar_type() == at::kFloat)
    backward_tiles<float>(in, division, slopes, forward, result, sums);
  else
    backward_tiles<c10::BFloat16>(in, division, slopes, forward, result, sums);
  result.bias = sums.bias;
  if (slopes.offset_bias) result.offset_bias = offset_gradient(sums.offsets, rule.offset_bias);
  return result;
}

}  // namespace formwork::cpu

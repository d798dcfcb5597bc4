// What bench/gpu times: every kernel at a size that fills a GPU, or at a small part of it, so that
// a test can run the same arguments on the CPU.
#pragma once

#include <functional>
#include <memory>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/device_array.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/glu.h"
#include "kernels/cuda/matrix_scan.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/optimizer.h"
#include "kernels/cuda/packed_linear.h"
#include "kernels/cuda/rotate.h"

namespace formwork::FORMWORK_CUDA {

/// One row of the table. `bytes`: every input read once and every output written once;
/// `operations`: those of the formula, causal halves left out, nothing computed twice.
struct Subject {
  std::string name, size;
  double bytes = 0.0, operations = 0.0;
  std::function<Status()> run = {};
};

/// Arrays that live as long as the subject that holds a copy of this.
class Arrays {
 public:
  /// Normal numbers; a block of them over and over.
  void* numbers(Element element, int64_t count) {
    const auto bytes = static_cast<size_t>(count * size_of(element));
    std::vector<unsigned char> all(bytes);
    Draw draw(static_cast<uint64_t>(held_->size()));
    const std::vector<double> block = draw.normal(std::min<int64_t>(count, 1 << 18));
    for (int64_t i = 0; i < static_cast<int64_t>(block.size()); ++i) {
      const auto whole = static_cast<float>(block[static_cast<size_t>(i)]);
      const uint16_t half = bfloat16_bits(block[static_cast<size_t>(i)]);
      if (element == Element::float32)
        std::memcpy(&all[static_cast<size_t>(i * 4)], &whole, 4);
      else
        std::memcpy(&all[static_cast<size_t>(i * 2)], &half, 2);
    }
    const size_t period = block.size() * static_cast<size_t>(size_of(element));
    for (size_t at = period; at < bytes; at += period)
      std::memcpy(&all[at], all.data(), std::min(period, bytes - at));
    return keep(std::make_shared<DeviceArray>(all));
  }
  float* floats(int64_t count) { return static_cast<float*>(numbers(Element::float32, count)); }
  template <class T>
  T* values(const std::vector<T>& all) {
    return static_cast<T*>(keep(std::make_shared<DeviceArray>(all)));
  }

 private:
  void* keep(const std::shared_ptr<DeviceArray>& array) {
    held_->push_back(array);
    return array->data();
  }
  std::shared_ptr<std::vector<std::shared_ptr<DeviceArray>>> held_ =
      std::make_shared<std::vector<std::shared_ptr<DeviceArray>>>();
};

inline std::string by(std::initializer_list<int64_t> sizes) {
  std::string text;
  for (const int64_t n : sizes) text += (text.empty() ? "" : "x") + std::to_string(n);
  return text;
}

inline Heads heads_in(Arrays& arrays, Element element, int64_t b, int64_t h, int64_t n, int64_t w) {
  return {arrays.numbers(element, b * h * n * w), n * h * w, w, h * w};
}

inline Subject attention_subject(Element element, int width, bool backward, int shrink) {
  Arrays arrays;
  Attention a;
  a.element = element;
  a.batch = 4, a.heads = a.kv_heads = shrink > 1 ? 2 : 16;
  a.queries = a.keys = 4096 / shrink, a.width = a.value_width = width;
  const auto heads = [&] { return heads_in(arrays, element, a.batch, a.heads, a.keys, width); };
  a.q = heads(), a.k = heads(), a.v = heads(), a.out = heads();
  const int64_t rows = int64_t{1} * a.batch * a.heads * a.queries;
  a.log_sum = arrays.floats(rows);
  a.scale = 0.125f, a.causal = true;
  Subject s{std::string("attention") + (backward ? " backward" : " forward") + name_of(element),
            by({a.batch, a.heads, a.queries, width}) + " causal"};
  const double product = static_cast<double>(rows) * a.keys * width;  // half of it, twice
  const double array = static_cast<double>(rows) * width * static_cast<double>(size_of(element));
  s.operations = (backward ? 5 : 2) * product;
  s.bytes = (backward ? 8 : 4) * array;
  if (!backward) {
    s.run = [arrays, a] { return attention_forward(a, nullptr); };
    return s;
  }
  AttentionGradients g;
  g.out = heads(), g.q = heads(), g.k = heads(), g.v = heads(), g.along = arrays.floats(rows);
  succeed(attention_forward(a, nullptr));
  s.run = [arrays, a, g] { return attention_backward(a, g, nullptr); };
  return s;
}

inline Subject norm_subject(NormForm form, Element element, bool backward, int shrink) {
  Arrays arrays;
  Norm norm;
  norm.element = element, norm.form = form, norm.rows = 131072 / shrink, norm.width = 1024;
  norm.eps = 1e-5f;
  const int64_t count = norm.rows * norm.width;
  norm.x = arrays.numbers(element, count), norm.residual = arrays.numbers(element, count);
  norm.sum = arrays.numbers(element, count), norm.y = arrays.numbers(element, count);
  norm.scale = arrays.floats(norm.width), norm.inverse = arrays.floats(norm.rows);
  norm.first = arrays.floats(norm.rows), norm.slope = arrays.floats(norm.rows);
  const char* const names[] = {"layer norm", "rms norm", "crms norm"};
  Subject s{std::string(names[static_cast<int>(form)]) + " + residual" +
                (backward ? " backward" : " forward") + name_of(element),
            by({norm.rows, norm.width})};
  s.bytes = 4.0 * static_cast<double>(count * size_of(element));
  if (!backward) {
    s.run = [arrays, norm] { return norm_forward(norm, nullptr); };
    return s;
  }
  succeed(norm_forward(norm, nullptr));
  norm.x = norm.sum;
  NormGradients g;
  g.y = norm.y, g.sum = norm.residual, g.x = arrays.numbers(element, count);
  g.scale = arrays.floats(norm.width), g.shift = arrays.floats(norm.width);
  g.partials = arrays.floats(2 * kNormPartials * norm.width);
  s.run = [arrays, norm, g] { return norm_backward(norm, g, nullptr); };
  return s;
}

inline Subject cross_entropy_subject(Element element, int shrink) {
  Arrays arrays;
  CrossEntropy a;
  a.element = element, a.rows = 8192 / shrink, a.classes = 50304, a.stride = a.classes;
  a.logits = arrays.numbers(element, a.rows * a.classes), a.losses = arrays.floats(a.rows);
  std::vector<int64_t> target(static_cast<size_t>(a.rows));
  Draw draw(1);
  for (int64_t& t : target) t = draw.below(a.classes);
  a.target = arrays.values(target), a.smoothing = 0.1f, a.z_loss = 1e-4f;
  Subject s{std::string("cross-entropy") + name_of(element), by({a.rows, a.classes})};
  s.bytes = 2.0 * static_cast<double>(a.rows * a.classes * size_of(element));
  s.run = [arrays, a] { return cross_entropy(a, nullptr); };
  return s;
}

/// 48 tensors as large as a model's.
inline Subject adam_subject(Element element, int shrink) {
  Arrays arrays;
  std::vector<AdamParameter> parameters(48);
  const int64_t count = (int64_t{1} << 22) / shrink;
  for (AdamParameter& p : parameters)
    p = {arrays.floats(count),
         arrays.numbers(element, count),
         arrays.floats(count),
         arrays.floats(count),
         nullptr,
         element == Element::bfloat16 ? arrays.numbers(element, count) : nullptr,
         count};
  Subject s{std::string("adamw") + name_of(element) + " gradients", by({48, count})};
  s.bytes =
      48.0 * static_cast<double>(count) * 28.0;  // float32 saved on gradients: the rounded copy
  AdamStep step;
  step.gradient_element = element, step.decay = 0.01, step.count = 10;
  s.run = [arrays, parameters, step] { return adam_step(parameters, step, nullptr); };
  return s;
}

inline Subject gradient_norm_subject(int shrink) {
  Arrays arrays;
  std::vector<Array> gradients(48);
  const int64_t count = (int64_t{1} << 23) / shrink;
  for (Array& g : gradients) g = {arrays.floats(count), count};
  float* room = arrays.floats(gradient_norm_room(gradients));
  float* result = arrays.floats(2);
  Subject s{"gradient norm float32", by({48, count})};
  s.bytes = 48.0 * static_cast<double>(count) * 4.0;
  s.run = [arrays, gradients, room, result] {
    return gradient_norm(gradients, Element::float32, 1.0f, room, result, nullptr);
  };
  return s;
}

inline Subject glu_subject(Element element, bool backward, int shrink) {
  Arrays arrays;
  Glu a;
  a.element = element, a.rows = 65536 / shrink, a.width = 4096 / (shrink > 1 ? 8 : 1);
  a.stride = 2 * a.width;
  const int64_t count = a.rows * a.width, up = a.width * size_of(element);
  char* both = static_cast<char*>(arrays.numbers(element, 2 * count));
  a.gate = both, a.up = both + up, a.y = arrays.numbers(element, count);
  Subject s{std::string("swiglu") + (backward ? " backward" : " forward") + name_of(element),
            by({a.rows, a.width})};
  s.bytes = (backward ? 5.0 : 3.0) * static_cast<double>(count * size_of(element));
  if (!backward) {
    s.run = [arrays, a] { return glu_forward(a, nullptr); };
    return s;
  }
  char* slopes = static_cast<char*>(arrays.numbers(element, 2 * count));
  const GluGradients g{a.y, slopes, slopes + up};
  s.run = [arrays, a, g] { return glu_backward(a, g, nullptr); };
  return s;
}

inline Subject rotation_subject(Element element, int shrink) {
  Arrays arrays;
  Rotation a;
  const int64_t batch = 16, heads = 32, tokens = 4096 / shrink, row = heads * 64;
  a.element = element, a.width = 64, a.half = 32;
  a.sizes[0] = batch, a.sizes[1] = heads, a.sizes[2] = tokens;
  a.x = arrays.numbers(element, batch * tokens * row);
  a.y = arrays.numbers(element, batch * tokens * row);
  for (int64_t* stride : {a.x_stride, a.y_stride})
    stride[0] = tokens * row, stride[1] = 64, stride[2] = row;
  a.cosine = arrays.floats(tokens * 32), a.sine = arrays.floats(tokens * 32);
  a.table_stride[2] = 32;
  Subject s{std::string("rotate") + name_of(element), by({batch, heads, tokens, 64})};
  s.bytes = 2.0 * static_cast<double>(batch * tokens * row * size_of(element));
  s.run = [arrays, a] { return rotate(a, nullptr); };
  return s;
}

inline Subject packed_subject(bool int8, int rows, int shrink) {
  Arrays arrays;
  PackedLinear a;
  a.rows = rows, a.in = a.out = 16384 / shrink;
  a.x = arrays.floats(rows * a.in), a.y = arrays.floats(rows * a.out);
  if (int8) {
    std::vector<int8_t> weight(static_cast<size_t>(a.in * a.out));
    Draw draw(2);
    for (size_t i = 0; i < weight.size(); ++i)
      weight[i] = i < 4096 ? static_cast<int8_t>(draw.below(255) - 127) : weight[i - 4096];
    a.weight = arrays.values(weight), a.scale = arrays.floats(a.out);
  } else {
    a.weight = arrays.numbers(Element::bfloat16, a.in * a.out);
  }
  Subject s{std::string("packed linear ") + (int8 ? "int8" : "bfloat16"), by({rows, a.in, a.out})};
  s.bytes = static_cast<double>(a.in * a.out) * (int8 ? 1.0 : 2.0);
  s.operations = 2.0 * rows * static_cast<double>(a.in * a.out);
  s.run = [arrays, a] { return packed_linear(a, nullptr); };
  return s;
}

/// Half of the text are the commonest 64 tokens.
inline Subject embedding_subject(Element element, int shrink) {
  Arrays arrays;
  const int64_t places = 131072 / shrink, width = 1024;
  Draw draw(3);
  std::vector<int64_t> tokens(static_cast<size_t>(places)), order(tokens.size()), starts;
  for (int64_t& t : tokens) t = draw.below(2) ? draw.below(64) : draw.below(50304);
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto token_at = [&](int64_t i) { return tokens[static_cast<size_t>(i)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return token_at(a) < token_at(b); });
  for (int64_t i = 0; i < places; ++i)
    if (i == 0 ||
        token_at(order[static_cast<size_t>(i)]) != token_at(order[static_cast<size_t>(i - 1)]))
      starts.push_back(i);
  SegmentSums a;
  a.element = element, a.segments = static_cast<int64_t>(starts.size()), a.width = width;
  starts.push_back(places);
  a.gradient = arrays.numbers(element, places * width);
  a.order = arrays.values(order), a.starts = arrays.values(starts);
  a.rows = arrays.floats(a.segments * width);
  Subject s{std::string("embedding gradient") + name_of(element), by({places, width})};
  s.bytes = static_cast<double>(places * width * size_of(element) + a.segments * width * 4);
  s.run = [arrays, a] { return segment_sums(a, nullptr); };
  return s;
}

inline Subject scan_subject(bool gated, bool backward, int shrink) {
  Arrays arrays;
  MatrixScan a;
  a.batch = 4, a.heads = shrink > 1 ? 2 : 16, a.tokens = 4096 / shrink;
  a.width = a.value_width = 64;
  const auto heads = [&] { return heads_in(arrays, a.element, a.batch, a.heads, a.tokens, 64); };
  a.q = heads(), a.k = heads(), a.v = heads(), a.y = heads();
  const int64_t rows = int64_t{1} * a.batch * a.heads * a.tokens;
  a.room = arrays.floats(matrix_scan_room(a));
  if (gated) a.log_gate = arrays.values(std::vector<float>(static_cast<size_t>(rows), -0.01f));
  Subject s{std::string(gated ? "gated scan" : "linear attention") +
                (backward ? " backward" : " forward") + " float32",
            by({a.batch, a.heads, a.tokens, 64})};
  const double state = static_cast<double>(rows) * 64 * 64;
  const double inside = static_cast<double>(rows) * kScanChunk * 64;  // half of it, twice
  s.operations = (backward ? 3.0 : 1.0) * (4.0 * state + 2.0 * inside);
  s.bytes = (backward ? 7.0 : 4.0) * static_cast<double>(rows) * 64 * 4;
  if (!backward) {
    s.run = [arrays, a] { return matrix_scan_forward(a, nullptr); };
    return s;
  }
  MatrixScanGradients g;
  g.y = heads(), g.q = heads(), g.k = heads(), g.v = heads();
  if (gated) g.log_gate = arrays.floats(rows);
  s.run = [arrays, a, g] { return matrix_scan_backward(a, g, nullptr); };
  return s;
}

/// What makes the subjects, one after another: their arrays need not all fit at once.
inline std::vector<std::function<Subject(int shrink)>> subjects() {
  std::vector<std::function<Subject(int)>> all;
  const auto both = {Element::bfloat16, Element::float32};
  for (const Element e : both)
    for (const int width : {64, 128})
      for (const bool back : {false, true})
        all.push_back([=](int shrink) { return attention_subject(e, width, back, shrink); });
  for (const Element e : both)
    for (const NormForm form : {NormForm::layer, NormForm::rms, NormForm::crms})
      for (const bool back : {false, true})
        all.push_back([=](int shrink) { return norm_subject(form, e, back, shrink); });
  for (const Element e : both) {
    all.push_back([=](int shrink) { return cross_entropy_subject(e, shrink); });
    all.push_back([=](int shrink) { return adam_subject(e, shrink); });
    for (const bool back : {false, true})
      all.push_back([=](int shrink) { return glu_subject(e, back, shrink); });
    all.push_back([=](int shrink) { return rotation_subject(e, shrink); });
    all.push_back([=](int shrink) { return embedding_subject(e, shrink); });
  }
  all.push_back(gradient_norm_subject);
  for (const bool int8 : {true, false})
    for (const int rows : {1, 8})
      all.push_back([=](int shrink) { return packed_subject(int8, rows, shrink); });
  for (const bool gated : {false, true})
    for (const bool back : {false, true})
      all.push_back([=](int shrink) { return scan_subject(gated, back, shrink); });
  return all;
}

}  // namespace formwork::FORMWORK_CUDA

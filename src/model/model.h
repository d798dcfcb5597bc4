// The whole Transformer: encoder, decoder or both, and the head.
#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "model/stack.h"

namespace formwork {

/// From the last vectors [B,N,D] to the output a task wants.
class Head final : public Module {
 public:
  /// `exact`: the maps that `site` makes multiply with their weight().
  Head(const HeadOptions& options, const OutputForm& output, const Site& site,
       const Tensor& tied_table, bool exact);
  Tensor forward(const Tensor& x, const Tensor& valid);
  /// See Linear::pack. A tied table stays what the stem looks up; the head takes a packed copy.
  /// False for an untied head, whose maps are packed one by one.
  bool pack_table(PackedForm form);
  /// Bytes of a tied table that forward reads; 0 for an untied head.
  int64_t table_bytes() const;
  /// Whether forward is one linear map of every token; then it is x times weight() plus bias().
  bool plain() const;
  Tensor weight() const { return projection_ ? projection_->weight() : tied_table_; }
  Tensor bias() const { return projection_ ? projection_->bias() : Tensor(); }

 private:
  Tensor pool(const Tensor& x, const Tensor& valid) const;
  HeadOptions options_;
  OutputForm output_;
  bool exact_ = true;          // weight() is what the projection multiplies with
  Tensor tied_table_;          // the stem's parameter, not registered again
  PackedWeight packed_table_;  // its copy after pack()
  std::shared_ptr<Linear> hidden_, projection_;
};

/// What a model is given. Only `input` is needed; see Stream for the meaning of the rest.
struct ModelInput {
  Tensor input;         // what the stem takes
  Tensor valid;         // [B,N] bool
  Tensor source;        // encoder_decoder: what the encoder reads
  Tensor source_valid;  // [B,M] bool
  Tensor timestamps;
  Observer* observer = nullptr;
  /// Of more logits than this ModelOutput::unprojected takes the place, where the head allows it.
  int64_t most_logits = std::numeric_limits<int64_t>::max();
};

/// What the head multiplies: logits = x weightᵀ + bias.
struct Unprojected {
  Tensor x, weight, bias;  // [B,N,D], [V,D], [V] or undefined
};

struct ModelOutput {
  Tensor y;                    // see OutputForm; undefined where `unprojected` is there
  std::vector<Tensor> losses;  // auxiliary, already weighted
  std::optional<Unprojected> unprojected = std::nullopt;
};

/// The states of a whole model while it decodes: one for each application of a layer.
class ModelState {
 public:
  std::vector<State> states;
  Tensor memory, memory_valid;  // encoder_decoder: the encoder's output, computed once

  int64_t batch() const { return states.front().batch(); }
  /// [B] int64, tokens consumed by each row.
  const Tensor& length() const { return states.front().length; }
  ModelState clone() const;
  ModelState select(const Tensor& index) const;
  void crop(const Tensor& n);
  void begin();
  void rollback();
  int64_t bytes() const;
};

/// Linear maps, the head among them, that hold their weight packed and that could not.
struct PackedMaps {
  int64_t packed = 0, left = 0;
};

class Model final : public Module {
 public:
  /// Builds and initialises; `options` settled and validated. Same seed, same weights.
  Model(const ModelOptions& options, const TaskForm& task, uint64_t seed);

  ModelOutput forward(const ModelInput& in, ModelState* state = nullptr);
  /// The logits [B,V] of the token after ids [B,n], which `state` takes in: the head runs for one
  /// token a row. For models that predict tokens.
  Tensor next_logits(const Tensor& ids, ModelState& state);
  /// An empty state for `batch` rows; refuses for encoders.
  ModelState make_state(int64_t batch, int64_t capacity) const;
  /// Reads the source once, for decoding with `state`.
  void read_source(const Tensor& source, const Tensor& source_valid, ModelState& state);
  /// Whether the blocks' activations are made again in the backward pass instead of being kept:
  /// the same numbers with less memory, for about a third more arithmetic.
  void checkpoint_activations(bool on);
  /// Holds the weights of the linear maps and of the head in `form` from now on, for decoding: less
  /// memory to read for each token, and no gradients and no saving any more. Maps that cannot
  /// (Linear::pack) stay as they are, and so do tables, norms and biases.
  PackedMaps pack(PackedForm form);
  /// Linear::lay_out for every linear map.
  void lay_out();
  /// Bytes of the weights of linear maps and head, each read once when a token is decoded.
  int64_t weight_bytes() const;
  /// Ends a speculative block: keeps the first kept[b] tokens fed since ModelState::begin.
  void commit(ModelState& state, const Tensor& kept);
  const TaskForm& task() const { return task_; }
  const ModelOptions& options() const { return options_; }
  /// The number type of the parameters.
  at::ScalarType type() const;
  /// Where they are.
  at::Device device() const;

 private:
  /// All but the head.
  void run(const ModelInput& in, Stream& stream, ModelState* state);
  ModelOptions options_;
  TaskForm task_;
  std::shared_ptr<Stack> encoder_;  // encoder_decoder only
  std::shared_ptr<Stack> stack_;
  std::shared_ptr<Head> head_;
};

}  // namespace formwork

// What a mixer keeps to decode token by token.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

namespace formwork {

using at::Tensor;

/// How a state can forget its last tokens.
enum class Forgetting {
  append_only,  // keys and values by position: shorten the length
  ring,         // the last W + slack inputs: at most `slack` tokens
  fixed,        // read-only (cross-attention): nothing to forget, no length
  snapshot      // recurrent: only by begin() / commit()
};

/// A bag of named tensors whose first dimension is the row of the batch, and each row's length.
/// Rows advance independently. The law every mixer keeps: feeding x[:, :a] and then x[:, a:] gives
/// what feeding x gives, for every a; an invalid token leaves its row bit-identical.
class State {
 public:
  State(std::string owner, Forgetting forgetting, int64_t batch, int64_t capacity,
        int64_t slack = 0);

  std::map<std::string, Tensor> tensors;  // each [B, ...]
  Tensor length;                          // [B] int64, tokens consumed (CPU)
  int64_t batch() const { return length.size(0); }
  /// Largest number of tokens a row may hold; -1 = unlimited.
  int64_t capacity() const { return capacity_; }
  int64_t slack() const { return slack_; }
  Forgetting forgetting() const { return forgetting_; }
  const std::string& owner() const { return owner_; }
  /// The common length of all rows, or -1 when they differ.
  int64_t common_length() const;
  /// Positions [B,n] of the next n tokens; an invalid token (valid [B,n] false) does not advance
  /// its row and gets the position of the next valid one.
  Tensor next_positions(int64_t n, const Tensor& valid) const;
  /// What every mixer calls before it reads the state: refuses inputs x [B,n,D] of other rows, type
  /// or device than the state's, inputs that want gradients and more tokens than fit; remembers x
  /// where an open block may have to replay it.
  void accept(const Tensor& x, const Tensor& valid);
  /// Adds the valid tokens to every row's length, which a fixed state does not count.
  void advance(int64_t n, const Tensor& valid);
  /// Refuses when any row would hold more than `capacity` after n more (valid) tokens.
  void expect_room(int64_t n, const Tensor& valid) const;

  State clone() const;
  /// Rows `index` [R] in that order: beam reorder, repeat, subset.
  State select(const Tensor& index) const;
  /// Rows of several states one below the other.
  static State merge(const std::vector<State>& parts);
  /// Copies row `from` of `other` over row `row`.
  void restore(int64_t row, const State& other, int64_t from);
  /// Makes a row as new.
  void reset(int64_t row);
  /// Forgets the last n[b] tokens of each row; refuses where the kind of state cannot.
  void crop(const Tensor& n);
  /// Bytes held by the tensors.
  int64_t bytes() const;
  void to(at::ScalarType type, const at::Device& device);
  /// Tensors and lengths by name, and back (save → load → the same state).
  std::map<std::string, Tensor> serialise() const;
  void deserialise(const std::map<std::string, Tensor>& from);

  /// What a state needs to go back to begin(), and the inputs since then, for replay.
  struct Block {
    Tensor length;                          // at begin()
    std::map<std::string, Tensor> tensors;  // at begin(); empty where going back needs no copy
    std::vector<Tensor> inputs;             // each [B,n,D]
    std::vector<Tensor> valid;              // each [B,n] bool
  };
  /// Starts a speculative block: until commit or rollback the state can go back. States that keep
  /// their tokens by position copy nothing.
  void begin();
  /// Back to begin().
  void rollback();
  bool in_block() const { return block_.length.defined(); }
  /// Tokens [B] that each row consumed since begin().
  Tensor fed() const;
  /// Whether crop(n) can be done.
  bool can_crop(const Tensor& n) const;
  /// Ends the block and hands it over; the state stays as it is.
  Block end_block();

 private:
  /// Whether going back needs a copy of the tensors.
  bool overwrites() const {
    return forgetting_ == Forgetting::ring || forgetting_ == Forgetting::snapshot;
  }
  std::string owner_;
  Forgetting forgetting_;
  int64_t capacity_;
  int64_t slack_;
  Block block_;
};

}  // namespace formwork

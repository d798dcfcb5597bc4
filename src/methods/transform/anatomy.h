// Which parts of a model write to its residual stream and which read it: what conversions need.
#pragma once

#include <string>
#include <vector>

#include "methods/linear/linear.h"
#include "methods/norm/norm.h"
#include "methods/transform/transform.h"

namespace formwork {

struct NamedLinear {
  std::string name;
  Linear* map = nullptr;
  Role role = Role::other;
  int64_t in = 0, out = 0;
};

struct NamedNorm {
  std::string name;
  Norm* norm = nullptr;
};

/// A mixer or channel with the wiring around it.
struct Branch {
  std::string name;  // of the mixer or channel
  bool channel = false;
  bool cross = false;  // its keys and values come from the encoder's output
  std::vector<NamedLinear> maps;
  std::vector<NamedNorm> norms;  // of the wiring
  std::string scale;             // the parameter that multiplies the branch; "" without one
};

/// A model's tree of modules sorted by what each part does with the stream. Parts that no
/// conversion knows are left in `unknown`, by name.
struct Anatomy {
  int64_t width = 0;  // D
  std::vector<Branch> branches;
  std::vector<NamedNorm> embed_norms, final_norms;
  std::vector<NamedLinear> stems;        // linear maps of stems
  std::vector<NamedLinear> heads;        // the maps of the head that read the stream
  std::vector<std::string> tables;       // tensors [..., D] whose rows are added to the stream
  std::vector<std::string> positions;    // those of the tables that hold positions
  std::vector<std::string> inner_norms;  // norms of the model's axis that mixers or channels hold
  std::vector<std::string> unknown;

  /// All linear maps that stand before, in and after the layers.
  std::vector<NamedLinear> maps() const;
  /// The maps of a branch that read its normed input, and those that write to the stream.
  std::vector<NamedLinear> readers(const Branch& branch) const;
  std::vector<NamedLinear> writers(const Branch& branch) const;
  /// The maps that read a final norm: the head, or the keys and values of cross-attention.
  std::vector<NamedLinear> readers(const NamedNorm& final_norm) const;
};

/// `options` is the model's settled table [model].
Anatomy dissect(Module& model, const Value& options);

/// The layer that a module belongs to: 3 for "decoder.layers.3.ffn"; -1 for those outside layers.
int64_t layer_index(const std::string& name);

}  // namespace formwork

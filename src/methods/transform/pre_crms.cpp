#include <algorithm>
#include <cmath>

#include "methods/mixer/mixer.h"
#include "methods/transform/zero_mean.h"

namespace formwork {
namespace {

struct PreCrmsOptions {
  std::string storage = "padded";
  void describe(OptionSet& o) {
    o.add("storage", storage,
          "padded: the width is filled up with zeros to a multiple of 16, so that rows stay "
          "aligned; exact: width D - 1",
          one_of({"padded", "exact"}));
  }
};

/// From the width D to the width W: the last channel, which is minus the sum of the others, is left
/// out; zeros fill up to W.
struct Narrowing {
  int64_t from = 0, to = 0;

  int64_t zeros() const { return to - (from - 1); }
  /// What turns the norm over W + 1 channels into the one over D.
  double factor() const {
    return std::sqrt(static_cast<double>(from) / static_cast<double>(to + 1));
  }
  double eps(double old) const { return old * factor() * factor(); }

  /// [out, in] of a map that writes to the stream: rows.
  Tensor rows(const Tensor& x) const {
    const Tensor kept = x.narrow(0, 0, from - 1);
    if (zeros() == 0) return kept.contiguous();
    std::vector<int64_t> shape = x.sizes().vec();
    shape[0] = zeros();
    return at::cat({kept, at::zeros(shape, x.options())}, 0);
  }
  /// [..., D] of a table: entries of each row.
  Tensor entries(const Tensor& x) const {
    return rows(x.movedim(-1, 0)).movedim(0, -1).contiguous();
  }
  /// [out, n·D] of a map that reads n tokens of the stream: x_D = -(x_1 + ... + x_(D-1)).
  Tensor columns(const Tensor& x) const {
    const Tensor blocks = x.view({x.size(0), -1, from});
    const Tensor less = blocks - blocks.narrow(2, from - 1, 1);
    return (entries(less) * factor()).flatten(1).contiguous();
  }
};

void narrow_tensors(ModelParts& parts, const Anatomy& anatomy, const Narrowing& to) {
  const auto write = [&](const NamedLinear& map) {
    Tensor& weight = parts.tensors.at(map.name + ".weight");
    weight = to.rows(weight);
    const auto bias = parts.tensors.find(map.name + ".bias");
    if (bias != parts.tensors.end()) bias->second = to.rows(bias->second);
  };
  const auto read = [&](const NamedLinear& map) {
    Tensor& weight = parts.tensors.at(map.name + ".weight");
    weight = to.columns(weight);
  };
  for (const std::string& name : anatomy.tables)
    parts.tensors.at(name) = to.entries(parts.tensors.at(name));
  std::for_each(anatomy.stems.begin(), anatomy.stems.end(), write);
  for (const Branch& branch : anatomy.branches) {
    for (const NamedLinear& map : anatomy.readers(branch)) read(map);
    for (const NamedLinear& map : anatomy.writers(branch)) write(map);
  }
  for (const NamedNorm& norm : anatomy.final_norms)
    for (const NamedLinear& map : anatomy.readers(norm)) read(map);
}

/// F of the channels that the table at `path` describes: those of an override's layers, or of the
/// layers that no override changes; 0 where there are none.
int64_t hidden_width(const Value& options, const Anatomy& anatomy, const std::string& path) {
  for (const Branch& branch : anatomy.branches) {
    if (!branch.channel) continue;
    std::string described_at = "model.channel";
    const Value* layers = options.find("layer");
    for (size_t i = 0; layers && layers->get<List>() && i < layers->get<List>()->size(); ++i) {
      const Value& layer = (*layers->get<List>())[i];
      const Value* channel = layer.find("channel");
      if (!channel || channel->is_null()) continue;
      for (const Value& at : *layer.find("at")->get<List>())
        if (*at.get<int64_t>() == layer_index(branch.name))
          described_at = join_text("model.layer.", i, ".channel");
    }
    if (described_at != path) continue;
    for (const NamedLinear& map : branch.maps)
      if (map.role == Role::up) return map.out;
  }
  return 0;
}

/// The stream narrows; heads and hidden layers keep their widths.
void narrow_options(ModelParts& parts, const Anatomy& anatomy, const Narrowing& to) {
  Value& options = parts.options;
  for_each_choice(options, "mixer", [&](Value& table, const std::string& path) {
    Choice<Mixer> choice("softmax");
    read_choice(choice, table, path);
    if (choice.traits().qkv_width == 0)
      set_option(table, "mixer", path, "qkv_dim", Value(to.from), "to keep the width of its heads");
  });
  for_each_choice(options, "channel", [&](Value& table, const std::string& path) {
    const int64_t hidden = hidden_width(options, anatomy, path);
    if (hidden == 0) return;
    set_option(table, "channel", path, "hidden", Value(hidden), "to keep its width inside");
    erase_key(table, "ratio");
  });
  Value& stem = options["stem"];
  const Value* scaled = stem.find("scale");
  if (scaled && scaled->get<bool>() && *scaled->get<bool>()) {
    for (const std::string& name : anatomy.tables)
      if (name.ends_with("stem.weight"))
        parts.tensors.at(name).mul_(std::sqrt(static_cast<double>(to.from)));
    stem["scale"] = Value(false);
  }
  for_each_choice(options, "norm", [&](Value& table, const std::string&) {
    const double eps = *table.find("eps")->get<double>();
    table = Value(
        Table{{"kind", Value("crms_norm")}, {"eps", Value(to.eps(eps))}, {"affine", Value(false)}});
  });
  options["width"] = Value(to.to);
}

/// Pre-LN to Pre-CRMSNorm: of vectors with mean 0 the last channel says nothing new and is left
/// out. Gains and shifts of the norms are folded into the maps that read them first.
/// Jiang et al. 2023, arXiv 2305.14858.
class PreCrms final : public Transform {
 public:
  PreCrms(const PreCrmsOptions& options, const TransformSite&) : options_(options) {}

  ModelParts apply(Module& model, const Value& options) const override {
    PreRmsOptions first;
    first.fold_affine = "always";
    ModelParts parts = to_pre_rms(model, options, first);
    check(!*parts.options.find("centre_embedding")->get<bool>(), "model.width",
          "the last channel cannot be left out, because ",
          parts.notes.empty() ? "" : parts.notes.front(), "; valid: --transform pre_rms");
    Anatomy anatomy = dissect(model, options);
    know_untied_head(parts, anatomy);
    check(anatomy.width >= 2, "model.width", "found ", anatomy.width,
          "; valid for crms_norm: at least 2");
    Narrowing to{anatomy.width, anatomy.width - 1};
    if (options_.storage == "padded") to.to = (to.to + 15) / 16 * 16;
    narrow_options(parts, anatomy, to);
    narrow_tensors(parts, anatomy, to);
    return parts;
  }

 private:
  PreCrmsOptions options_;
};

const Register<Transform, PreCrms, PreCrmsOptions> pre_crms{
    "pre_crms", "layer norms before sublayers become CRMS norms over one channel less",
    cite("2305.14858"), specified_by("pre_rmsnorm")};

}  // namespace
}  // namespace formwork

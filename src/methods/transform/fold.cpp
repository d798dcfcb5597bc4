#include "methods/transform/steps.h"

namespace formwork {
namespace {

void erase(ModelParts& parts, const std::string& name, const Module& module) {
  for (const auto& [inner, tensor] : module.named_tensors())
    parts.tensors.erase(name + "." + inner);
}

bool is_plain(Linear& map) {
  const Tensor weight = map.weight();
  for (const Parameter& parameter : map.parameters())
    if (parameter.tensor.is_same(weight)) return true;
  return false;
}

/// Linear maps that are more than a matrix become the matrix they stand for, where that has no more
/// numbers. Returns whether there were any.
bool fold_maps(ModelParts& parts, Module& model) {
  std::vector<NamedLinear> maps;
  bool larger = false;
  model.visit([&](const std::string& name, Module& module) {
    auto* map = dynamic_cast<Linear*>(&module);
    if (!map || is_plain(*map)) return;
    larger = larger || map->weight().numel() > map->parameter_count();
    maps.push_back({name, map});
  });
  if (maps.empty()) return false;
  if (larger) {
    parts.notes.push_back("the linear maps stay as they are: whole matrices would be larger");
    return false;
  }
  for (const NamedLinear& map : maps) {
    erase(parts, map.name, *map.map);
    parts.tensors[map.name + ".weight"] = map.map->weight().detach().clone();
    const Tensor bias = map.map->bias();
    if (bias.defined()) parts.tensors[map.name + ".bias"] = bias.detach().clone();
  }
  parts.options["linear"] = Value(Table{{"kind", Value("dense")}});
  return true;
}

/// The choices of norms that can be folded become none. Returns whether there were any.
bool remove_norms(ModelParts& parts) {
  bool any = false;
  const int64_t width = *parts.options.find("width")->get<int64_t>();
  for_each_choice(parts.options, "norm", [&](Value& table, const std::string& path) {
    if (!sample_norm(table, path, width)->folded()) return;
    table = Value(Table{{"kind", Value("none")}});
    any = true;
  });
  return any;
}

void fold_norm(ModelParts& parts, const NamedNorm& norm, const std::vector<NamedLinear>& readers) {
  const std::optional<Affine> affine = norm.norm->folded();
  if (!affine) return;
  for (const NamedLinear& map : readers) expect_plain(parts, map);
  fold_into(parts, readers, affine->scale, affine->shift);
  erase(parts, norm.name, *norm.norm);
}

void fold_norms(ModelParts& parts, const Anatomy& anatomy, const Module& model) {
  expect_norm_first(parts.options, "folding a norm");
  expect_known_branches(anatomy);
  for (const NamedNorm& norm : anatomy.embed_norms)
    check(!norm.norm->folded(), norm.name,
          "stands on the residual stream, with no linear map beside it to take it up; valid: "
          "model.embed_norm = \"off\"");
  bool final_norm = false;
  for (const NamedNorm& norm : anatomy.final_norms)
    final_norm = final_norm || norm.norm->folded().has_value();
  // Without the head a final norm has nothing to go into.
  if (final_norm) untie_head(parts, model);
  Anatomy here = anatomy;
  know_untied_head(parts, here);
  give_biases(parts, here);
  for (const Branch& branch : here.branches)
    fold_norm(parts, branch.norms.front(), here.readers(branch));
  for (const NamedNorm& norm : here.final_norms) fold_norm(parts, norm, here.readers(norm));
}

/// What inference does not need becomes part of the linear maps beside it: norms whose statistics
/// are frozen (scale and shift), and maps that compute their weight (sigma_reparam). Ioffe, Szegedy
/// 2015, arXiv 1502.03167.
class Fold final : public Transform {
 public:
  Fold(const NoOptions&, const TransformSite&) {}

  ModelParts apply(Module& model, const Value& options) const override {
    ModelParts parts = take_apart(model, options);
    const bool maps = fold_maps(parts, model);
    const bool norms = remove_norms(parts);
    check(maps || norms, "--transform fold",
          "finds nothing to fold: the norms take statistics of their input and the linear maps are "
          "plain matrices",
          parts.notes.empty() ? "" : " or would grow",
          "; valid: models with batch_norm or another norm of frozen statistics, or a linear map "
          "that computes its weight");
    if (norms) fold_norms(parts, dissect(model, options), model);
    parts.notes.push_back("made for inference: training it further is not training the original");
    return parts;
  }
};

const Register<Transform, Fold> fold{
    "fold", "norms of frozen statistics and computed weights become part of the linear maps",
    cite("1502.03167"), specified_by("unified_norm")};

}  // namespace
}  // namespace formwork

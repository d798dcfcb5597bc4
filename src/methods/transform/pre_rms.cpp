#include "methods/position/position.h"
#include "methods/transform/zero_mean.h"

namespace formwork {
namespace {

Tensor centred(const Tensor& x, int64_t dimension) {
  return x - x.mean(dimension, true);
}

std::string text_of(const Value& table, const char* key) {
  return *table.find(key)->get<std::string>();
}

/// Why the mean of the embedded tokens cannot be taken out of the tables, or "".
std::string needs_centring(const ModelParts& parts, const Anatomy& anatomy, bool tied) {
  if (tied) return "the head shares the token table";
  if (text_of(*parts.options.find("conditioning"), "kind") != "none")
    return "model.conditioning.kind = " + text_of(*parts.options.find("conditioning"), "kind");
  for (const char* key : {"position", "added_position"}) {
    Choice<Position> choice("none");
    read_choice(choice, *parts.options.find(key), join_text("model.", key));
    if (choice.traits().adds && anatomy.positions.empty())
      return join_text("model.", key, ".kind = ", choice.kind(), ", which has no table");
  }
  return "";
}

/// Every norm becomes an RMS norm with the same eps, gain and shift.
void replace_norms(ModelParts& parts) {
  const int64_t width = *parts.options.find("width")->get<int64_t>();
  for_each_choice(parts.options, "norm", [&](Value& table, const std::string& path) {
    const auto layer_norm = sample_norm(table, path, width)->layer_norm_parts();
    check(layer_norm.has_value(), path + ".kind", "found '", text_of(table, "kind"),
          "', which is no layer norm: it depends on the mean that the conversion takes out; valid: "
          "layer_norm");
    table = Value(Table{{"kind", Value("rms_norm")},
                        {"eps", Value(layer_norm->eps)},
                        {"affine", Value(layer_norm->gain.defined())},
                        {"bias", Value(layer_norm->shift.defined())}});
  });
}

void fold_layer_norm(ModelParts& parts, const NamedNorm& norm,
                     const std::vector<NamedLinear>& readers) {
  const auto layer_norm = norm.norm->layer_norm_parts();
  fold_into(parts, readers, layer_norm->gain, layer_norm->shift);
  parts.tensors.erase(norm.name + ".weight");
  parts.tensors.erase(norm.name + ".bias");
}

/// Gains and shifts of the norms go into the maps that read them.
void fold_layer_norms(ModelParts& parts, const Anatomy& anatomy) {
  bool shifted = false, any = false;
  const auto look = [&](const NamedNorm& norm) {
    const auto layer_norm = norm.norm->layer_norm_parts();
    any = any || layer_norm->gain.defined();
    shifted = shifted || layer_norm->shift.defined();
  };
  for (const NamedNorm& norm : anatomy.final_norms) look(norm);
  for (const Branch& branch : anatomy.branches)
    for (const NamedNorm& norm : branch.norms) look(norm);
  if (!any) return;
  if (shifted) give_biases(parts, anatomy);
  for (const Branch& branch : anatomy.branches)
    fold_layer_norm(parts, branch.norms.front(), anatomy.readers(branch));
  for (const NamedNorm& norm : anatomy.final_norms)
    fold_layer_norm(parts, norm, anatomy.readers(norm));
  for_each_choice(parts.options, "norm", [](Value& table, const std::string&) {
    table["affine"] = Value(false);
    table["bias"] = Value(false);
  });
}

/// Everything that writes to the stream writes vectors of mean 0.
void recentre_writers(ModelParts& parts, const Anatomy& anatomy, bool tables_too) {
  const auto recentre = [&](const NamedLinear& map) {
    Tensor& weight = parts.tensors.at(map.name + ".weight");
    weight = centred(weight, 0);
    const auto bias = parts.tensors.find(map.name + ".bias");
    if (bias != parts.tensors.end()) bias->second = centred(bias->second, 0);
  };
  for (const Branch& branch : anatomy.branches)
    for (const NamedLinear& map : anatomy.writers(branch)) recentre(map);
  if (!tables_too) return;
  for (const NamedLinear& map : anatomy.stems) recentre(map);
  for (const std::string& name : anatomy.tables)
    parts.tensors.at(name) = centred(parts.tensors.at(name), -1);
}

/// Pre-LN to Pre-RMSNorm: outputs stay the same because only differences from the mean were read.
/// Jiang et al. 2023, arXiv 2305.14858.
class PreRms final : public Transform {
 public:
  PreRms(const PreRmsOptions& options, const TransformSite&) : options_(options) {}
  ModelParts apply(Module& model, const Value& options) const override {
    return to_pre_rms(model, options, options_);
  }

 private:
  PreRmsOptions options_;
};

const Register<Transform, PreRms, PreRmsOptions> pre_rms{
    "pre_rms", "layer norms before sublayers become RMS norms, at equal outputs",
    cite("2305.14858"), specified_by("pre_rmsnorm")};

}  // namespace

void PreRmsOptions::describe(OptionSet& o) {
  o.add("tied", tied,
        "a head that shares the token table: untie gives it a copy; runtime_recentre keeps it and "
        "subtracts the mean of the embedded tokens in every pass",
        one_of({"untie", "runtime_recentre"}));
  o.add("fold_affine", fold_affine,
        "always: gains and shifts of the norms go into the linear maps that read them; auto: they "
        "stay in the norms",
        one_of({"auto", "always"}));
}

ModelParts to_pre_rms(Module& model, const Value& options, const PreRmsOptions& how) {
  ModelParts parts = take_apart(model, options);
  Anatomy anatomy = dissect(model, options);
  expect_norm_first(parts.options, "a conversion to RMS norms");
  replace_norms(parts);
  expect_known_branches(anatomy);
  if (!anatomy.unknown.empty())
    refuse(anatomy.unknown.front(),
           "no conversion knows what it does to the residual stream; valid outside mixers and "
           "channels: linear maps of stems, tables of embeddings and positions");
  if (!anatomy.embed_norms.empty())
    refuse(
        anatomy.embed_norms.front().name,
        "writes to the residual stream what has a mean again; valid: model.embed_norm = \"off\"");
  for (const NamedLinear& map : anatomy.maps()) expect_plain(parts, map);
  if (how.tied == "untie") untie_head(parts, model);
  const bool tied = *parts.options.find("head")->find("tied")->get<bool>();
  check(!tied || how.fold_affine == "auto", "transform.fold_affine",
        "found always with tied = \"runtime_recentre\": the final norm cannot go into the token "
        "table; valid: tied = \"untie\"");
  know_untied_head(parts, anatomy);
  fold_layer_scale(parts, anatomy);
  if (how.fold_affine == "always") fold_layer_norms(parts, anatomy);
  const std::string reason = needs_centring(parts, anatomy, tied);
  recentre_writers(parts, anatomy, reason.empty());
  parts.options["centre_embedding"] = Value(!reason.empty());
  if (!reason.empty()) {
    parts.notes.push_back("the mean of the embedded tokens is subtracted in every pass, since " +
                          reason);
  }
  const Value* dropout = options.find("dropout");
  if (dropout && *dropout->get<double>() > 0.0)
    parts.notes.push_back(
        "model.dropout gives branches a mean again in training: the outputs are equal in inference "
        "and in training with model.dropout = 0");
  return parts;
}

}  // namespace formwork

#include "methods/mixer/collapse.h"

#include "methods/position/position.h"
#include "methods/transform/steps.h"

namespace formwork {
namespace {

const NamedLinear* map_of(const Branch& branch, Role role) {
  for (const NamedLinear& map : branch.maps)
    if (map.role == role) return &map;
  return nullptr;
}

/// Queries and keys of a branch become one map, under the name that the mixer gives it.
void merge(ModelParts& parts, const Branch& branch) {
  const NamedLinear* query = map_of(branch, Role::query);
  if (!query) return;
  // Where there is no map for keys, keys are the queries.
  const NamedLinear* key = map_of(branch, Role::key) ? map_of(branch, Role::key) : query;
  expect_plain(parts, *query);
  expect_plain(parts, *key);
  const Tensor query_weight = query->map->weight().detach(), query_bias = query->map->bias();
  const Tensor key_weight = key->map->weight().detach();
  for (const NamedLinear* map : {query, key})
    for (const char* part : {".weight", ".bias"}) parts.tensors.erase(map->name + part);
  const std::string merged = branch.name + ".qk_proj";
  parts.tensors[merged + ".weight"] = collapsed_query_key(query_weight, key_weight).contiguous();
  // A bias of the keys adds the same to all scores of a query.
  if (query_bias.defined())
    parts.tensors[merged + ".bias"] = at::matmul(key_weight.t(), query_bias.detach());
}

/// Wq and Wk of attentions with one head become M = Wkᵀ Wq, and what else a residual connection
/// and norms leave exact: nothing (without them collapse_stack() merges more). For mixers with an
/// attention_layout. Bermeitinger et al. 2024, arXiv 2410.13732.
class Collapse final : public Transform {
 public:
  Collapse(const NoOptions&, const TransformSite&) {}

  ModelParts apply(Module& model, const Value& options) const override {
    ModelParts parts = take_apart(model, options);
    const int64_t heads = *options.find("heads")->get<int64_t>();
    check(heads == 1, "model.heads", "found ", heads,
          ", but with more than one head the merged matrices would be larger; valid: 1");
    Choice<Position> position("none");
    read_choice(position, *options.find("position"), "model.position");
    check(
        !position.traits().rotates, "model.position.kind", "'", position.kind(),
        "' turns queries and keys between the two matrices that would be merged; valid: positions "
        "that are added to the vectors or the scores");
    for_each_choice(parts.options, "mixer", [](Value& table, const std::string& path) {
      const Value* layout = table.find("attention_layout");
      const std::string* found = layout ? layout->get<std::string>() : nullptr;
      check(!found || *found == "unchanged" || *found == "symmetric", path + ".attention_layout",
            "found '", found ? *found : "",
            "', which has no queries and keys to merge; valid: unchanged, symmetric");
      set_option(table, "mixer", path, "attention_layout", Value("collapsed_qk"),
                 "to store queries and keys as one matrix");
    });
    for (const Branch& branch : dissect(model, options).branches)
      if (!branch.channel) merge(parts, branch);
    return parts;
  }
};

const Register<Transform, Collapse> collapse{
    "collapse", "queries and keys of one-headed attention become one matrix", cite("2410.13732"),
    specified_by("minimal_transformer")};

}  // namespace
}  // namespace formwork

#include "methods/transform/steps.h"

#include <algorithm>

#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

bool knows_option(const std::string& axis, const std::string& kind, const std::string& key) {
  for (const MethodInfo* method : catalogue()) {
    if (method->axis != axis || method->name != kind) continue;
    OptionSet set;
    const std::unique_ptr<Options> options = method->make_options();
    options->describe(set);
    const auto all = set.document();
    return std::any_of(all.begin(), all.end(),
                       [&](const OptionInfo& info) { return info.key == key; });
  }
  return false;
}

bool tied(const Value& options) {
  const Value* tied = options.find("head")->find("tied");
  return tied && *tied->get<bool>();
}

}  // namespace

ModelParts take_apart(const Module& model, const Value& options) {
  ModelParts parts;
  parts.options = options;
  for (const auto& [name, tensor] : model.named_tensors())
    parts.tensors.emplace(name, tensor.detach().clone());
  return parts;
}

void for_each_choice(Value& options, const std::string& axis,
                     const std::function<void(Value& table, const std::string& path)>& visit) {
  if (Value* table = options.find(axis)) visit(*table, "model." + axis);
  Value* layers = options.find("layer");
  if (!layers || !layers->get<List>()) return;
  size_t index = 0;
  for (Value& layer : *layers->get<List>()) {
    Value* table = layer.find(axis);
    if (table && !table->is_null()) visit(*table, join_text("model.layer.", index, ".", axis));
    ++index;
  }
}

void set_option(Value& table, const std::string& axis, const std::string& path,
                const std::string& key, const Value& value, const std::string& why) {
  const std::string& kind = *table.find("kind")->get<std::string>();
  check(knows_option(axis, kind, key), path + ".kind", "'", kind, "' has no option ", key,
        ", which the conversion needs ", why);
  table[key] = value;
}

void erase_key(Value& table, const std::string& key) {
  std::erase_if(*table.get<Table>(), [&](const auto& entry) { return entry.first == key; });
}

std::shared_ptr<Norm> sample_norm(const Value& table, const std::string& path, int64_t width) {
  Choice<Norm> choice("none");
  read_choice(choice, table, path);
  NormSite site;
  site.width = width;
  return choice.make(site);
}

void expect_norm_first(Value& options, const std::string& conversion) {
  for (const char* key : {"wiring", "channel_wiring"})
    for_each_choice(options, key, [&](Value& table, const std::string& path) {
      Choice<Wiring> choice("none");
      read_choice(choice, table, path);
      std::string valid;
      for (const std::string& name : choice.kinds())
        if (Choice<Wiring>(name).traits().norm_first) valid += (valid.empty() ? "" : ", ") + name;
      check(choice.traits().norm_first, path + ".kind", "found '", choice.kind(), "', but ",
            conversion, " needs one norm before each sublayer and none after it; valid: ", valid);
    });
}

void expect_plain(const ModelParts& parts, const NamedLinear& map) {
  if (!map.map) return;  // an untied head
  const auto found = parts.tensors.find(map.name + ".weight");
  const bool plain = found != parts.tensors.end() &&
                     found->second.sizes() == map.map->weight().sizes() &&
                     at::equal(found->second, map.map->weight());
  check(
      plain, map.name,
      "is no plain matrix, so it cannot be changed in place; convert with --transform fold first");
}

void expect_known_branches(const Anatomy& anatomy) {
  if (!anatomy.inner_norms.empty())
    refuse(anatomy.inner_norms.front(),
           "is a norm inside a mixer or channel, which would change with model.norm; valid: mixers "
           "and channels without norms of that axis");
  for (const Branch& branch : anatomy.branches) {
    check(!anatomy.writers(branch).empty(), branch.name.empty() ? "model" : branch.name,
          branch.channel ? "the channel" : "the mixer",
          " does not end in a linear map of role output or down, so its output cannot be changed");
    for (const NamedLinear& map : branch.maps)
      check(map.role != Role::other, map.name,
            "is a linear map of role other: no conversion knows whether it reads the residual "
            "stream");
  }
}

void untie_head(ModelParts& parts, const Module& model) {
  if (!tied(parts.options)) return;
  parts.options["head"]["tied"] = Value(false);
  for (const Parameter& parameter : model.parameters())
    if (parameter.role == Role::embedding && parameter.name.ends_with("stem.weight") &&
        parameter.name.rfind("encoder.", 0) != 0)
      parts.tensors["head.weight"] = parameter.tensor.detach().clone();
}

void know_untied_head(const ModelParts& parts, Anatomy& anatomy) {
  const auto own = parts.tensors.find("head.weight");
  if (!anatomy.heads.empty() || own == parts.tensors.end()) return;
  const Tensor& weight = own->second;
  anatomy.heads.push_back({"head", nullptr, Role::head, weight.size(1), weight.size(0)});
}

void fold_layer_scale(ModelParts& parts, const Anatomy& anatomy) {
  for (const Branch& branch : anatomy.branches) {
    if (branch.scale.empty()) continue;
    const Tensor scale = parts.tensors.at(branch.scale);
    parts.tensors.erase(branch.scale);
    for (const NamedLinear& map : anatomy.writers(branch)) {
      parts.tensors.at(map.name + ".weight").mul_(scale.unsqueeze(1));
      const auto bias = parts.tensors.find(map.name + ".bias");
      if (bias != parts.tensors.end()) bias->second.mul_(scale);
    }
  }
  for (const char* key : {"wiring", "channel_wiring"})
    for_each_choice(parts.options, key,
                    [](Value& table, const std::string&) { erase_key(table, "layer_scale"); });
}

void give_biases(ModelParts& parts, const Anatomy& anatomy) {
  const auto lacks = [&](const NamedLinear& map) {
    return parts.tensors.count(map.name + ".bias") == 0;
  };
  const auto add = [&](const NamedLinear& map) {
    if (lacks(map))
      parts.tensors[map.name + ".bias"] =
          at::zeros({map.out}, parts.tensors.at(map.name + ".weight").options());
  };
  for (const bool channel : {false, true}) {
    bool lacking = false;
    for (const Branch& branch : anatomy.branches)
      for (const NamedLinear& map : branch.maps)
        lacking = lacking || (branch.channel == channel && lacks(map));
    if (!lacking) continue;
    const std::string axis = channel ? "channel" : "mixer";
    for_each_choice(parts.options, axis, [&](Value& table, const std::string& path) {
      set_option(table, axis, path, "bias", Value(true), "to take up the shift of the norm before");
    });
    for (const Branch& branch : anatomy.branches)
      if (branch.channel == channel) std::for_each(branch.maps.begin(), branch.maps.end(), add);
  }
  for (const NamedLinear& map : anatomy.heads) {
    if (!lacks(map)) continue;
    parts.options["head"]["bias"] = Value(true);
    add(map);
  }
}

void fold_into(ModelParts& parts, const std::vector<NamedLinear>& maps, const Tensor& scale,
               const Tensor& shift) {
  for (const NamedLinear& map : maps) {
    Tensor& weight = parts.tensors.at(map.name + ".weight");
    // A head that reads all tokens side by side has a block of columns for each.
    const int64_t width = scale.defined()   ? scale.size(0)
                          : shift.defined() ? shift.size(0)
                                            : map.in;
    const Tensor blocks = weight.view({map.out, -1, width});
    if (shift.defined())
      parts.tensors.at(map.name + ".bias").add_((blocks * shift.detach()).flatten(1).sum(1));
    if (scale.defined()) weight = (blocks * scale.detach()).view({map.out, map.in});
  }
}

}  // namespace formwork

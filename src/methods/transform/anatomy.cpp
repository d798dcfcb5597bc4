#include "methods/transform/anatomy.h"

#include <charconv>
#include <set>

#include "methods/channel/channel.h"
#include "methods/mixer/mixer.h"
#include "methods/stem/stem.h"
#include "methods/wiring/wiring.h"

namespace formwork {
namespace {

bool ends_with_part(const std::string& name, const std::string& part) {
  return name == part || name.ends_with("." + part);
}

std::string joined(const std::string& prefix, const std::string& name) {
  if (prefix.empty() || name.empty()) return prefix + name;
  return prefix + "." + name;
}

/// Walks the tree once. A body (mixer or channel) is visited just before its wiring.
class Dissection {
 public:
  Dissection(Module& model, const Value& options) : model_(model), options_(options) {
    result_.width = *options.find("width")->get<int64_t>();
  }

  Anatomy run() {
    model_.visit([this](const std::string& name, Module& module) {
      if (inside_.count(&module) == 0) look(name, module);
    });
    sort_parameters();
    return std::move(result_);
  }

 private:
  void look(const std::string& name, Module& module) {
    if (dynamic_cast<Mixer*>(&module) || dynamic_cast<Channel*>(&module)) {
      take_body(name, module);
    } else if (auto* wiring = dynamic_cast<Wiring*>(&module)) {
      take_wiring(name, *wiring);
    } else if (auto* norm = dynamic_cast<Norm*>(&module)) {
      const bool embedding = ends_with_part(name, "embed_norm");
      (embedding ? result_.embed_norms : result_.final_norms).push_back({name, norm});
      claim(name, module);
    } else if (dynamic_cast<Stem*>(&module)) {
      take_maps(name, module, result_.stems);
    } else if (auto* map = dynamic_cast<Linear*>(&module)) {
      take_head(named(name, *map));
    }
  }

  void take_body(const std::string& name, Module& module) {
    Branch branch;
    branch.name = name;
    branch.channel = dynamic_cast<Channel*>(&module) != nullptr;
    take_maps(name, module, branch.maps);
    module.visit([&](const std::string& inner, Module& part) {
      if (dynamic_cast<Norm*>(&part)) result_.inner_norms.push_back(joined(name, inner));
    });
    claim(name, module);
    result_.branches.push_back(std::move(branch));
  }

  void take_wiring(const std::string& name, Wiring& wiring) {
    Branch& branch = result_.branches.back();
    branch.cross = ends_with_part(name, "cross");
    wiring.visit([&](const std::string& inner, Module& part) {
      inside_.insert(&part);
      if (auto* norm = dynamic_cast<Norm*>(&part))
        branch.norms.push_back({joined(name, inner), norm});
    });
    const Tensor scale = wiring.branch_scale();
    for (const Parameter& parameter : wiring.parameters())
      if (scale.defined() && parameter.tensor.is_same(scale))
        branch.scale = joined(name, parameter.name);
    claim(name, wiring);
  }

  /// The first map of a head reads the stream, those after it do not.
  void take_head(const NamedLinear& map) {
    claim(map.name, *map.map);
    if (map.role != Role::head)
      result_.unknown.push_back(map.name);
    else if (result_.heads.empty())
      result_.heads.push_back(map);
  }

  void take_maps(const std::string& name, Module& module, std::vector<NamedLinear>& list) {
    module.visit([&](const std::string& inner, Module& part) {
      inside_.insert(&part);
      auto* map = dynamic_cast<Linear*>(&part);
      if (!map) return;
      list.push_back(named(joined(name, inner), *map));
      claim(list.back().name, part);
    });
  }

  static NamedLinear named(const std::string& name, Linear& map) {
    const Tensor weight = map.weight();
    NamedLinear result{name, &map, Role::other, weight.size(1), weight.size(0)};
    for (const Parameter& parameter : map.parameters()) {
      if (parameter.role == Role::bias || parameter.role == Role::norm) continue;
      result.role = parameter.role;
      break;
    }
    return result;
  }

  void claim(const std::string& name, const Module& module) {
    for (const Parameter& parameter : module.parameters())
      claimed_.insert(joined(name, parameter.name));
  }

  /// What is left are tables of embeddings and positions, and what nobody knows.
  void sort_parameters() {
    for (const Parameter& parameter : model_.parameters()) {
      if (claimed_.count(parameter.name) > 0) continue;
      const bool row = parameter.tensor.dim() > 0 && parameter.tensor.size(-1) == result_.width;
      const bool position = parameter.role == Role::position && adds(parameter.name);
      if (row && (parameter.role == Role::embedding || position)) {
        result_.tables.push_back(parameter.name);
        if (position) result_.positions.push_back(parameter.name);
      } else if (parameter.role != Role::position || position) {
        result_.unknown.push_back(parameter.name);  // rotations and biases never touch the stream
      }
    }
  }

  /// Whether a position's parameter is added to the stream.
  bool adds(const std::string& parameter) const {
    for (const char* key : {"added_position", "position"}) {
      const std::string part = std::string(key) + ".";
      if (parameter.rfind(part, 0) != 0 && parameter.find("." + part) == std::string::npos)
        continue;
      Choice<Position> choice("none");
      read_choice(choice, *options_.find(key), join_text("model.", key));
      return choice.traits().adds;
    }
    return false;
  }

  Module& model_;
  const Value& options_;
  Anatomy result_;
  std::set<const Module*> inside_;  // parts of stems, bodies and wirings
  std::set<std::string> claimed_;   // parameters of parts that are known
};

}  // namespace

std::vector<NamedLinear> Anatomy::maps() const {
  std::vector<NamedLinear> all = stems;
  for (const Branch& branch : branches)
    all.insert(all.end(), branch.maps.begin(), branch.maps.end());
  all.insert(all.end(), heads.begin(), heads.end());
  return all;
}

std::vector<NamedLinear> Anatomy::readers(const Branch& branch) const {
  std::vector<NamedLinear> list;
  for (const NamedLinear& map : branch.maps) {
    const bool memory = branch.cross && (map.role == Role::key || map.role == Role::value);
    const bool reads = map.role == Role::query || map.role == Role::key ||
                       map.role == Role::value || map.role == Role::up || map.role == Role::gate;
    if (reads && !memory) list.push_back(map);
  }
  return list;
}

std::vector<NamedLinear> Anatomy::writers(const Branch& branch) const {
  std::vector<NamedLinear> list;
  for (const NamedLinear& map : branch.maps)
    if (map.role == Role::output || map.role == Role::down) list.push_back(map);
  return list;
}

std::vector<NamedLinear> Anatomy::readers(const NamedNorm& final_norm) const {
  if (final_norm.name.rfind("encoder.", 0) != 0) return heads;
  std::vector<NamedLinear> list;
  for (const Branch& branch : branches)
    for (const NamedLinear& map : branch.maps)
      if (branch.cross && (map.role == Role::key || map.role == Role::value)) list.push_back(map);
  return list;
}

Anatomy dissect(Module& model, const Value& options) {
  return Dissection(model, options).run();
}

int64_t layer_index(const std::string& name) {
  const std::string part = "layers.";
  const size_t at = name.find(part);
  int64_t layer = -1;
  if (at != std::string::npos)
    std::from_chars(name.data() + at + part.size(), name.data() + name.size(), layer);
  return layer;
}

}  // namespace formwork

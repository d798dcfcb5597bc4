#include "training/probing.h"

#include <algorithm>

#include "training/inspection.h"

namespace formwork {

void Probing::before_step() {
  before_.clear();
  const std::vector<std::string>& kinds = recipe_.train.probe.kinds;
  const bool updates = std::any_of(kinds.begin(), kinds.end(), [](const std::string& text) {
    return parse_probe(text, "train.probe.kinds").traits().updates;
  });
  if (!updates) return;
  for (const Parameter& p : model_.parameters()) before_.push_back(p.tensor.detach().clone());
}

Measured Probing::measure() {
  InspectionRequest request;
  request.probes = recipe_.train.probe.kinds;
  request.items = recipe_.train.probe.items;
  request.precision = recipe_.train.precision;
  request.seed = static_cast<uint64_t>(recipe_.train.seed);
  request.before = std::move(before_);
  request.since = "the step before";
  before_.clear();
  Measured measured;
  for (const ProbeResult& result : inspect(model_, task_, request))
    for (const Series& series : result.findings.series)
      measured.emplace_back(series.name.empty() ? result.name : result.name + "." + series.name,
                            series.values);
  return measured;
}

Value measured_json(const Measured& measured) {
  Value table{Table{}};
  for (const auto& [name, values] : measured) {
    List list;
    for (const double value : values) list.emplace_back(value);
    table[name] = Value(std::move(list));
  }
  return table;
}

}  // namespace formwork

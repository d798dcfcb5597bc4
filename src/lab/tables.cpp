#include "lab/tables.h"

#include <cmath>
#include <optional>

#include "lab/text_table.h"

namespace formwork {
namespace {

const std::string kNothing = "–";

/// The value at a path of keys, or nullptr.
const Value* at(const Value& value, const std::vector<const char*>& keys) {
  const Value* found = &value;
  for (const char* key : keys)
    if (found) found = found->find(key);
  return found;
}

std::optional<double> number(const Value& value, const std::vector<const char*>& keys) {
  const Value* found = at(value, keys);
  if (found && found->get<double>()) return *found->get<double>();
  if (found && found->get<int64_t>()) return static_cast<double>(*found->get<int64_t>());
  return std::nullopt;
}

std::string text(const Value& value, const std::vector<const char*>& keys) {
  const Value* found = at(value, keys);
  const std::string* held = found ? found->get<std::string>() : nullptr;
  return held ? *held : "";
}

std::string printed(const char* format, double value) {
  char out[48];
  std::snprintf(out, sizeof out, format, value);
  return out;
}

std::string or_nothing(const std::optional<double>& value, const char* format) {
  return value ? printed(format, *value) : kNothing;
}

std::string short_or_nothing(const std::optional<double>& value) {
  return value ? short_figure(*value) : kNothing;
}

/// "0.4012 ± 0.0031", as many digits as the spread leaves meaning.
std::string spread_text(const Value& variant, const char* key) {
  const std::optional<double> mean = number(variant, {key, "mean"});
  if (!mean) return kNothing;
  const std::optional<double> deviation = number(variant, {key, "deviation"});
  return deviation ? printed("%.4g", *mean) + " ± " + printed("%.2g", *deviation)
                   : printed("%.4g", *mean);
}

/// "better", or "no difference seen (< 0.02)".
std::string verdict_text(const Value& variant, const char* key) {
  const std::string verdict = text(variant, {"against_baseline", key, "verdict"});
  if (verdict.empty()) return kNothing;
  const std::optional<double> p = number(variant, {"against_baseline", key, "p"});
  if (verdict != "no difference seen")
    return p ? verdict + " (p " + printed("%.2g", *p) + ")" : verdict;
  const std::optional<double> least =
      number(variant, {"against_baseline", key, "smallest_detectable"});
  return verdict + (least ? " (sees ≥ " + printed("%.2g", *least) + ")" : "");
}

/// The same in a terminal's few columns: "better (p 0.01)", or "none ≥ 0.02".
std::string short_verdict(const Value& variant) {
  const std::optional<double> least =
      number(variant, {"against_baseline", "metric", "smallest_detectable"});
  const bool none =
      text(variant, {"against_baseline", "metric", "verdict"}) == "no difference seen";
  return none && least ? "none ≥ " + printed("%.2g", *least) : verdict_text(variant, "metric");
}

std::string difference_text(const Value& variant, const char* key) {
  return or_nothing(number(variant, {"against_baseline", key, "difference"}), "%+.3g");
}

std::string seeds_done(const Value& variant) {
  int64_t done = 0, all = 0;
  for (const Value& run : *variant.find("runs")->get<List>()) {
    ++all;
    if (text(run, {"status"}) == "done") ++done;
  }
  return std::to_string(done) + " of " + std::to_string(all);
}

std::string status_text(const Value& variant) {
  const std::string status = text(variant, {"status"});
  return status == "done" ? status : status + " (" + seeds_done(variant) + " done)";
}

bool same_metric(const Value& summary) {
  return text(summary, {"metric", "name"}) == "validation_loss";
}

const List& variants_of(const Value& summary) {
  return *summary.find("variants")->get<List>();
}

std::string quality_table(const Value& summary) {
  const std::string metric = text(summary, {"metric", "name"});
  std::vector<std::string> head = {"variant"};
  if (!same_metric(summary)) head.insert(head.end(), {metric, "Δ", "against the baseline"});
  head.insert(head.end(), {"validation loss", "Δ", "against the baseline", "status"});
  TextTable table(head);
  for (const Value& variant : variants_of(summary)) {
    std::vector<std::string> row = {text(variant, {"name"})};
    if (!same_metric(summary))
      row.insert(row.end(), {spread_text(variant, "metric"), difference_text(variant, "metric"),
                             verdict_text(variant, "metric")});
    row.insert(row.end(), {spread_text(variant, "loss"), difference_text(variant, "loss"),
                           verdict_text(variant, "loss"), status_text(variant)});
    table.add(row);
  }
  return table.markdown();
}

std::string cost_table(const Value& summary) {
  TextTable table({"variant", "parameters", "FLOPs / token", "tokens / s", "peak memory",
                   "latency, batch 1", "latency, training batch", "seconds to the baseline's loss",
                   "tokens to the baseline's loss"});
  for (const Value& variant : variants_of(summary)) {
    const auto with_unit = [](const std::string& figure, const char* unit) {
      return figure == kNothing ? figure : figure + unit;
    };
    table.add(
        {text(variant, {"name"}), short_or_nothing(number(variant, {"parameters"})),
         short_or_nothing(number(variant, {"flops_per_token"})),
         short_or_nothing(number(variant, {"tokens_per_second"})),
         with_unit(short_or_nothing(number(variant, {"peak_memory_bytes"})), "B"),
         with_unit(or_nothing(number(variant, {"latency_ms", "batch_1"}), "%.3g"), " ms"),
         with_unit(or_nothing(number(variant, {"latency_ms", "training_batch"}), "%.3g"), " ms"),
         or_nothing(number(variant, {"to_baseline_loss", "seconds"}), "%.3g"),
         short_or_nothing(number(variant, {"to_baseline_loss", "tokens"}))});
  }
  return table.markdown();
}

std::string stability_table(const Value& summary) {
  TextTable table({"variant", "loss spikes", "largest gradient norm", "failure"});
  for (const Value& variant : variants_of(summary)) {
    const std::string failure = text(variant, {"failure"});
    table.add({text(variant, {"name"}), or_nothing(number(variant, {"spikes"}), "%.0f"),
               or_nothing(number(variant, {"largest_gradient_norm"}), "%.3g"),
               failure.empty() ? kNothing : failure});
  }
  return table.markdown();
}

std::string csv_cell(const Value* value) {
  if (!value || value->is_null()) return "";
  const std::string* string = value->get<std::string>();
  const std::string plain = string ? *string : value->text();
  if (plain.find_first_of(",\"\n") == std::string::npos) return plain;
  std::string quoted = "\"";
  for (const char c : plain) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

using Path = std::vector<const char*>;

void add_line(std::string& csv, const std::vector<std::string>& cells) {
  for (size_t i = 0; i < cells.size(); ++i) csv += (i == 0 ? "" : ",") + cells[i];
  csv += "\n";
}

}  // namespace

std::string short_figure(double value) {
  if (value == 0.0) return "0";
  static const char* const kUnits[] = {"", " k", " M", " G", " T", " P"};
  int power = 0;
  while (std::abs(value) >= 999.5 && power < 5) {
    value /= 1000.0;
    ++power;
  }
  return printed("%.3g", value) + kUnits[power];
}

std::string summary_markdown(const Value& summary) {
  const std::string equal = text(summary, {"equal"});
  std::string out = "# " + text(summary, {"recipe"}) + "\n\n";
  out += "Equal " + equal + " (" + short_figure(*number(summary, {"budget"})) + "), " +
         std::to_string(summary.find("seeds")->get<List>()->size()) + " seeds. Made by `" +
         text(summary, {"command"}) + "` on " + text(summary, {"date"}).substr(0, 10) + ", " +
         text(summary, {"machine", "processor"}) + ".\n";
  if (const std::optional<double> jobs = number(summary, {"jobs"}))
    out += "Trained " + printed("%.0f", *jobs) + " at a time with " +
           or_nothing(number(summary, {"threads_per_job"}), "%.0f") + " threads each.\n";
  out += "\n## Quality\n\n" + quality_table(summary);
  out +=
      "\n± is the standard deviation over seeds. \"better\" and \"worse\" are verdicts of a paired "
      "t-test over seeds (p < 0.05); with many variants, one in twenty looks different by chance. "
      "\"sees ≥ x\": a true difference of x would have been noticed four times in five.\n";
  out += "\n## Cost\n\n" + cost_table(summary);
  out += "\n## Stability\n\n" + stability_table(summary);
  return out;
}

std::string summary_csv(const Value& summary) {
  const std::vector<std::pair<std::string, Path>> columns = {
      {"variant", {"name"}},
      {"status", {"status"}},
      {"metric_mean", {"metric", "mean"}},
      {"metric_deviation", {"metric", "deviation"}},
      {"metric_difference", {"against_baseline", "metric", "difference"}},
      {"metric_p", {"against_baseline", "metric", "p"}},
      {"metric_smallest_detectable", {"against_baseline", "metric", "smallest_detectable"}},
      {"metric_verdict", {"against_baseline", "metric", "verdict"}},
      {"loss_mean", {"loss", "mean"}},
      {"loss_deviation", {"loss", "deviation"}},
      {"loss_difference", {"against_baseline", "loss", "difference"}},
      {"loss_p", {"against_baseline", "loss", "p"}},
      {"loss_smallest_detectable", {"against_baseline", "loss", "smallest_detectable"}},
      {"loss_verdict", {"against_baseline", "loss", "verdict"}},
      {"parameters", {"parameters"}},
      {"flops_per_token", {"flops_per_token"}},
      {"tokens_per_second", {"tokens_per_second"}},
      {"peak_memory_bytes", {"peak_memory_bytes"}},
      {"latency_ms_batch_1", {"latency_ms", "batch_1"}},
      {"latency_ms_training_batch", {"latency_ms", "training_batch"}},
      {"seconds_to_baseline_loss", {"to_baseline_loss", "seconds"}},
      {"tokens_to_baseline_loss", {"to_baseline_loss", "tokens"}},
      {"spikes", {"spikes"}},
      {"largest_gradient_norm", {"largest_gradient_norm"}},
      {"failure", {"failure"}}};
  std::string csv;
  std::vector<std::string> cells;
  for (const auto& [name, path] : columns) cells.push_back(name);
  add_line(csv, cells);
  for (const Value& variant : variants_of(summary)) {
    cells.clear();
    for (const auto& [name, path] : columns) cells.push_back(csv_cell(at(variant, path)));
    add_line(csv, cells);
  }
  return csv;
}

std::string runs_csv(const Value& summary) {
  static const char* const kKeys[] = {
      "seed",    "folder", "status", "metric", "loss",
      "seconds", "tokens", "steps",  "spikes", "largest_gradient_norm",
      "failure"};
  std::string csv = "variant";
  for (const char* key : kKeys) csv += std::string(",") + key;
  csv += "\n";
  for (const Value& variant : variants_of(summary))
    for (const Value& run : *variant.find("runs")->get<List>()) {
      std::vector<std::string> cells = {csv_cell(variant.find("name"))};
      for (const char* key : kKeys) cells.push_back(csv_cell(run.find(key)));
      add_line(csv, cells);
    }
  return csv;
}

std::string summary_text(const Value& summary) {
  const bool one = same_metric(summary);
  std::vector<std::string> head = {"variant"};
  if (!one) head.push_back(text(summary, {"metric", "name"}));
  head.insert(head.end(), {"validation loss", "difference"});
  TextTable quality(head), cost({"variant", "tokens/s", "memory", "latency", "status"});
  std::string failures;
  for (const Value& variant : variants_of(summary)) {
    const std::string name = text(variant, {"name"});
    std::vector<std::string> row = {name};
    if (!one) row.push_back(spread_text(variant, "metric"));
    row.insert(row.end(), {spread_text(variant, "loss"), short_verdict(variant)});
    quality.add(row);
    const std::string latency = or_nothing(number(variant, {"latency_ms", "batch_1"}), "%.3g");
    cost.add({name, short_or_nothing(number(variant, {"tokens_per_second"})),
              short_or_nothing(number(variant, {"peak_memory_bytes"})),
              latency == kNothing ? latency : latency + " ms", status_text(variant)});
    if (const std::string failure = text(variant, {"failure"}); !failure.empty())
      failures += name + ": " + failure + "\n";
  }
  std::string out = quality.text();
  if (out.find("none ≥") != std::string::npos)
    out += "none ≥ x: a difference of x would have been seen four times in five\n";
  return out + "\n" + cost.text() + failures;
}

}  // namespace formwork

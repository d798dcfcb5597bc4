#include <cmath>
#include <numbers>

#include "tasks/text.h"

namespace formwork {
namespace {

/// The next byte of any file. Characters are counted as UTF-8 has them, so that bits per character
/// compare with those of the task "characters".
class BytesTask final : public TextTask {
 public:
  BytesTask(const TextOptions& options, const TaskSite& site)
      : TextTask(TextUnit::bytes, options, site) {}

  MetricSums metric_sums(const Tensor& output, const Batch& batch) const override {
    MetricSums sums = TextTask::metric_sums(output, batch);
    // Bytes 0x80 to 0xBF go on with a character.
    const Tensor inside = batch.target.ge(0x80).logical_and(batch.target.lt(0xc0));
    sums["characters"] = sums["count"] - static_cast<double>(inside.sum().item<int64_t>());
    return sums;
  }
  std::map<std::string, double> metrics(const MetricSums& sums) const override {
    auto figures = Task::metrics(sums);
    const double bits = sums.at("nats") / std::numbers::ln2;
    figures["bits_per_byte"] = bits / sums.at("count");
    if (sums.at("characters") > 0) figures["bits_per_character"] = bits / sums.at("characters");
    figures["perplexity"] = std::exp(sums.at("nats") / sums.at("count"));
    return figures;
  }
};

const Register<Task, BytesTask, TextOptions> bytes{
    "bytes", "the next byte of a file", cite("Al-Rfou et al. 2019, 1808.04444"), specified_by("")};

}  // namespace
}  // namespace formwork

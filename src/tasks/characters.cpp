#include <cmath>
#include <numbers>

#include "tasks/text.h"

namespace formwork {
namespace {

/// The next character of a UTF-8 text. The vocabulary is every character that occurs in the
/// training and validation texts, in the order of Unicode.
class CharactersTask final : public TextTask {
 public:
  CharactersTask(const TextOptions& options, const TaskSite& site)
      : TextTask(TextUnit::characters, options, site) {}

  std::map<std::string, double> metrics(const MetricSums& sums) const override {
    auto figures = Task::metrics(sums);
    const double nats = sums.at("nats") / sums.at("count");
    figures["bits_per_character"] = nats / std::numbers::ln2;
    figures["perplexity"] = std::exp(nats);
    return figures;
  }
};

const Register<Task, CharactersTask, TextOptions> characters{
    "characters", "the next character of a text", cite("Graves 2013, 1308.0850"), specified_by("")};

}  // namespace
}  // namespace formwork

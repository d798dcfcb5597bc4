#include <algorithm>
#include <filesystem>

#include "data/sequences.h"
#include "formats/atomic_file.h"
#include "tasks/order.h"
#include "tasks/sequence_text.h"
#include "tasks/task.h"

namespace formwork {
namespace {

struct SequenceTaskOptions {
  std::string problem = "copy";
  int64_t length = 16;
  int64_t symbols = 16;
  int64_t pairs = 8;
  int64_t digits = 4;
  int64_t order = 1;
  double concentration = 0.5;
  bool reversed_answer = false;
  bool source = false;
  int64_t validation_items = 1000;
  std::string validation_part = "validation";
  int64_t seed = 0;

  void describe(OptionSet& o) {
    o.add("problem", problem,
          "copy, reverse, sort: of symbols; recall: the value of a key; first: the first of "
          "different "
          "symbols; addition: of two numbers; "
          "markov: a random source of order `order`",
          one_of({"copy", "reverse", "sort", "recall", "first", "addition", "markov"}));
    o.add("length", length, "copy, reverse, sort, first: symbols of a question; markov: tokens",
          between(1, 1 << 24));
    o.add("symbols", symbols, "different symbols; recall: keys, and as many values",
          between(2, 1 << 20));
    o.add("pairs", pairs, "recall: pairs of key and value", between(1, 1 << 20));
    o.add("digits", digits, "addition: digits of each number", between(1, 1 << 20));
    o.add("order", order, "markov: tokens of history that matter", between(0, 64));
    o.add("concentration", concentration,
          "markov: of the Dirichlet law of each row of chances; small: nearly certain, large: "
          "nearly uniform",
          above(0));
    o.add("reversed_answer", reversed_answer, "addition: the sum's last digit first");
    o.add("source", source,
          "the question is the source of an encoder-decoder and the answer its target; otherwise "
          "one sequence holds both");
    o.add("validation_items", validation_items, "validation items", at_least(1));
    o.add("validation_part", validation_part, "what validation uses",
          one_of({"validation", "test"}));
    o.add("seed", seed, "decides the validation items and the source of markov", at_least(0));
    o.require(
        "source", [this] { return !source || problem != "markov"; },
        "found true, but task.problem = \"markov\" has no answer; valid: false");
    o.require(
        "pairs", [this] { return problem != "recall" || pairs <= symbols; },
        "is more than task.symbols, but every pair needs a key of its own");
    o.require(
        "length", [this] { return problem != "first" || length <= symbols; },
        "is more than task.symbols, but the symbols of problem = \"first\" all differ");
    o.require(
        "order", [this] { return problem != "markov" || order <= length; },
        "is more than task.length, so that no token would have its whole history");
  }
};

SequenceOptions source_options(const SequenceTaskOptions& options) {
  SequenceOptions made;
  made.kind = parse_sequence_kind(options.problem, "task.problem");
  made.length = made.kind == SequenceKind::recall     ? options.pairs
                : made.kind == SequenceKind::addition ? options.digits
                                                      : options.length;
  made.symbols = options.symbols;
  made.order = options.order;
  made.concentration = options.concentration;
  made.reversed_answer = options.reversed_answer;
  made.seed = static_cast<uint64_t>(options.seed);
  return made;
}

/// Generated problems. One sequence [B,N] of question and answer for a decoder, or a source [B,M]
/// and the answer's tokens, each predicted from those before it, the first from the question's last
/// token. Only the answer counts (markov: every token whose whole history is visible). Training
/// items are drawn without end; what an item asks decides whether it is for training or validation.
class SequenceTask final : public Task {
 public:
  SequenceTask(const SequenceTaskOptions& options, const TaskSite& site)
      : options_(options),
        random_(site.random),
        source_(source_options(options)),
        text_(source_.options()) {
    const SequenceSample sample = source_.sample(Split::train, 0);
    source_.sample(held_out(), 0);  // refuses problems too small to have both
    if (!options.source) return;
    const auto answer = std::find(sample.mask.begin(), sample.mask.end(), 1);
    question_ = answer - sample.mask.begin() + 1;
  }

  TaskForm form() const override {
    TaskForm form;
    form.input.kind = InputForm::Kind::tokens;
    form.input.vocabulary = source_.vocabulary_size();
    form.input.length = source_.length() - skipped();
    form.output = {OutputForm::Kind::tokens, source_.vocabulary_size(), 0};
    form.form = "decoder";
    if (options_.source) {
      form.form = "encoder_decoder";
      form.source = form.input;
      form.source.length = question_;
    }
    return form;
  }
  int64_t validation_items() const override { return options_.validation_items; }
  std::string main_metric() const override {
    return options_.problem == "markov" ? "validation_loss" : "accuracy";
  }
  bool more_is_better() const override { return options_.problem != "markov"; }

  Batch training_batch(int64_t first, int64_t count) override {
    return pack(count, [&](int64_t i) {
      // The source's index is itself random: a run's seed decides its items.
      return source_.sample(Split::train, random_.child(static_cast<uint64_t>(first + i)).key());
    });
  }
  Batch validation_batch(int64_t first, int64_t count) override {
    check_items(first, count, options_.validation_items);
    return pack(count, [&](int64_t i) {
      return source_.sample(held_out(), static_cast<uint64_t>(first + i));
    });
  }

  MetricSums metric_sums(const Tensor& output, const Batch& batch) const override {
    MetricSums sums = Task::metric_sums(output, batch);
    const Tensor wrong = output.argmax(-1).ne(batch.target).logical_and(batch.target.ge(0));
    sums["exact"] = static_cast<double>(wrong.any(1).logical_not().sum().item<int64_t>());
    sums["rows"] = static_cast<double>(batch.size);
    return sums;
  }
  std::map<std::string, double> metrics(const MetricSums& sums) const override {
    auto figures = Task::metrics(sums);
    figures["exact"] = sums.at("exact") / sums.at("rows");
    if (options_.problem != "markov") return figures;
    if (!entropy_rate_) entropy_rate_ = source_.entropy_rate();
    if (*entropy_rate_) figures["entropy_rate"] = **entropy_rate_;
    return figures;
  }

  std::vector<int64_t> encode(const std::string& text) const override { return text_.encode(text); }
  std::string decode(const std::vector<int64_t>& ids) const override { return text_.decode(ids); }

  void write_data(const std::string& folder, int64_t items) override;

 private:
  Split held_out() const {
    return options_.validation_part == "test" ? Split::test : Split::validation;
  }
  /// Tokens of a sample that an encoder-decoder's decoder does not read: all of the question but
  /// its last.
  int64_t skipped() const { return options_.source ? question_ - 1 : 0; }

  template <class Sample>
  Batch pack(int64_t count, Sample sample) const {
    const int64_t size = source_.length() - skipped();
    Batch batch;
    batch.input.input = at::empty({count, size}, at::kLong);
    batch.target = at::empty({count, size}, at::kLong);
    if (options_.source) batch.input.source = at::empty({count, question_}, at::kLong);
    for (int64_t i = 0; i < count; ++i) {
      const SequenceSample item = sample(i);
      int64_t* target = batch.target.data_ptr<int64_t>() + i * size;
      std::copy(item.input.begin() + skipped(), item.input.end(),
                batch.input.input.data_ptr<int64_t>() + i * size);
      for (int64_t n = 0; n < size; ++n) {
        const auto at = static_cast<size_t>(n + skipped());
        target[n] = item.mask[at] ? item.target[at] : -1;
      }
      if (options_.source)
        std::copy(item.input.begin(), item.input.begin() + question_,
                  batch.input.source.data_ptr<int64_t>() + i * question_);
    }
    batch.size = count;
    batch.tokens = count * (size + (options_.source ? question_ : 0));
    return batch;
  }

  SequenceTaskOptions options_;
  RandomStream random_;
  SequenceSource source_;
  SequenceText text_;
  int64_t question_ = 0;
  mutable std::optional<std::optional<double>> entropy_rate_;
};

void SequenceTask::write_data(const std::string& folder, int64_t items) {
  const auto write = [&](const char* name, Split split, int64_t count) {
    std::string lines;
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t index = random_.child("files").child(static_cast<uint64_t>(i)).key();
      const SequenceSample sample = source_.sample(split, index);
      std::vector<int64_t> ids = sample.input;
      ids.push_back(sample.target.back());
      lines += text_.decode(ids) + "\n";
    }
    write_file_atomically((std::filesystem::path(folder) / name).string(), lines);
  };
  const int64_t held_out = std::max<int64_t>(items / 10, 1);
  write("train.txt", Split::train, items);
  write("validation.txt", Split::validation, held_out);
  write("test.txt", Split::test, held_out);
}

const Register<Task, SequenceTask, SequenceTaskOptions> sequence{
    "sequence", "copy, reverse, sort, recall, addition and Markov sources, generated",
    cite("Graves et al. 2014, 1410.5401"), specified_by("")};

}  // namespace
}  // namespace formwork

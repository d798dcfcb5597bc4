#include "data/listops.h"

#include <algorithm>
#include <filesystem>

#include "data/listops_file.h"
#include "formats/atomic_file.h"
#include "tasks/order.h"
#include "tasks/task.h"

namespace formwork {
namespace {

struct ListopsTaskOptions {
  int64_t length = 512;
  std::string folder;
  std::optional<int64_t> min_length, max_length;
  int64_t max_depth = 10;
  int64_t max_args = 10;
  int64_t samples = 0;
  int64_t validation_items = 2000;
  std::string validation_part = "validation";
  int64_t seed = 0;

  void describe(OptionSet& o) {
    o.add("length", length, "tokens of every input: longer ones are cut, shorter ones padded",
          between(1, 1 << 20));
    o.add("folder", folder,
          "folder with basic_train.tsv, basic_val.tsv and basic_test.tsv; empty: generate");
    o.add("min_length", min_length, "generated trees have more tokens; default: length / 4",
          at_least(0));
    o.add("max_length", max_length, "generated trees have fewer tokens; default: length",
          at_least(2));
    o.add("max_depth", max_depth, "levels of generated trees", between(1, 100));
    o.add("max_args", max_args, "most arguments of an operator", between(2, 1000));
    o.add("samples", samples, "generated training items that come again each epoch; 0: endless",
          at_least(0));
    o.add("validation_items", validation_items, "validation items; from files at most, 0: all",
          at_least(0));
    o.add("validation_part", validation_part, "what validation uses",
          one_of({"validation", "test"}));
    o.add("seed", seed, "decides generated validation items and, with samples, the training set",
          at_least(0));
    o.require(
        "validation_items", [this] { return validation_items > 0 || !folder.empty(); },
        "found 0; valid: at least 1 where items are generated");
  }
};

/// What the generator's options become for a run of this length. With length = 2000 these are the
/// bounds of the Long Range Arena.
ListopsOptions generator(const ListopsTaskOptions& options, uint64_t seed) {
  ListopsOptions made;
  made.max_depth = options.max_depth;
  made.max_args = options.max_args;
  made.min_length = options.min_length.value_or(options.length / 4);
  made.max_length = options.max_length.value_or(options.length);
  made.seed = seed;
  check_listops(made, "task");
  return made;
}

/// Samples of a stream that are made when they are first asked for and then kept.
class KeptSamples {
 public:
  KeptSamples(const ListopsStream& stream, int64_t count)
      : stream_(stream), samples_(static_cast<size_t>(count)) {}
  const ListopsSample& at(int64_t index) {
    ListopsSample& sample = samples_[static_cast<size_t>(index)];
    if (sample.tokens.empty()) sample = stream_.sample(static_cast<uint64_t>(index));
    return sample;
  }

 private:
  ListopsStream stream_;
  std::vector<ListopsSample> samples_;
};

/// ListOps, a 10-way classification of nested list operations. Input: tokens [B,length], 17 ids
/// with 0 = padding. Training items are drawn as they are needed (thousands a second), so none
/// comes twice, or from `samples` fixed ones, or from files. Nangia and Bowman 2018; Tay et al.
/// 2021 (Long Range Arena), arXiv 2011.04006.
class ListopsTask final : public Task {
 public:
  ListopsTask(const ListopsTaskOptions& options, const TaskSite& site)
      : options_(options), random_(site.random) {
    if (options.folder.empty())
      prepare_generator();
    else
      read_files();
    if (training_items() > 0) order_.emplace(training_items(), random_.child("order"));
  }

  TaskForm form() const override {
    TaskForm form;
    form.input.kind = InputForm::Kind::tokens;
    form.input.vocabulary = listops::kVocabulary;
    form.input.length = options_.length;
    form.output = {OutputForm::Kind::classes, listops::kClasses, 0};
    form.form = "encoder";
    return form;
  }
  int64_t training_items() const override {
    return options_.folder.empty() ? options_.samples : static_cast<int64_t>(train_.size());
  }
  int64_t validation_items() const override {
    return options_.folder.empty() ? options_.validation_items
                                   : static_cast<int64_t>(validation_.size());
  }
  std::string main_metric() const override { return "accuracy"; }
  bool more_is_better() const override { return true; }
  std::string fingerprint() const override { return fingerprint_; }

  Batch training_batch(int64_t first, int64_t count) override {
    return pack(count, [&](int64_t i) -> ListopsSample {
      // The stream's index is itself random: a run's seed decides its items.
      if (!order_) return stream_->sample(random_.child(static_cast<uint64_t>(first + i)).key());
      const int64_t item = order_->at(first + i);
      return kept_train_ ? kept_train_->at(item) : train_[static_cast<size_t>(item)];
    });
  }
  Batch validation_batch(int64_t first, int64_t count) override {
    check_items(first, count, validation_items());
    return pack(count, [&](int64_t i) -> const ListopsSample& {
      return kept_validation_ ? kept_validation_->at(first + i)
                              : validation_[static_cast<size_t>(first + i)];
    });
  }
  void write_data(const std::string& folder, int64_t items) override {
    const int64_t held_out = std::min(std::max<int64_t>(items / 10, 1), options_.validation_items);
    const auto samples =
        generate_listops(generator(options_, random_.child("files").key()), items + 2 * held_out);
    const auto write = [&](Split split, int64_t first, int64_t count) {
      const auto path = std::filesystem::path(folder) / listops_file_name(split);
      AtomicFile file(path.string());
      write_listops_tsv({samples.begin() + first, samples.begin() + first + count},
                        [&](std::string_view part) { file.write(part); });
      file.commit();
    };
    write(Split::train, 0, items);
    write(Split::validation, items, held_out);
    write(Split::test, items + held_out, held_out);
  }

 private:
  Split held_out() const {
    return options_.validation_part == "test" ? Split::test : Split::validation;
  }
  void prepare_generator() {
    const ListopsOptions made = generator(options_, static_cast<uint64_t>(options_.seed));
    stream_.emplace(made, Split::train);
    kept_validation_.emplace(ListopsStream(made, held_out()), options_.validation_items);
    if (options_.samples > 0) kept_train_.emplace(*stream_, options_.samples);
  }
  std::vector<ListopsSample> read(Split split) const {
    const auto path = std::filesystem::path(options_.folder) / listops_file_name(split);
    std::vector<ListopsSample> samples = read_listops_tsv(path.string());
    check(!samples.empty(), path.string(), "has a header but no rows; task.folder needs some");
    for (ListopsSample& sample : samples)
      if (static_cast<int64_t>(sample.tokens.size()) > options_.length)
        sample.tokens.resize(static_cast<size_t>(options_.length));
    return samples;
  }
  void read_files() {
    train_ = read(Split::train);
    validation_ = read(held_out());
    if (options_.validation_items > 0 && validation_items() > options_.validation_items)
      validation_.resize(static_cast<size_t>(options_.validation_items));
    fingerprint_ =
        join_text("listops training=", train_.size(), " validation=", validation_.size());
  }
  template <class Sample>
  Batch pack(int64_t count, Sample sample) const {
    Batch batch;
    batch.input.input = at::zeros({count, options_.length}, at::kLong);
    batch.target = at::empty({count}, at::kLong);
    int64_t* ids = batch.input.input.data_ptr<int64_t>();
    int64_t* labels = batch.target.data_ptr<int64_t>();
    for (int64_t i = 0; i < count; ++i) {
      const ListopsSample& item = sample(i);
      const std::vector<int64_t> encoded = encode_listops(item.tokens, options_.length);
      std::copy(encoded.begin(), encoded.end(), ids + i * options_.length);
      labels[i] = item.label;
    }
    batch.input.valid = batch.input.input.gt(0);
    batch.size = count;
    batch.tokens = count * options_.length;
    return batch;
  }

  ListopsTaskOptions options_;
  RandomStream random_;
  std::optional<EpochOrder> order_;
  std::optional<ListopsStream> stream_;
  std::optional<KeptSamples> kept_train_, kept_validation_;
  std::vector<ListopsSample> train_, validation_;
  std::string fingerprint_;
};

const Register<Task, ListopsTask, ListopsTaskOptions> listops_task{
    "listops", "10-way classification of nested list operations (Long Range Arena)",
    cite("2011.04006"), specified_by("lra_tasks")};

}  // namespace
}  // namespace formwork

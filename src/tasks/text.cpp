#include "tasks/text.h"

#include <algorithm>
#include <filesystem>

#include "tasks/order.h"

namespace formwork {

void TextOptions::describe(OptionSet& o) {
  o.add("path", path, "a text file, or a folder whose files are read one after the other");
  o.add("validation_path", validation_path,
        "the validation text; empty: the last part of the text at path");
  o.add("length", length, "tokens of every input", between(1, 1 << 24));
  o.add("validation_fraction", validation_fraction,
        "part of the text that is kept for validation where validation_path is empty",
        between(1e-6, 1 - 1e-6));
  o.add("validation_windows", validation_windows,
        "windows of the validation text that are used, spread evenly; 0: all", at_least(0));
}

TextTask::TextTask(TextUnit unit, const TextOptions& options, const TaskSite& site)
    : unit_(unit), options_(options), random_(site.random) {
  check(!options.path.empty(), "task.path",
        "is missing; valid: a text file or a folder of text files, such as "
        "data/tinyshakespeare/input.txt");
  if (options.validation_path.empty())
    split(TextData::read(options.path, unit));
  else
    read_two();
  const auto training = static_cast<int64_t>(train_.size());
  const auto validation = static_cast<int64_t>(validation_.size());
  const char* units = unit == TextUnit::bytes ? " bytes" : " characters";
  check(training > options.length, "task.length", "found ", options.length, ", but '", options.path,
        "' has ", training, units, " for training; valid: at most ", training - 1);
  check(validation >= 2,
        options.validation_path.empty() ? "task.validation_fraction" : "task.validation_path",
        "leaves ", validation, units, " for validation; at least 2 are needed");
  all_windows_ = (validation - 2) / options.length + 1;
  windows_ = options.validation_windows == 0 ? all_windows_
                                             : std::min(options.validation_windows, all_windows_);
}

void TextTask::split(TextData data) {
  const auto part = [&](Interval range) {
    const auto ids = data.ids();
    return std::vector<uint16_t>(ids.begin() + range.begin, ids.begin() + range.end);
  };
  train_ = part(data.train_range(options_.validation_fraction));
  validation_ = part(data.validation_range(options_.validation_fraction));
  vocabulary_ = data.vocabulary();
}

void TextTask::read_two() {
  std::error_code ignored;
  check(!std::filesystem::equivalent(options_.path, options_.validation_path, ignored),
        "task.validation_path", "is the training text '", options_.path,
        "'; give another one, or leave it empty and set task.validation_fraction");
  const TextData training = TextData::read(options_.path, unit_);
  const TextData validation = TextData::read(options_.validation_path, unit_);
  if (unit_ == TextUnit::bytes) {
    train_.assign(training.ids().begin(), training.ids().end());
    validation_.assign(validation.ids().begin(), validation.ids().end());
    return;
  }
  // One vocabulary for both: a character that only the validation text has is never predicted
  // well, but it counts.
  std::vector<char32_t> all = training.vocabulary().characters();
  const std::vector<char32_t>& more = validation.vocabulary().characters();
  all.insert(all.end(), more.begin(), more.end());
  vocabulary_ = CharacterVocabulary(all);
  const auto renumber = [&](const TextData& data) {
    const std::vector<int64_t> ids = vocabulary_.encode(data.vocabulary().text());
    std::vector<uint16_t> renumbered;
    renumbered.reserve(data.ids().size());
    for (const uint16_t id : data.ids()) renumbered.push_back(static_cast<uint16_t>(ids[id]));
    return renumbered;
  };
  train_ = renumber(training);
  validation_ = renumber(validation);
}

int64_t TextTask::vocabulary_size() const {
  return unit_ == TextUnit::bytes ? 256 : vocabulary_.size();
}

TaskForm TextTask::form() const {
  TaskForm form;
  form.input.kind = InputForm::Kind::tokens;
  form.input.vocabulary = vocabulary_size();
  form.input.length = options_.length;
  form.output = {OutputForm::Kind::tokens, vocabulary_size(), 0};
  form.form = "decoder";
  return form;
}

Batch TextTask::make_batch(int64_t count) const {
  Batch batch;
  batch.input.input = at::zeros({count, options_.length}, at::kLong);
  batch.target = at::full({count, options_.length}, -1, at::kLong);
  batch.size = count;
  batch.tokens = count * options_.length;
  return batch;
}

Batch TextTask::training_batch(int64_t first, int64_t count) {
  Batch batch = make_batch(count);
  int64_t* input = batch.input.input.data_ptr<int64_t>();
  int64_t* target = batch.target.data_ptr<int64_t>();
  const int64_t last_start = static_cast<int64_t>(train_.size()) - options_.length - 1;
  for (int64_t i = 0; i < count; ++i) {
    Random random = random_.child(static_cast<uint64_t>(first + i)).random();
    const auto from = train_.begin() + random.integer(0, last_start);
    std::copy(from, from + options_.length, input + i * options_.length);
    std::copy(from + 1, from + 1 + options_.length, target + i * options_.length);
  }
  return batch;
}

Batch TextTask::validation_batch(int64_t first, int64_t count) {
  check_items(first, count, windows_);
  Batch batch = make_batch(count);
  int64_t* input = batch.input.input.data_ptr<int64_t>();
  int64_t* target = batch.target.data_ptr<int64_t>();
  bool padded = false;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t start = spread(first + i, windows_, all_windows_) * options_.length;
    const int64_t size =
        std::min(options_.length, static_cast<int64_t>(validation_.size()) - 1 - start);
    const auto from = validation_.begin() + start;
    std::copy(from, from + size, input + i * options_.length);
    std::copy(from + 1, from + 1 + size, target + i * options_.length);
    padded = padded || size < options_.length;
  }
  if (padded) batch.input.valid = batch.target.ge(0);
  return batch;
}

MetricSums TextTask::metric_sums(const Tensor& output, const Batch& batch) const {
  MetricSums sums = Task::metric_sums(output, batch);
  sums["nats"] = loss(output, batch).sum.item<double>();
  return sums;
}

std::string TextTask::fingerprint() const {
  return join_text(unit_ == TextUnit::bytes ? "bytes" : "characters",
                   " vocabulary=", vocabulary_size(), " training=", train_.size(),
                   " validation=", validation_.size(), " hash=", hash_text(vocabulary_.text()));
}

std::vector<int64_t> TextTask::encode(const std::string& text) const {
  if (unit_ == TextUnit::characters) return vocabulary_.encode(text);
  std::vector<int64_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

std::string TextTask::decode(const std::vector<int64_t>& ids) const {
  if (unit_ == TextUnit::characters) return vocabulary_.decode(ids);
  std::string text;
  for (const int64_t id : ids) {
    check(id >= 0 && id < 256, "bytes", "id ", id, " is outside 0..255");
    text += static_cast<char>(id);
  }
  return text;
}

}  // namespace formwork

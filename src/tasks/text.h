// What the tasks "characters" and "bytes" share: the next unit of a text.
#pragma once

#include <string>
#include <vector>

#include "data/text.h"
#include "tasks/task.h"

namespace formwork {

struct TextOptions {
  std::string path;
  std::string validation_path;
  int64_t length = 256;
  double validation_fraction = 0.1;
  int64_t validation_windows = 0;
  void describe(OptionSet& o);
};

/// Next-token prediction on a text: tokens [B,length], target = the tokens one further. Training
/// items are windows at random places, each a pure function of the seed and its index; validation
/// items are the consecutive windows of the validation text (the last one padded).
class TextTask : public Task {
 public:
  TextTask(TextUnit unit, const TextOptions& options, const TaskSite& site);

  TaskForm form() const override;
  int64_t validation_items() const override { return windows_; }
  Batch training_batch(int64_t first, int64_t count) override;
  Batch validation_batch(int64_t first, int64_t count) override;
  MetricSums metric_sums(const Tensor& output, const Batch& batch) const override;
  std::string fingerprint() const override;
  std::vector<int64_t> encode(const std::string& text) const override;
  std::string decode(const std::vector<int64_t>& ids) const override;

 protected:
  int64_t vocabulary_size() const;

 private:
  void split(TextData data);
  void read_two();
  Batch make_batch(int64_t count) const;

  TextUnit unit_;
  TextOptions options_;
  RandomStream random_;
  CharacterVocabulary vocabulary_;  // empty for bytes
  std::vector<uint16_t> train_, validation_;
  int64_t all_windows_ = 0, windows_ = 0;
};

}  // namespace formwork

#include "tasks/text.h"

#include <cmath>

#include "support/refusal.h"
#include "support/temporary_folder.h"
#include "tasks/support.h"

namespace formwork::test {
namespace {

/// 200 characters, no two windows of 5 the same.
std::string sample_text() {
  std::string text;
  for (int i = 0; i < 50; ++i)
    text += join_text(static_cast<char>('a' + i / 10), i % 10, static_cast<char>('k' + i % 7), " ");
  return text;
}

TEST(unit, text_task_windows) {
  const TemporaryFolder folder;
  const std::string text = sample_text();
  write_bytes(folder.file("t.txt"), text);
  const Table options{{"path", folder.file("t.txt")}, {"length", int64_t{8}}};
  for (const char* kind : {"characters", "bytes"}) {
    const auto task = make_task(kind, options);
    EXPECT_EQ(task->form().form, "decoder");
    EXPECT_EQ(task->training_items(), 0);
    const Batch batch = task->training_batch(0, 30);
    EXPECT_EQ(batch.input.input.sizes(), (std::vector<int64_t>{30, 8}));
    EXPECT_FALSE(batch.input.valid.defined());
    EXPECT_TRUE(at::equal(batch.input.input.narrow(1, 1, 7), batch.target.narrow(1, 0, 7)));
    const std::string train = text.substr(0, 180);
    for (int64_t i = 0; i < 30; ++i) {
      std::vector<int64_t> ids;
      for (int64_t n = 0; n < 8; ++n) ids.push_back(batch.input.input[i][n].item<int64_t>());
      ids.push_back(batch.target[i][7].item<int64_t>());
      EXPECT_NE(train.find(task->decode(ids)), std::string::npos) << task->decode(ids);
    }
    expect_pure(kind, options);
    EXPECT_EQ(task->decode(task->encode("a0k ")), "a0k ");
  }
}

TEST(unit, text_task_validation_covers_the_text_once) {
  const TemporaryFolder folder;
  write_bytes(folder.file("t.txt"), sample_text());
  const auto task = make_task("bytes", {{"path", folder.file("t.txt")}, {"length", int64_t{8}}});
  // 20 bytes: 19 targets in windows of 8, 8 and 3.
  ASSERT_EQ(task->validation_items(), 3);
  const Batch batch = task->validation_batch(0, 3);
  EXPECT_EQ(task->target_count(batch), 19);
  EXPECT_TRUE(at::equal(batch.input.valid, batch.target.ge(0)));
  EXPECT_FALSE(task->validation_batch(0, 2).input.valid.defined());
  std::string seen;
  for (int64_t i = 0; i < 24; ++i)
    if (const auto id = batch.target.flatten()[i].item<int64_t>(); id >= 0)
      seen += static_cast<char>(id);
  EXPECT_EQ(seen, sample_text().substr(181));
  const auto some = make_task(
      "bytes",
      {{"path", folder.file("t.txt")}, {"length", int64_t{2}}, {"validation_windows", int64_t{2}}});
  EXPECT_EQ(some->validation_items(), 2);
}

TEST(unit, text_task_two_texts_share_a_vocabulary) {
  const TemporaryFolder folder;
  write_bytes(folder.file("a.txt"), "abcabcabcabcd");
  write_bytes(folder.file("b.txt"),
              "\xc3\xa9"
              "bz");
  const Table options{{"path", folder.file("a.txt")},
                      {"validation_path", folder.file("b.txt")},
                      {"length", int64_t{4}}};
  const auto task = make_task("characters", options);
  EXPECT_EQ(task->form().output.size, 6);  // a b c d z é
  const Batch batch = task->validation_batch(0, 1);
  EXPECT_EQ(text_of(batch.input.input), "5,1,0,0,");
  EXPECT_EQ(text_of(batch.target), "1,4,-1,-1,");
  const std::string before = task->fingerprint();
  write_bytes(folder.file("b.txt"), "xbz");
  EXPECT_NE(make_task("characters", options)->fingerprint(), before);
  expect_error([&] { task->encode("Q"); }, Fault::request, {"'Q'"});
}

TEST(unit, text_task_metrics) {
  const TemporaryFolder folder;
  write_bytes(folder.file("t.txt"), sample_text());
  const Table options{{"path", folder.file("t.txt")}, {"length", int64_t{4}}};
  const auto task = make_task("bytes", options);
  Batch batch;
  batch.target = at::tensor({0x61, 0xc3, 0xa9, -1}, at::kLong).view({1, 4});
  const Tensor output = at::zeros({1, 4, 256});
  const auto figures = task->metrics(task->metric_sums(output, batch));
  EXPECT_NEAR(figures.at("bits_per_byte"), 8, 1e-5);
  EXPECT_NEAR(figures.at("bits_per_character"), 12, 1e-5);  // three bytes, two characters
  EXPECT_NEAR(figures.at("perplexity"), 256, 1e-2);
  const auto characters = make_task("characters", options);
  const int64_t size = characters->form().output.size;
  batch.target = at::tensor({1, 2, 3, -1}, at::kLong).view({1, 4});
  const Tensor guess = logits_for(at::tensor({1, 2, 0, 0}, at::kLong).view({1, 4}), size);
  const auto others = characters->metrics(characters->metric_sums(guess, batch));
  EXPECT_NEAR(others.at("accuracy"), 2.0 / 3, 1e-12);
  const double loss = characters->loss(guess, batch).sum.item<double>() / 3;
  EXPECT_NEAR(others.at("bits_per_character"), loss / std::log(2.0), 1e-6);
}

TEST(fault, text_task_files) {
  const TemporaryFolder folder;
  const auto make = [&](const Table& options) { make_task("characters", options); };
  expect_error([&] { make({}); }, Fault::request, {"task.path", "missing"});
  const std::string path = folder.file("t.txt");
  expect_error([&] { make({{"path", path}}); }, Fault::request, {path});
  write_bytes(path, "");
  expect_error([&] { make({{"path", path}}); }, Fault::request, {path, "empty"});
  write_bytes(path, std::string(100, 'x'));
  expect_error(
      [&] {
        make({{"path", path}});
      },
      Fault::request, {"task.length", path, "90 characters", "at most 89"});
  expect_error(
      [&] {
        make({{"path", path}, {"validation_path", path}});
      },
      Fault::request, {"task.validation_path"});
  write_bytes(path, "ab\xff");
  expect_error([&] { make({{"path", path}}); }, Fault::request, {path, "byte 2"});
}

}  // namespace
}  // namespace formwork::test

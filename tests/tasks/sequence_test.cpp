#include "data/sequences.h"

#include <cmath>
#include <set>

#include "support/refusal.h"
#include "support/temporary_folder.h"
#include "tasks/support.h"

namespace formwork::test {
namespace {

std::vector<int64_t> ids_of(const Tensor& row) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < row.size(0); ++i) ids.push_back(row[i].item<int64_t>());
  return ids;
}

TEST(unit, sequence_task_one_sequence) {
  const auto task = make_task("sequence", {{"problem", "reverse"}, {"length", int64_t{5}}});
  EXPECT_EQ(task->form().form, "decoder");
  EXPECT_EQ(task->form().input.vocabulary, 17);
  EXPECT_EQ(task->form().input.length, 10);
  const Batch batch = task->training_batch(0, 4);
  EXPECT_EQ(task->target_count(batch), 20);
  EXPECT_FALSE(batch.input.source.defined());
  for (int64_t i = 0; i < 4; ++i) {
    const std::string text = task->decode(ids_of(batch.input.input[i]));
    const std::string answer = task->decode(ids_of(batch.target[i].narrow(0, 5, 5)));
    EXPECT_EQ(text.substr(0, 5), std::string(answer.rbegin(), answer.rend()));
    EXPECT_EQ(text.substr(5), "|" + answer.substr(0, 4));
    EXPECT_TRUE(batch.target[i].narrow(0, 0, 5).eq(-1).all().item<bool>());
    EXPECT_EQ(task->encode(text), ids_of(batch.input.input[i]));
  }
}

TEST(unit, sequence_task_with_source) {
  const Table options{{"problem", "addition"}, {"digits", int64_t{3}}, {"source", true}};
  const auto task = make_task("sequence", options);
  const TaskForm form = task->form();
  EXPECT_EQ(form.form, "encoder_decoder");
  EXPECT_EQ(form.source.vocabulary, 12);
  EXPECT_EQ(form.source.length, 8);
  EXPECT_EQ(form.input.length, 4);
  const Batch batch = task->validation_batch(0, 20);
  EXPECT_EQ(batch.input.source.sizes(), (std::vector<int64_t>{20, 8}));
  EXPECT_EQ(batch.input.input.sizes(), (std::vector<int64_t>{20, 4}));
  EXPECT_EQ(task->target_count(batch), 80);
  EXPECT_EQ(batch.tokens, 20 * 12);
  for (int64_t i = 0; i < 20; ++i) {
    const std::string question = task->decode(ids_of(batch.input.source[i]));
    const int64_t sum = std::stoll(question.substr(0, 3)) + std::stoll(question.substr(4, 3));
    EXPECT_EQ(std::stoll(task->decode(ids_of(batch.target[i]))), sum) << question;
    EXPECT_EQ(task->decode(ids_of(batch.input.input[i])).substr(0, 1), "=");
    EXPECT_TRUE(at::equal(batch.input.input[i].narrow(0, 1, 3), batch.target[i].narrow(0, 0, 3)));
  }
  expect_pure("sequence", options);
}

TEST(property, sequence_task_is_pure_and_parts_do_not_overlap) {
  for (const char* problem : {"copy", "sort", "recall", "first", "addition", "markov"}) {
    const Table options{{"problem", problem}, {"length", int64_t{6}}, {"pairs", int64_t{3}}};
    expect_pure("sequence", options);
    if (std::string(problem) == "markov") continue;
    // So few different questions that an overlap would show.
    const auto task = make_task("sequence", {{"problem", problem},
                                             {"length", int64_t{2}},
                                             {"pairs", int64_t{1}},
                                             {"digits", int64_t{1}}});
    std::set<std::string> held_out;
    for (int64_t i = 0; i < 100; ++i)
      held_out.insert(text_of(task->validation_batch(i, 1).input.input));
    for (int64_t i = 0; i < 300; ++i)
      EXPECT_EQ(held_out.count(text_of(task->training_batch(i, 1).input.input)), 0u) << problem;
  }
}

TEST(unit, sequence_task_markov_is_the_same_source_for_every_seed) {
  const Table options{{"problem", "markov"}, {"symbols", int64_t{4}}, {"order", int64_t{2}}};
  const auto task = make_task("sequence", options, 1), other = make_task("sequence", options, 2);
  const Batch batch = task->validation_batch(0, 2);
  EXPECT_EQ(task->target_count(batch), 2 * 15);  // the first target has one token of history
  const Tensor output = at::zeros({2, 16, 4});
  const auto figures = task->metrics(task->metric_sums(output, batch));
  EXPECT_GT(figures.at("entropy_rate"), 0);
  EXPECT_LT(figures.at("entropy_rate"), std::log(4.0));
  EXPECT_EQ(other->metrics(other->metric_sums(output, batch)).at("entropy_rate"),
            figures.at("entropy_rate"));
  Table third = options;
  third.emplace_back("seed", int64_t{5});
  const auto changed = make_task("sequence", third);
  EXPECT_NE(changed->metrics(changed->metric_sums(output, batch)).at("entropy_rate"),
            figures.at("entropy_rate"));
}

TEST(unit, sequence_task_metrics) {
  const auto task = make_task("sequence", {{"problem", "copy"}, {"length", int64_t{2}}});
  Batch batch;
  batch.size = 2;
  batch.target = at::tensor({-1, -1, 3, 4, -1, -1, 5, 6}, at::kLong).view({2, 4});
  const Tensor guess = at::tensor({0, 0, 3, 4, 0, 0, 5, 0}, at::kLong).view({2, 4});
  const auto figures = task->metrics(task->metric_sums(logits_for(guess, 17), batch));
  EXPECT_DOUBLE_EQ(figures.at("accuracy"), 0.75);
  EXPECT_DOUBLE_EQ(figures.at("exact"), 0.5);
}

TEST(unit, sequence_task_text) {
  const auto recall = make_task("sequence", {{"problem", "recall"}, {"pairs", int64_t{2}}});
  EXPECT_EQ(recall->encode("aB bA|a"), (std::vector<int64_t>{0, 17, 1, 16, 32, 0}));
  EXPECT_EQ(recall->decode({0, 17, 32}), "aB|");
  const auto many = make_task(
      "sequence", {{"problem", "recall"}, {"pairs", int64_t{2}}, {"symbols", int64_t{100}}});
  EXPECT_EQ(many->decode({7, 142, 200, 7}), "7 =42 | 7");
  EXPECT_EQ(many->encode("7 =42 | 7"), (std::vector<int64_t>{7, 142, 200, 7}));
  expect_error([&] { many->encode("=100"); }, Fault::request, {"'=100'", "=99"});
  expect_error([&] { recall->encode("z"); }, Fault::request, {"'z'"});
  const auto markov = make_task("sequence", {{"problem", "markov"}});
  expect_error([&] { markov->encode("|"); }, Fault::request, {"'|'"});
  const TemporaryFolder folder;
  make_task("sequence", {{"length", int64_t{3}}})->write_data(folder.path(), 20);
  const std::string lines = read_bytes(folder.file("train.txt"));
  EXPECT_EQ(lines.size(), 20u * 8);
  EXPECT_EQ(lines.substr(0, 3), lines.substr(4, 3));
}

TEST(fault, sequence_task_options) {
  const auto make = [](const Table& options) { make_task("sequence", options); };
  expect_error(
      [&] {
        make({{"problem", "markov"}, {"source", true}});
      },
      Fault::request, {"task.source", "markov"});
  expect_error(
      [&] {
        make({{"problem", "recall"}, {"pairs", int64_t{17}}});
      },
      Fault::request, {"task.pairs"});
  expect_error([&] { make({{"problem", "shuffle"}}); }, Fault::request, {"task.problem", "copy"});
}

}  // namespace
}  // namespace formwork::test

#include "data/listops.h"

#include <cmath>

#include "data/listops_file.h"
#include "data/split.h"
#include "support/refusal.h"
#include "support/temporary_folder.h"
#include "tasks/support.h"

namespace formwork::test {
namespace {

const Table kSmall{{"length", int64_t{60}}, {"validation_items", int64_t{50}}};

Table with(Table table, const std::string& key, Value value) {
  table.emplace_back(key, std::move(value));
  return table;
}

std::vector<uint8_t> symbols_of(const Tensor& row) {
  std::vector<uint8_t> symbols;
  for (int64_t i = 0; i < row.size(0); ++i)
    if (const auto id = row[i].item<int64_t>(); id != 0)
      symbols.push_back(static_cast<uint8_t>(id));
  return symbols;
}

TEST(unit, listops_task_batches) {
  const auto task = make_task("listops", kSmall);
  EXPECT_EQ(task->form().form, "encoder");
  EXPECT_EQ(task->form().input.vocabulary, 17);
  EXPECT_EQ(task->form().output.size, 10);
  EXPECT_EQ(task->training_items(), 0);
  EXPECT_EQ(task->validation_items(), 50);
  const Batch batch = task->training_batch(0, 20);
  EXPECT_EQ(batch.input.input.sizes(), (std::vector<int64_t>{20, 60}));
  EXPECT_EQ(batch.tokens, 1200);
  EXPECT_TRUE(at::equal(batch.input.valid, batch.input.input.ne(0)));
  for (int64_t i = 0; i < 20; ++i) {
    const auto symbols = symbols_of(batch.input.input[i]);
    EXPECT_GT(symbols.size(), 15u);
    EXPECT_LT(symbols.size(), 60u);
    EXPECT_EQ(listops_value(symbols), batch.target[i].item<int64_t>());
  }
  expect_error([&] { task->validation_batch(40, 11); }, Fault::request, {"validation", "50"});
}

TEST(property, listops_task_is_pure) {
  expect_pure("listops", kSmall);
  expect_pure("listops", with(kSmall, "samples", int64_t{40}));
}

TEST(property, listops_task_parts_do_not_overlap) {
  const auto validation = make_task("listops", kSmall);
  const auto tests = make_task("listops", with(kSmall, "validation_part", "test"));
  // A tree alone decides its part, so it is enough that every item is where it belongs.
  const auto part = [](const Batch& batch) {
    const auto symbols = symbols_of(batch.input.input[0]);
    return split_of({reinterpret_cast<const char*>(symbols.data()), symbols.size()});
  };
  for (int64_t i = 0; i < 50; ++i) {
    EXPECT_EQ(part(validation->training_batch(i, 1)), Split::train);
    EXPECT_EQ(part(validation->validation_batch(i, 1)), Split::validation);
    EXPECT_EQ(part(tests->validation_batch(i, 1)), Split::test);
  }
}

TEST(property, listops_task_epochs) {
  const auto task = make_task("listops", with(kSmall, "samples", int64_t{30}));
  EXPECT_EQ(task->training_items(), 30);
  expect_epochs(*task, [](const Batch& batch) { return text_of(batch.input.input); });
}

TEST(unit, listops_task_files) {
  const TemporaryFolder folder;
  make_task("listops", kSmall)->write_data(folder.path(), 40);
  const auto rows = read_listops_tsv(folder.file("basic_val.tsv"));
  const Table options{{"length", int64_t{30}}, {"folder", folder.path()}};
  const auto task = make_task("listops", options);
  EXPECT_EQ(task->training_items(), 40);
  EXPECT_EQ(task->validation_items(), 4);
  EXPECT_NE(task->fingerprint().find("training=40"), std::string::npos);
  const Batch batch = task->validation_batch(0, 4);
  for (int64_t i = 0; i < 4; ++i) {
    // Cut to the length, the label is the whole tree's.
    EXPECT_EQ(batch.input.input[i][29].item<int64_t>(),
              rows[i].tokens.size() > 29 ? rows[i].tokens[29] : 0);
    EXPECT_EQ(batch.target[i].item<int64_t>(), rows[i].label);
  }
  expect_pure("listops", options);
  std::filesystem::remove(folder.file("basic_train.tsv"));
  expect_error([&] { make_task("listops", options); }, Fault::request, {"basic_train.tsv"});
  write_bytes(folder.file("basic_train.tsv"), "Source\tTarget\r\n( 3\t3\r\n7\t12\r\n");
  expect_error([&] { make_task("listops", options); }, Fault::request, {"basic_train.tsv:3"});
}

TEST(fault, listops_task_options) {
  expect_error(
      [] {
        make_task("listops", {{"length", int64_t{40}}, {"min_length", int64_t{39}}});
      },
      Fault::request, {"task", "max_length"});
  expect_error(
      [] {
        make_task("listops", {{"validation_items", int64_t{0}}});
      },
      Fault::request, {"task.validation_items"});
}

TEST(unit, class_metrics) {
  const auto task = make_task("listops", kSmall);
  Batch batch;
  batch.target = at::tensor({3, 1, 9, 0}, at::kLong);
  const Tensor output = logits_for(at::tensor({3, 1, 2, 0}, at::kLong), 10);
  const auto figures = task->metrics(task->metric_sums(output, batch));
  EXPECT_DOUBLE_EQ(figures.at("accuracy"), 0.75);
  EXPECT_EQ(task->target_count(batch), 4);
  const LossSum loss = task->loss(output, batch);
  const double right = std::log(1 + 9 * std::exp(-4.0));
  EXPECT_NEAR(loss.sum.item<double>(), 4 * right + 4, 1e-5);
  EXPECT_EQ(loss.count, 4);
  EXPECT_NEAR(task->loss(output.to(at::kBFloat16), batch).sum.item<double>(), 4 * right + 4, 1e-5);
}

}  // namespace
}  // namespace formwork::test

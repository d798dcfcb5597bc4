#include "data/images.h"

#include "support/refusal.h"
#include "support/temporary_folder.h"
#include "tasks/support.h"

namespace formwork::test {
namespace {

std::string big_endian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift & 255);
  return bytes;
}

/// `count` images of 2 x 3: pixel p of image i is 10 i + p, its label i % 10.
void write_idx(const TemporaryFolder& folder, const std::string& part, uint32_t count) {
  std::string images = big_endian(0x803) + big_endian(count) + big_endian(2) + big_endian(3);
  std::string labels = big_endian(0x801) + big_endian(count);
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t p = 0; p < 6; ++p) images += static_cast<char>(10 * i + p);
    labels += static_cast<char>(i % 10);
  }
  write_bytes(folder.file(part + "-images-idx3-ubyte"), images);
  write_bytes(folder.file(part + "-labels-idx1-ubyte"), labels);
}

void write_cifar(const TemporaryFolder& folder) {
  int label = 0;
  for (const char* name : {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                           "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"}) {
    std::string bytes;
    for (int i = 0; i < 2; ++i) {
      bytes += static_cast<char>(label++ % 10);
      bytes += std::string(1024, static_cast<char>(200)) + std::string(1024, 'd') +
               std::string(1024, static_cast<char>(label));
    }
    write_bytes(folder.file(name), bytes);
  }
}

TEST(unit, image_task_mnist_patch) {
  const TemporaryFolder folder;
  write_idx(folder, "train", 12);
  const auto task = make_task("image", {{"folder", folder.path()}});
  EXPECT_EQ(task->training_items(), 10);
  EXPECT_EQ(task->validation_items(), 2);
  EXPECT_EQ(task->form().form, "encoder");
  EXPECT_EQ(task->form().input.height, 2);
  EXPECT_EQ(task->form().input.width, 3);
  const Batch all = task->training_batch(0, 10);
  EXPECT_EQ(all.input.input.sizes(), (std::vector<int64_t>{10, 1, 2, 3}));
  EXPECT_NEAR(all.input.input.mean().item<double>(), 0, 1e-5);
  EXPECT_NEAR(all.input.input.std(false).item<double>(), 1, 1e-5);
  expect_epochs(*task, [](const Batch& batch) { return text_of(batch.target); });
  const auto raw = make_task("image", {{"folder", folder.path()}, {"normalise", false}});
  const Batch last = raw->validation_batch(1, 1);
  EXPECT_EQ(last.target.item<int64_t>(), 1);
  EXPECT_NEAR(last.input.input[0][0][1][2].item<double>(), 115 / 255.0, 1e-6);
  expect_pure("image", {{"folder", folder.path()}});
  EXPECT_EQ(task->fingerprint(), "image mnist training=10 validation=2 size=1x2x3");
}

TEST(unit, image_task_one_pair_of_files) {
  const TemporaryFolder folder;
  write_idx(folder, "t10k", 10);
  const Table options{{"images", folder.file("t10k-images-idx3-ubyte")},
                      {"labels", folder.file("t10k-labels-idx1-ubyte")},
                      {"training_items", int64_t{8}},
                      {"as", "pixels"},
                      {"zero_pixel_is_padding", true}};
  const auto task = make_task("image", options);
  EXPECT_EQ(task->training_items(), 8);
  EXPECT_EQ(task->form().input.vocabulary, 256);
  EXPECT_EQ(task->form().input.length, 6);
  const Batch batch = task->validation_batch(0, 2);
  EXPECT_EQ(text_of(batch.input.input[0]), "80,81,82,83,84,85,");
  EXPECT_EQ(text_of(batch.target), "8,9,");
  const Batch train = task->training_batch(0, 8);
  EXPECT_EQ(train.input.valid.logical_not().sum().item<int64_t>(), 1);
  // No training image is a validation image.
  EXPECT_LT(train.target.max().item<int64_t>(), 8);
}

TEST(unit, image_task_gratings) {
  const Table options{
      {"format", "gratings"}, {"training_items", int64_t{20}}, {"validation_items", int64_t{6}}};
  const auto task = make_task("image", options);
  EXPECT_EQ(task->training_items(), 20);
  EXPECT_EQ(task->validation_items(), 6);
  EXPECT_EQ(task->form().input.height, 16);
  expect_pure("image", options);
  expect_error(
      [] {
        make_task("image", {{"format", "gratings"}, {"folder", "somewhere"}});
      },
      Fault::request, {"task.folder", "gratings"});
  expect_error(
      [] {
        make_task("image", {{"format", "gratings"}, {"validation_part", "test"}});
      },
      Fault::request, {"validation_part", "gratings"});
}

TEST(unit, image_task_cifar) {
  const TemporaryFolder folder;
  write_cifar(folder);
  const Table options{{"folder", folder.path()}, {"format", "cifar10"}, {"as", "pixels"}};
  const auto task = make_task("image", options);
  EXPECT_EQ(task->training_items(), 9);
  EXPECT_EQ(task->validation_items(), 1);
  const Batch batch = task->validation_batch(0, 1);
  EXPECT_EQ(batch.input.input.sizes(), (std::vector<int64_t>{1, 1024}));
  EXPECT_EQ(batch.input.input[0][7].item<int64_t>(), grey_value(200, 100, 10));
  EXPECT_FALSE(batch.input.valid.defined());
  Table tests = options;
  tests.emplace_back("validation_part", "test");
  EXPECT_EQ(make_task("image", tests)->validation_items(), 2);
  const auto patch = make_task("image", {{"folder", folder.path()}, {"format", "cifar10"}});
  EXPECT_EQ(patch->form().input.channels, 3);
  EXPECT_EQ(patch->training_batch(0, 2).input.input.sizes(), (std::vector<int64_t>{2, 3, 32, 32}));
}

TEST(fault, image_task_files) {
  const TemporaryFolder folder;
  const auto make = [&](Table options) {
    options.emplace_back("folder", folder.path());
    make_task("image", options);
  };
  expect_error([] { make_task("image", {}); }, Fault::request, {"task.folder", "missing"});
  expect_error([&] { make({}); }, Fault::request, {"train-images-idx3-ubyte"});
  write_idx(folder, "train", 12);
  expect_error(
      [&] {
        make({{"training_items", int64_t{12}}});
      },
      Fault::request, {"task.training_items", "12 images", "1 to 11"});
  write_bytes(folder.file("train-labels-idx1-ubyte"),
              big_endian(0x801) + big_endian(12) + std::string(12, 10));
  expect_error([&] { make({}); }, Fault::request, {"train-labels-idx1-ubyte", "byte 8"});
  expect_error(
      [] {
        make_task("image", {{"images", "x"}});
      },
      Fault::request, {"task.images", "task.labels"});
}

}  // namespace
}  // namespace formwork::test

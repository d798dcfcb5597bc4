#include "data/images.h"

#include <algorithm>
#include <cmath>

#include "data/gratings.h"
#include "tasks/order.h"
#include "tasks/task.h"

namespace formwork {
namespace {

struct ImageOptions {
  std::string format = "mnist";
  std::string folder;
  std::string images, labels;
  std::string as = "patch";
  bool normalise = true;
  bool zero_pixel_is_padding = false;
  int64_t training_items = 0;
  int64_t validation_items = 0;
  std::string validation_part = "validation";
  int64_t side = 16;
  double noise = 0.5;

  void describe(OptionSet& o) {
    o.add(
        "format", format,
        "mnist: IDX files, plain or gzip; cifar10: binary records; gratings: generated stripes in "
        "ten directions",
        one_of({"mnist", "cifar10", "gratings"}));
    o.add("folder", folder,
          "folder with train-images-idx3-ubyte[.gz] and so on, or data_batch_1.bin and so on");
    o.add("images", images, "mnist: one file of images instead of a folder");
    o.add("labels", labels, "mnist: the labels of images");
    o.add("as", as, "patch: images; pixels: a sequence of grey values, row by row",
          one_of({"patch", "pixels"}));
    o.add("normalise", normalise,
          "patch: bring each channel to mean 0 and deviation 1 over the training images; otherwise "
          "values are 0 to 1");
    o.add("zero_pixel_is_padding", zero_pixel_is_padding,
          "pixels: black pixels count as padding, as in the Long Range Arena's code");
    o.add("training_items", training_items,
          "images for training, from the beginning; 0: 5 of 6 (mnist), 9 of 10 (cifar10), 8000 "
          "(gratings)",
          at_least(0));
    o.add("validation_items", validation_items,
          "images for validation at most; 0: all that remain, 1000 for gratings", at_least(0));
    o.add("validation_part", validation_part,
          "validation: the end of the training images; test: the test files of the folder",
          one_of({"validation", "test"}));
    o.add("side", side, "gratings: rows and columns", at_least(2));
    o.add("noise", noise, "gratings: deviation of the noise, the stripes' amplitude being 1",
          at_least(0));
    o.require(
        "images", [this] { return images.empty() == labels.empty(); },
        "needs task.labels, and the other way round");
    o.require(
        "images", [this] { return images.empty() || format == "mnist"; },
        "belongs to task.format = \"mnist\"; valid: task.folder");
    o.require(
        "folder", [this] { return folder.empty() || images.empty(); },
        "stands beside task.images; valid: one of them");
    o.require(
        "folder", [this] { return !generated() || (folder.empty() && images.empty()); },
        "or task.images stands beside task.format = \"gratings\"; valid: neither");
    o.require(
        "validation_part", [this] { return validation_part != "test" || !generated(); },
        "found test, but gratings have no test files; valid: validation");
    o.require(
        "validation_part", [this] { return validation_part != "test" || images.empty(); },
        "found test beside task.images, which has no test files; valid: task.folder");
  }
  bool generated() const { return format == "gratings"; }
};

/// Images first .. last-1 of a set.
Images part_of(const Images& all, int64_t first, int64_t last) {
  Images part{all.channels, all.height, all.width, {}, {}};
  part.labels.assign(all.labels.begin() + first, all.labels.begin() + last);
  part.pixels.assign(all.pixels.begin() + first * all.image_size(),
                     all.pixels.begin() + last * all.image_size());
  return part;
}

/// Images in 10 classes, as images [B,C,H,W] for a patch stem or, after the Long Range Arena
/// (Tay et al. 2021, arXiv 2011.04006), as the sequence of their grey values [B,H·W], 256 ids.
class ImageTask final : public Task {
 public:
  ImageTask(const ImageOptions& options, const TaskSite& site) : options_(options) {
    check(options.generated() || !options.folder.empty() || !options.images.empty(), "task.folder",
          "is missing; valid: a folder with ", options.format,
          " files, or for mnist task.images and task.labels");
    split(options.generated() ? generate() : read_training());
    fingerprint_ = join_text("image ", options.format, " training=", train_.count(),
                             " validation=", validation_.count(), " size=", train_.channels, "x",
                             train_.height, "x", train_.width);
    if (pixels() && train_.channels == 3) {
      train_ = to_grey(train_);
      validation_ = to_grey(validation_);
    }
    if (!pixels()) measure();
    order_.emplace(train_.count(), site.random.child("order"));
  }

  TaskForm form() const override {
    TaskForm form;
    form.form = "encoder";
    form.output = {OutputForm::Kind::classes, 10, 0};
    if (pixels()) {
      form.input.kind = InputForm::Kind::tokens;
      form.input.vocabulary = 256;
      form.input.length = train_.image_size();
    } else {
      form.input.kind = InputForm::Kind::image;
      form.input.channels = train_.channels;
      form.input.height = train_.height;
      form.input.width = train_.width;
    }
    return form;
  }
  int64_t training_items() const override { return train_.count(); }
  int64_t validation_items() const override { return validation_.count(); }
  std::string main_metric() const override { return "accuracy"; }
  bool more_is_better() const override { return true; }
  std::string fingerprint() const override { return fingerprint_; }

  Batch training_batch(int64_t first, int64_t count) override {
    return pack(train_, count, [&](int64_t i) { return order_->at(first + i); });
  }
  Batch validation_batch(int64_t first, int64_t count) override {
    check_items(first, count, validation_.count());
    return pack(validation_, count, [&](int64_t i) { return first + i; });
  }

 private:
  bool pixels() const { return options_.as == "pixels"; }

  Images generate() const {
    const int64_t validation = options_.validation_items > 0 ? options_.validation_items : 1000;
    return make_gratings(generated_training() + validation, options_.side, options_.noise);
  }
  int64_t generated_training() const {
    return options_.training_items > 0 ? options_.training_items : 8000;
  }

  Images read_training() const {
    if (!options_.images.empty()) return read_mnist(options_.images, options_.labels);
    if (options_.format == "mnist") return read_mnist_folder(options_.folder, Split::train);
    Images all = read_cifar10_folder(options_.folder, Split::train);
    const Images rest = read_cifar10_folder(options_.folder, Split::validation);
    all.pixels.insert(all.pixels.end(), rest.pixels.begin(), rest.pixels.end());
    all.labels.insert(all.labels.end(), rest.labels.begin(), rest.labels.end());
    return all;
  }

  /// Sets both parts.
  void split(Images all) {
    const int64_t count = all.count();
    const bool mnist = options_.format == "mnist";
    int64_t training = options_.training_items;
    if (training == 0)
      training = options_.generated() ? generated_training()
                 : mnist              ? count * 5 / 6
                                      : count * 9 / 10;
    check(training > 0 && training < count, "task.training_items", "found ", training,
          ", but the files hold ", count, " images; valid: 1 to ", count - 1,
          ", so that some remain for validation");
    train_ = part_of(all, 0, training);
    if (options_.validation_part == "test") {
      all = mnist ? read_mnist_folder(options_.folder, Split::test)
                  : read_cifar10_folder(options_.folder, Split::test);
      check(all.image_size() == train_.image_size(), "task.folder", "the test images have ",
            all.image_size(), " values each, the training images ", train_.image_size());
    }
    const int64_t from = options_.validation_part == "test" ? 0 : training;
    int64_t validation = all.count() - from;
    if (options_.validation_items > 0) validation = std::min(validation, options_.validation_items);
    validation_ = part_of(all, from, from + validation);
  }

  /// Mean and deviation of each channel over the training images; exact, from counts of values.
  void measure() {
    const int64_t area = train_.height * train_.width;
    std::vector<float> mean, deviation;
    for (int64_t c = 0; c < train_.channels; ++c) {
      double sum = 0, squares = 0;
      for (int64_t i = 0; i < train_.count(); ++i) {
        const uint8_t* values = train_.image(i).data() + c * area;
        for (int64_t p = 0; p < area; ++p) {
          sum += values[p];
          squares += static_cast<double>(values[p]) * values[p];
        }
      }
      const double count = static_cast<double>(train_.count() * area);
      const double variance = squares / count - (sum / count) * (sum / count);
      const bool scale = options_.normalise;
      mean.push_back(scale ? static_cast<float>(sum / count) : 0.0f);
      deviation.push_back(scale && variance > 0 ? static_cast<float>(std::sqrt(variance)) : 255.0f);
    }
    mean_ = at::tensor(mean).view({1, -1, 1, 1});
    deviation_ = at::tensor(deviation).view({1, -1, 1, 1});
  }

  template <class Item>
  Batch pack(const Images& images, int64_t count, Item item) const {
    Batch batch;
    Tensor raw = at::empty({count, images.channels, images.height, images.width}, at::kByte);
    batch.target = at::empty({count}, at::kLong);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t index = item(i);
      const auto image = images.image(index);
      std::copy(image.begin(), image.end(), raw.data_ptr<uint8_t>() + i * images.image_size());
      batch.target.data_ptr<int64_t>()[i] = images.labels[static_cast<size_t>(index)];
    }
    batch.size = count;
    batch.tokens = count * images.height * images.width;
    if (pixels()) {
      batch.input.input = raw.flatten(1).to(at::kLong);
      if (options_.zero_pixel_is_padding) batch.input.valid = batch.input.input.gt(0);
    } else {
      batch.input.input = (raw.to(at::kFloat) - mean_) / deviation_;
    }
    return batch;
  }

  ImageOptions options_;
  Images train_, validation_;
  Tensor mean_, deviation_;  // [1,C,1,1]
  std::optional<EpochOrder> order_;
  std::string fingerprint_;
};

const Register<Task, ImageTask, ImageOptions> image{
    "image", "images in 10 classes: MNIST, CIFAR-10 or generated stripes, by patch or by pixel",
    cite("2011.04006"), specified_by("lra_tasks")};

}  // namespace
}  // namespace formwork

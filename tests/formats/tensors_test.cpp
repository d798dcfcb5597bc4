#include "formats/tensors.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <string>

#include "core/error.h"
#include "formats/atomic_file.h"
#include "support/temporary_folder.h"

namespace formwork {
namespace {

using test::TemporaryFolder;

namespace fs = std::filesystem;

TEST(unit, tensors_every_type_round_trips) {
  const TemporaryFolder folder;
  TensorMap tensors;
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt,
                          at::kShort, at::kChar, at::kByte, at::kBool}) {
    tensors[std::string("t.") + at::toString(type)] = at::arange(6).view({2, 3}).to(type);
  }
  tensors["empty"] = at::zeros({0, 4});
  tensors["scalar"] = at::full({}, 2.5);
  tensors["strided"] = at::arange(6.0).view({2, 3}).t();
  save_tensors(folder.file("a"), tensors, {{"config", "{}"}});
  const TensorMap back = load_tensors(folder.file("a"));
  ASSERT_EQ(back.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(back.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(back.at(name).equal(tensor)) << name;
  }
  EXPECT_EQ(SafetensorsFile::open(folder.file("a")).metadata().at("config"), "{}");
  EXPECT_EQ(folder.count(), 1u);
  EXPECT_THROW(save_tensors(folder.file("b"), {{"c", at::zeros({1}, at::kComplexFloat)}}), Error);
  EXPECT_EQ(folder.count(), 1u);
}

TEST(unit, atomic_file_keeps_the_old_file_until_commit) {
  const TemporaryFolder folder;
  write_file_atomically(folder.file("a"), "old");
  {
    AtomicFile file(folder.file("a"));
    file.write("new");
    EXPECT_EQ(folder.read("a"), "old");
  }
  EXPECT_EQ(folder.read("a"), "old");
  EXPECT_EQ(folder.count(), 1u);
  fs::create_symlink(folder.file("a"), folder.file("link"));
  write_file_atomically(folder.file("link"), "new");
  EXPECT_EQ(folder.read("a"), "new");
  EXPECT_TRUE(fs::is_symlink(folder.file("link")));
}

/// Lets this process write files of at most `bytes` bytes.
class SizeLimit {
 public:
  explicit SizeLimit(rlim_t bytes) {
    previous_ = ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &limit_);
    rlimit lower = limit_;
    lower.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &lower);
  }
  ~SizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &limit_);
    ::signal(SIGXFSZ, previous_);
  }

 private:
  rlimit limit_{};
  void (*previous_)(int);
};

TEST(fault, tensors_a_full_disk_leaves_the_old_file) {
  const TemporaryFolder folder;
  save_tensors(folder.file("a"), {{"x", at::ones({2})}});
  const std::string before = folder.read("a");
  std::string sentence;
  {
    const SizeLimit limit(4096);
    try {
      save_tensors(folder.file("a"), {{"x", at::zeros({100000}, at::kDouble)}});
    } catch (const Error& error) {
      EXPECT_EQ(error.fault(), Fault::failure);
      sentence = error.what();
    }
  }
  EXPECT_NE(sentence.find(folder.file("a")), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("File too large"), std::string::npos) << sentence;
  EXPECT_NE(sentence.find("of the 800072 bytes needed"), std::string::npos) << sentence;
  EXPECT_EQ(folder.read("a"), before);
  EXPECT_EQ(folder.count(), 1u);
}

TEST(fault, tensors_a_missing_folder_is_named) {
  try {
    save_tensors("/no/such/folder/a", {{"x", at::ones({2})}});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/no/such/folder/a"), std::string::npos);
  }
}

}  // namespace
}  // namespace formwork

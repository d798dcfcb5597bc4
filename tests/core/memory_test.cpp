#include "core/memory.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>

#include "support/temporary_folder.h"

namespace formwork {
namespace {

TEST(unit, memory_resident_and_peak) {
  const int64_t before = resident_memory();
  constexpr size_t kSize = size_t{64} << 20;
  {
    const std::unique_ptr<char[]> block(new char[kSize]);
    std::memset(block.get(), 1, kSize);
    EXPECT_GT(resident_memory(), before + static_cast<int64_t>(kSize) * 9 / 10);
    EXPECT_EQ(block[kSize / 2], 1);
  }
  EXPECT_GT(peak_resident_memory(), before + static_cast<int64_t>(kSize) * 9 / 10);
  EXPECT_GE(peak_resident_memory(), resident_memory());
  EXPECT_GT(available_memory(), 0);
}

TEST(unit, memory_of_control_groups) {
  const test::TemporaryFolder folder;
  std::filesystem::create_directories(folder.file("job/step"));
  EXPECT_EQ(memory_left_in_group(folder.path(), "/job/step"), -1);
  test::write_bytes(folder.file("job/memory.max"), "1000\n");
  test::write_bytes(folder.file("job/memory.current"), "700\n");
  test::write_bytes(folder.file("job/memory.stat"), "anon 400\ninactive_file 300\n");
  test::write_bytes(folder.file("job/step/memory.max"), "max\n");
  test::write_bytes(folder.file("job/step/memory.current"), "650\n");
  EXPECT_EQ(memory_left_in_group(folder.path(), "/job/step"), 600);
  EXPECT_EQ(memory_left_in_group(folder.path(), "/job/step/gone"), 600);
  EXPECT_EQ(memory_left_in_group(folder.path(), "/"), -1);
  test::write_bytes(folder.file("memory.max"), "1200\n");
  test::write_bytes(folder.file("memory.current"), "1300\n");
  EXPECT_EQ(memory_left_in_group(folder.path(), "/job/step"), 0);

  const test::TemporaryFolder first_version;
  std::filesystem::create_directories(first_version.file("a"));
  test::write_bytes(first_version.file("memory.limit_in_bytes"), "9223372036854771712\n");
  test::write_bytes(first_version.file("a/memory.limit_in_bytes"), "500\n");
  test::write_bytes(first_version.file("a/memory.usage_in_bytes"), "450\n");
  test::write_bytes(first_version.file("a/memory.stat"), "total_inactive_file 50\n");
  EXPECT_EQ(memory_left_in_group(first_version.path(), "/a"), 100);
}

}  // namespace
}  // namespace formwork

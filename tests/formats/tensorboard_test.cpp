#include "formats/tensorboard.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "support/refusal.h"
#include "support/temporary_folder.h"

namespace formwork {
namespace {

TEST(unit, crc32c_of_rfc_3720) {
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

// tests/use/event_file_test.py reads what this writes with a decoder of its own.
TEST(unit, event_file) {
  const test::TemporaryFolder folder("FORMWORK_TEST_EVENTS");
  std::string first;
  {
    EventWriter writer(folder.path());
    first = writer.path();
    writer.text(0, "recipe", "    [task]\n    kind = \"naïve\"\n");
    writer.scalars(1, {{"training/loss", 2.5}, {"learning_rate", 1e-3}});
    writer.scalars(300, {{"training/loss", -0.125}});
    writer.scalars(int64_t{1} << 40, {{"training/loss", 0.0}});
    writer.scalars(5, {});
    writer.text(2, "long", std::string(300, 'x'));
  }
  const EventWriter resumed(folder.path(), 301);
  EXPECT_NE(resumed.path(), first);
  EXPECT_NE(first.find("events.out.tfevents."), std::string::npos);
  EXPECT_GT(std::filesystem::file_size(first), 500u);
}

TEST(fault, event_file_needs_its_folder) {
  test::expect_error([] { EventWriter("/no/such/folder"); }, Fault::failure, {"/no/such/folder"});
}

}  // namespace
}  // namespace formwork

#include "lab/watch.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <iostream>

#include "formats/json.h"
#include "lab/report.h"
#include "support/refusal.h"
#include "support/temporary_folder.h"

namespace formwork {
namespace {

int64_t port_of(const Watch& watch) {
  const std::string& address = watch.address();
  return std::stoll(address.substr(address.rfind(':') + 1));
}

/// A connection to that port of 127.0.0.1, or -1.
int connected(int64_t port) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int descriptor = ::socket(AF_INET, SOCK_STREAM, 0);
  if (::connect(descriptor, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0)
    return descriptor;
  ::close(descriptor);
  return -1;
}

std::string answer(int64_t port, const std::string& host) {
  const int descriptor = connected(port);
  const std::string request = "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(::write(descriptor, request.data(), request.size()),
            static_cast<ssize_t>(request.size()));
  std::string text;
  char part[4096];
  for (ssize_t size; (size = ::read(descriptor, part, sizeof part)) > 0;) text.append(part, size);
  ::close(descriptor);
  return text;
}

TEST(unit, watch_serves_the_latest_page) {
  int64_t port = 0;
  {
    int pages = 0;
    const Watch watch(0, [&] { return join_text("page ", ++pages); });
    port = port_of(watch);
    EXPECT_EQ(watch.address().find("http://127.0.0.1:"), 0u);
    const std::string host = join_text("127.0.0.1:", port);
    EXPECT_NE(answer(port, host).find("page 1"), std::string::npos);
    const std::string second = answer(port, join_text("localhost:", port));
    EXPECT_NE(second.find("200 OK"), std::string::npos);
    EXPECT_NE(second.find("page 2"), std::string::npos);
    EXPECT_NE(second.find("no-store"), std::string::npos);
    EXPECT_NE(answer(port, "example.org").find("403"), std::string::npos);
    EXPECT_EQ(pages, 2);
  }
  EXPECT_EQ(connected(port), -1);
}

TEST(unit, watch_refuses_a_taken_port) {
  const Watch first(0, [] { return std::string("one"); });
  const int64_t port = port_of(first);
  test::expect_error([&] { Watch(port, [] { return std::string("two"); }); }, Fault::request,
                     {"--watch", std::to_string(port), "used by another program", "free port"});
  test::expect_error([] { Watch(65536, [] { return std::string(); }); }, Fault::request,
                     {"--watch", "65536", "65535"});
}

TEST(unit, watch_shows_what_went_wrong) {
  const Watch watch(0, []() -> std::string { fail("summary.json", "is gone"); });
  const std::string text = answer(port_of(watch), join_text("127.0.0.1:", port_of(watch)));
  EXPECT_NE(text.find("500"), std::string::npos);
  EXPECT_NE(text.find("summary.json: is gone"), std::string::npos);
}

// tests/use/watch_page_test.py looks at this in a browser: the page of the summary.json that lies
// in the folder at the time, until standard input ends.
TEST(unit, watch_page) {
  if (!std::getenv("FORMWORK_TEST_WATCH")) GTEST_SKIP() << "runs for tests/use/watch_page_test.py";
  const test::TemporaryFolder folder("FORMWORK_TEST_WATCH");
  const Watch watch(
      0, [&] { return comparison_page(parse_json(folder.read("summary.json"), "summary.json")); });
  folder.write("address", watch.address());
  for (std::string line; std::getline(std::cin, line);) continue;
}

}  // namespace
}  // namespace formwork

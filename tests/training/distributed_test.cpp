// Several processes. A test starts this program again, as the processes, with the filter of a
// "child" test, which is registered where run_processes started the program and nowhere else.
#include "training/distributed.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "support/dynamic.h"
#include "training/launch.h"
#include "training/process_place.h"

namespace formwork {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// Environment variables for the duration of a test.
class Variables {
 public:
  explicit Variables(const std::vector<std::pair<std::string, std::string>>& values) {
    for (const auto& [name, value] : values) {
      const char* old = std::getenv(name.c_str());
      old_.emplace_back(name, old ? std::optional<std::string>(old) : std::nullopt);
      setenv(name.c_str(), value.c_str(), 1);
    }
  }
  ~Variables() {
    for (const auto& [name, value] : old_)
      value ? setenv(name.c_str(), value->c_str(), 1) : unsetenv(name.c_str());
  }
  Variables(const Variables&) = delete;
  Variables& operator=(const Variables&) = delete;

 private:
  std::vector<std::pair<std::string, std::optional<std::string>>> old_;
};

struct Outcome {
  int code = -1;
  std::string error, output;
  double seconds = 0;
};

std::string text_of(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

/// Runs `count` processes of the test `child` of this program, all they write going to a file.
Outcome run(int count, const std::string& child,
            const std::vector<std::pair<std::string, std::string>>& variables = {}) {
  Outcome outcome;
  const std::string path = testing::TempDir() + "formwork_processes_" + std::to_string(getpid());
  const int file = open(path.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_APPEND | O_CLOEXEC, 0600);
  const int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
  dup2(file, STDOUT_FILENO);
  dup2(file, STDERR_FILENO);
  const auto start = Clock::now();
  {
    const Variables own(variables);
    try {
      outcome.code = run_processes(
          count, {"formwork_tests", "--gtest_filter=child." + child, "--gtest_color=no"});
    } catch (const Error& error) {
      outcome.error = error.what();
    }
  }
  outcome.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  for (const int end : {file, out, err}) close(end);
  outcome.output = text_of(path);
  std::remove(path.c_str());
  return outcome;
}

void child_sums() {
  EXPECT_TRUE(Processes::started());
  const auto processes = Processes::from_environment();
  const auto rank = static_cast<double>(processes->rank());
  const auto size = static_cast<double>(processes->size());
  EXPECT_EQ(std::to_string(processes->size()), std::getenv("WORLD_SIZE"));
  const double total = size * (size + 1) / 2.0;  // 1 + 2 + ...

  // Several buckets, types and shapes, and a gradient that is not contiguous.
  std::vector<at::Tensor> many;
  for (int i = 0; i < 9; ++i) many.push_back(at::full({1000, 700}, (rank + 1.0) * (i + 1)));
  many.push_back(at::full({3, 2}, rank + 1.0, at::kDouble).t());
  many.push_back(at::full({}, rank + 1.0, at::kBFloat16));
  many.emplace_back();
  many.push_back(at::zeros({0}));
  processes->all_reduce_sum(many);
  for (size_t i = 0; i < 9; ++i)
    EXPECT_TRUE(at::equal(many[i], at::full({1000, 700}, total * static_cast<double>(i + 1)))) << i;
  EXPECT_TRUE(at::equal(many[9], at::full({2, 3}, total, at::kDouble)));
  EXPECT_EQ(many[10].item<float>(), static_cast<float>(total));

  EXPECT_EQ(processes->sum(rank + 0.5), total - size / 2.0);
  EXPECT_EQ(processes->from_first(rank - 1.0 / 3.0), -1.0 / 3.0);
  std::map<std::string, double> own{{"all", 1.5}, {"only." + std::to_string(processes->rank()), 2}};
  std::map<std::string, double> expected{{"all", 1.5 * size}};
  for (int64_t r = 0; r < processes->size(); ++r) expected["only." + std::to_string(r)] = 2;
  EXPECT_EQ(processes->sum(own), expected);
  EXPECT_TRUE(processes->sum(std::map<std::string, double>()).empty());
  processes->barrier();
}

void child_dies() {
  const auto processes = Processes::from_environment();
  processes->barrier();
  const int victim = std::atoi(std::getenv("FORMWORK_TEST_VICTIM"));
  if (processes->rank() == victim) {
    std::this_thread::sleep_for(500ms);
    raise(SIGKILL);
  }
  // What a trainer would show the user.
  std::signal(SIGTERM, SIG_IGN);
  try {
    for (;;) processes->barrier();
  } catch (const ProcessGone& gone) {
    std::fprintf(stderr, "formwork: %s\n", gone.what());
    std::fflush(stderr);
    _exit(gone.told() ? kOtherProcessDied : 1);
  }
}

void child_vanishes() {
  const auto processes = Processes::from_environment();
  processes->barrier();
  // Stopped, it keeps its connections and answers nobody, as a machine does that was cut off.
  if (processes->rank() == 1) raise(SIGSTOP);
  const auto start = Clock::now();
  std::string message;
  try {
    processes->barrier();
  } catch (const Error& error) {
    message = error.what();
  }
  const double waited = std::chrono::duration<double>(Clock::now() - start).count();
  std::fprintf(stderr, "said after %.1f s: %s\n", waited, message.c_str());
  std::fflush(stderr);
  _exit(waited < 30 ? 3 : 4);
}

void child_slow() {
  const auto processes = Processes::from_environment();
  if (processes->rank() == 0) std::this_thread::sleep_for(25s);
  processes->barrier();
}

void child_says() {
  std::fprintf(stdout, "out of %s\n", std::getenv("RANK"));
  std::fprintf(stderr, "threads %s\n", std::getenv("OMP_NUM_THREADS"));
  std::fflush(stdout);
  const char* code = std::getenv("FORMWORK_TEST_CODE");
  if (code != nullptr && std::string(std::getenv("RANK")) == "1") _exit(std::atoi(code));
  if (code != nullptr) std::this_thread::sleep_for(60s);
}

void child_waits_for_signal() {
  static volatile std::sig_atomic_t got = 0;
  std::signal(SIGTERM, [](int signal) { got = signal; });
  for (int i = 0; i < 600 && got == 0; ++i) std::this_thread::sleep_for(100ms);
  EXPECT_EQ(got, SIGTERM);
  std::fprintf(stderr, "saved\n");
}

// Only there where run_processes started this program, so that nobody sees them as tests.
const test::TestSource children([] {
  if (!started_by_launcher()) return;
  test::add_test("child", "sums", child_sums);
  test::add_test("child", "dies", child_dies);
  test::add_test("child", "vanishes", child_vanishes);
  test::add_test("child", "slow", child_slow);
  test::add_test("child", "says", child_says);
  test::add_test("child", "waits_for_signal", child_waits_for_signal);
});

const test::Needs two_for_sums("use.distributed_sums", {.slow = false, .processors = 2});
const test::Needs two_for_slow("use.distributed_waits_for_the_slow",
                               {.slow = true, .processors = 2});
const test::Needs two_for_dead("fault.process_dies", {.slow = false, .processors = 2});
const test::Needs two_for_vanished("fault.process_vanishes", {.slow = true, .processors = 2});

TEST(use, distributed_sums) {
  for (const int count : {1, 2, 3}) {
    const Outcome outcome = run(count, "sums");
    EXPECT_EQ(outcome.code, 0) << outcome.error << outcome.output;
  }
}

TEST(use, distributed_output_and_threads) {
  const Outcome outcome =
      run(2, "says", {std::pair<std::string, std::string>("OMP_NUM_THREADS", "5")});
  EXPECT_EQ(outcome.code, 0) << outcome.error;
  EXPECT_NE(outcome.output.find("out of 0"), std::string::npos) << outcome.output;
  EXPECT_EQ(outcome.output.find("out of 1"), std::string::npos) << outcome.output;
  EXPECT_NE(outcome.output.find("[process 1] threads 5"), std::string::npos) << outcome.output;
  unsetenv("OMP_NUM_THREADS");
  const int share = std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / 2);
  const Outcome shared = run(2, "says");
  EXPECT_NE(shared.output.find("threads " + std::to_string(share)), std::string::npos);
}

TEST(use, distributed_signal_reaches_all) {
  std::thread sender([parent = getpid()] {
    std::this_thread::sleep_for(2s);
    kill(parent, SIGTERM);
  });
  const Outcome outcome = run(2, "waits_for_signal");
  sender.join();
  EXPECT_EQ(outcome.code, 0) << outcome.error << outcome.output;
  EXPECT_NE(outcome.output.find("[process 1] saved"), std::string::npos) << outcome.output;
  EXPECT_LT(outcome.seconds, 20);
}

TEST(use, distributed_waits_for_the_slow) {
  const Outcome outcome = run(2, "slow");
  EXPECT_EQ(outcome.code, 0) << outcome.error << outcome.output;
  EXPECT_GT(outcome.seconds, 24);
}

TEST(fault, process_dies) {
  for (const auto& [count, victim] : {std::pair{2, 1}, std::pair{2, 0}, std::pair{3, 2}}) {
    const Outcome outcome = run(count, "dies", {{"FORMWORK_TEST_VICTIM", std::to_string(victim)}});
    const std::string name = "process " + std::to_string(victim) + " of " + std::to_string(count);
    EXPECT_EQ(outcome.error.find(name + " was ended by signal 9"), 0u) << outcome.error;
    if (count == 2) {
      EXPECT_NE(outcome.output.find(name + " is gone"), std::string::npos) << outcome.output;
    }
    EXPECT_LT(outcome.seconds, 25);
  }
}

TEST(fault, process_vanishes) {
  const Outcome outcome = run(2, "vanishes");
  EXPECT_NE(outcome.output.find("process 1 of 2 is gone: no sign of life"), std::string::npos)
      << outcome.output;
  EXPECT_EQ(outcome.code, 3) << outcome.error << outcome.output;  // process 0's own code
}

TEST(fault, process_leaves_with_a_code) {
  for (const int code : {1, 2}) {
    const Outcome outcome = run(2, "says", {{"FORMWORK_TEST_CODE", std::to_string(code)}});
    EXPECT_EQ(outcome.error, "process 1 of 2 left with exit code " + std::to_string(code) +
                                 "; the others were ended");
    EXPECT_LT(outcome.seconds, 25);
  }
}

TEST(unit, process_place) {
  EXPECT_EQ(first_host("node[07-09,12],other"), "node07");
  EXPECT_EQ(first_host("node[7]"), "node7");
  EXPECT_EQ(first_host("rack[1,2]-a,rack9"), "rack1-a");
  EXPECT_EQ(first_host("alone"), "alone");
  EXPECT_EQ(first_host("a,b"), "a");
  {
    const Variables slurm({{"SLURM_PROCID", "3"},
                           {"SLURM_NTASKS", "4"},
                           {"SLURM_LOCALID", "1"},
                           {"SLURM_JOB_ID", "77"},
                           {"SLURM_STEP_ID", "0"},
                           {"SLURM_NODELIST", "n[4-5]"}});
    const ProcessPlace place = place_from_environment();
    EXPECT_EQ(place.rank, 3);
    EXPECT_EQ(place.size, 4);
    EXPECT_EQ(place.local_rank, 1);
    EXPECT_EQ(place.address, "n4");
    EXPECT_GT(place.port, 1024);
  }
  {
    const Variables torchrun({{"RANK", "1"},
                              {"WORLD_SIZE", "2"},
                              {"LOCAL_RANK", "1"},
                              {"MASTER_ADDR", "host"},
                              {"MASTER_PORT", "1234"}});
    const ProcessPlace place = place_from_environment();
    EXPECT_EQ(place.rank, 1);
    EXPECT_EQ(place.port, 1234);
    EXPECT_EQ(place.address, "host");
    const Variables wrong({std::pair<std::string, std::string>("RANK", "2")});
    try {
      place_from_environment();
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_STREQ(error.what(), "distributed: RANK is '2'; an integer from 0 to 1 was expected");
    }
  }
  EXPECT_EQ(place_from_environment().size, 1);
}

}  // namespace
}  // namespace formwork

// What a full disk and kill -9 leave behind.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>

#include "support/temporary_folder.h"
#include "training/checkpoint.h"
#include "training/checkpoint_samples.h"
#include "training/run_folder.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;
using test::expect_equal;
using test::read_bytes;
using test::sample;
using test::TemporaryFolder;
using test::write_bytes;

/// Runs `work` in a child process; returns its process number.
template <class Work>
pid_t in_child(const Work& work) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  try {
    work();
  } catch (const std::exception&) {
    ::_exit(3);
  }
  ::_exit(0);
}

TEST(fault, checkpoint_disk_full) {
  const TemporaryFolder run;
  const Checkpoint old = sample(1, 100);
  save_checkpoint(run.path(), old);
  const std::string message = run.file("message");
  const pid_t child = in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100'000, 100'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      save_checkpoint(run.path(), sample(2, 20'000));  // two tensors of 80 kB in one file
    } catch (const Error& error) {
      write_bytes(message, error.what());
    }
  });
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  const std::string sentence = read_bytes(message);
  for (const std::string& word :
       {run.file("checkpoints/step-2/model.safetensors"), std::string("File too large"),
        std::string("the checkpoint needs 240"), std::string("older ones are untouched")})
    EXPECT_NE(sentence.find(word), std::string::npos) << "'" << word << "' in: " << sentence;
  EXPECT_EQ(sentence.find(".tmp"), std::string::npos) << sentence;
  const fs::path folder = run.file("checkpoints");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 1);
  expect_equal(load_checkpoint(run.file("checkpoints/step-1")), old);
}

TEST(fault, checkpoint_killed_while_saving) {
  const TemporaryFolder folder;
  const std::string path = folder.file("run");
  RunFolder::create(path).write_recipe("[task]\n");
  constexpr int64_t kSize = 100'000;
  int64_t known = -1;  // the step of the newest checkpoint so far
  int advanced = 0;
  for (int kill = 0; kill < 20; ++kill) {
    const pid_t child = in_child([&] {
      RunFolder run = RunFolder::open(path);
      const auto newest = latest_checkpoint(path);
      const int64_t first = newest ? newest->step + 1 : 0;
      run.rewind(first - 1);
      for (int64_t step = first;; ++step) {
        Value line;
        line["step"] = step;
        line["loss"] = 1.0 / static_cast<double>(1 + step);
        run.metrics().append(line);
        run.save(sample(step, kSize), {2, "", true});
      }
    });
    // Moments spread over opening, writing, renaming and pruning.
    const timespec wait{0, 20'000'000 + kill * 7'919'000};
    ::nanosleep(&wait, nullptr);
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << status;
    std::vector<std::string> damaged;
    const auto newest = latest_checkpoint(path, &damaged);
    EXPECT_TRUE(damaged.empty()) << damaged[0];
    if (!newest) {
      EXPECT_EQ(known, -1);
      continue;
    }
    EXPECT_GE(newest->step, known);
    advanced += newest->step > known;
    known = newest->step;
    expect_equal(load_checkpoint(newest->path), sample(known, kSize));
    RunFolder run = RunFolder::open(path);
    run.rewind(known);
    const std::vector<Value> lines = read_metrics(run.file("metrics.jsonl"));
    ASSERT_EQ(lines.size(), static_cast<size_t>(known + 1));
    for (int64_t step = 0; step <= known; ++step)
      EXPECT_EQ(*lines[step].find("step")->get<int64_t>(), step);
    EXPECT_LE(std::distance(fs::directory_iterator(run.file("checkpoints")), {}), 3);
  }
  EXPECT_GT(advanced, 5) << "the children were too slow to save: the test shows little";
}

}  // namespace
}  // namespace formwork

// What a full disk and kill -9 leave behind.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <filesystem>

#include "core/error.h"
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

constexpr int64_t kSize = 100'000;

/// Goes on with a run as a training does and saves after each step; tells `pipe` when it is ready
/// and after each save.
void save_for_ever(const std::string& path, int pipe) {
  RunFolder run = RunFolder::open(path);
  const auto newest = latest_checkpoint(path);
  const int64_t first = newest ? newest->step + 1 : 0;
  run.rewind(first - 1);
  for (int64_t step = first;; ++step) {
    const char byte = 0;
    if (::write(pipe, &byte, 1) != 1) return;
    Value line;
    line["step"] = step;
    line["loss"] = 1.0 / static_cast<double>(1 + step);
    run.metrics().append(line);
    run.save(sample(step, kSize), {2, "", true});
  }
}

TEST(fault, checkpoint_killed_while_saving) {
  const TemporaryFolder folder;
  const std::string path = folder.file("run");
  RunFolder::create(path).write_recipe("[task]\n");
  int64_t save_time = 10'000'000;  // nanoseconds, until one is measured
  int64_t known = -1;              // the step of the newest checkpoint so far
  int advanced = 0;
  for (int kill = 0; kill < 20; ++kill) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const pid_t child = in_child([&] { save_for_ever(path, pipe[1]); });
    ::close(pipe[1]);  // so that a child that fails ends the reads below
    // After 0, 1 or 2 saves of its own, at a moment that moves through the next one, however slow
    // the disk is.
    char byte = 0;
    timespec begin{}, end{};
    ASSERT_EQ(::read(pipe[0], &byte, 1), 1);
    ::clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int saves = 0; saves < kill % 3; ++saves) ASSERT_EQ(::read(pipe[0], &byte, 1), 1);
    ::clock_gettime(CLOCK_MONOTONIC, &end);
    const int64_t spent = (end.tv_sec - begin.tv_sec) * 1'000'000'000 + end.tv_nsec - begin.tv_nsec;
    if (kill % 3 > 0) save_time = spent / (kill % 3);
    const int64_t wait = save_time * (kill * 7 % 20) / 20;
    const timespec moment{wait / 1'000'000'000, wait % 1'000'000'000};
    ::nanosleep(&moment, nullptr);
    ::kill(child, SIGKILL);
    ::close(pipe[0]);
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
  EXPECT_GE(advanced, 13);  // two of three children save at least once
}

}  // namespace
}  // namespace formwork

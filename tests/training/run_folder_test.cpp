#include "training/run_folder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "formats/json.h"
#include "support/refusal.h"
#include "support/temporary_folder.h"
#include "training/checkpoint_samples.h"
#include "training/machine.h"

namespace formwork {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::read_bytes;
using test::TemporaryFolder;
using test::write_bytes;

Value metrics_line(int64_t step) {
  Value line;
  line["step"] = step;
  line["loss"] = 1.0 / static_cast<double>(1 + step);
  return line;
}

TEST(unit, run_folder_create_and_open) {
  const TemporaryFolder folder;
  const std::string path = folder.file("a/b/run");
  {
    RunFolder run = RunFolder::create(path);
    run.write_recipe("[task]\nkind = \"copy\"\n");
    run.write_machine(describe_machine());
    run.metrics().append(metrics_line(1));
    Value summary;
    summary["loss"] = 0.5;
    run.write_summary(summary);
    run.save(test::sample(1, 8), {});
  }
  EXPECT_EQ(read_bytes(path + "/recipe.toml"), "[task]\nkind = \"copy\"\n");
  EXPECT_EQ(read_bytes(path + "/metrics.jsonl"), "{\"step\":1,\"loss\":0.5}\n");
  EXPECT_EQ(read_bytes(path + "/summary.json"), "{\n  \"loss\": 0.5\n}\n");
  RunFolder run = RunFolder::open(path);
  Value machine = describe_machine();
  run.write_machine(machine);
  EXPECT_FALSE(fs::exists(path + "/machine-2.json"));
  machine["processor"] = "another one";
  run.write_machine(machine);
  run.write_machine(machine);
  EXPECT_TRUE(fs::exists(path + "/machine-2.json"));
  EXPECT_FALSE(fs::exists(path + "/machine-3.json"));
}

TEST(unit, run_folder_machine) {
  const Value machine = describe_machine();
  for (const char* key : {"date", "system", "libtorch", "compiler", "build_type", "formwork"}) {
    ASSERT_TRUE(machine.find(key)) << key;
    EXPECT_FALSE(machine.find(key)->get<std::string>()->empty()) << key;
  }
  for (const char* key : {"cores", "threads", "memory_bytes"})
    EXPECT_GT(*machine.find(key)->get<int64_t>(), 0) << key;
  EXPECT_GT(*machine.find("memory_bytes")->get<int64_t>(), int64_t{1} << 28);
}

TEST(fault, run_folder_in_use_or_not_empty) {
  const TemporaryFolder folder;
  write_bytes(folder.file("notes"), "mine");
  expect_error([&] { RunFolder::create(folder.path()); }, Fault::request,
               {folder.path(), "already holds files", "choose another --out"});
  EXPECT_FALSE(fs::exists(folder.file(".lock")));
  expect_error([&] { RunFolder::create(folder.file("notes")); }, Fault::request, {"is a file"});
  expect_error([&] { RunFolder::create(folder.file("notes/run")); }, Fault::failure,
               {"notes/run", "cannot be made"});
  expect_error([&] { RunFolder::create(""); }, Fault::request, {"--out"});
  expect_error([&] { RunFolder::open(folder.file("none")); }, Fault::request, {"no such folder"});
  expect_error([&] { RunFolder::open(folder.path()); }, Fault::request, {"is not a run"});

  fs::create_directories(folder.file("run"));
  { RunFolder::create(folder.file("run")).save(test::sample(1, 8), {}); }
  expect_error([&] { RunFolder::create(folder.file("run")); }, Fault::request,
               {"already holds a run", "formwork resume " + folder.file("run")});
}

TEST(fault, run_folder_locked) {
  const TemporaryFolder folder;
  const std::string path = folder.file("run");
  int ready[2], finish[2];
  ASSERT_EQ(::pipe(ready) | ::pipe(finish), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    RunFolder run = RunFolder::create(path);
    run.write_recipe("[task]\n");
    char byte = 1;
    if (::write(ready[1], &byte, 1) != 1 || ::read(finish[0], &byte, 1) != 1) ::_exit(1);
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  expect_error([&] { RunFolder::open(path); }, Fault::request,
               {path, join_text("process ", child), "choose another --out"});
  ASSERT_EQ(::write(finish[1], &byte, 1), 1);
  int status = 1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  RunFolder::open(path);  // the lock ended with the process
  for (const int end : {ready[0], ready[1], finish[0], finish[1]}) ::close(end);
}

TEST(unit, run_folder_default_names) {
  EXPECT_EQ(default_run_name("recipes/quick start.toml", 0).substr(0, 17), "quick-start-1970-");
  EXPECT_EQ(default_run_name("a.toml", 1'700'000'000).size(),
            std::string("a-YYYY-MM-DD-HHMMSS").size());
  const TemporaryFolder folder;
  const RunFolder a = RunFolder::create_named(folder.file("runs"), "x/copy.toml");
  const RunFolder b = RunFolder::create_named(folder.file("runs"), "x/copy.toml");
  const RunFolder c = RunFolder::create_named(folder.file("runs"), "x/copy.toml");
  EXPECT_NE(a.path(), b.path());
  EXPECT_NE(b.path(), c.path());
  EXPECT_EQ(a.path().rfind(folder.file("runs/copy-"), 0), 0u);
}

TEST(fault, metrics_torn_and_later_lines_are_cut) {
  const TemporaryFolder folder;
  const std::string path = folder.file("metrics.jsonl");
  MetricsLog log(path);
  for (int64_t step = 0; step < 5; ++step) log.append(metrics_line(step));
  const std::string whole = read_bytes(path);
  log.rewind(4);
  EXPECT_EQ(read_bytes(path), whole);
  write_bytes(path, whole + "{\"step\": 3");  // torn within what a reader might take for a step
  EXPECT_EQ(read_metrics(path).size(), 5u);
  log.rewind(4);
  EXPECT_EQ(read_bytes(path), whole);
  write_bytes(path, whole + std::string(3, '\0') + "\n17\n[1]\n{\"loss\":1}\n");
  log.rewind(4);
  EXPECT_EQ(read_bytes(path), whole);
  log.rewind(2);
  log.append(metrics_line(3));
  log.append(metrics_line(4));
  log.sync();
  EXPECT_EQ(read_bytes(path), whole);
  log.rewind(-1);
  EXPECT_EQ(read_bytes(path), "");
  expect_error([&] { log.append(Value(Table{})); }, Fault::failure, {path, "\"step\""});
}

TEST(unit, metrics_not_a_number_is_null) {
  const TemporaryFolder folder;
  MetricsLog log(folder.file("m"));
  Value line;
  line["step"] = int64_t{1};
  line["loss"] = std::nan("");
  log.append(line);
  EXPECT_EQ(read_bytes(folder.file("m")), "{\"step\":1,\"loss\":null}\n");
}

}  // namespace
}  // namespace formwork

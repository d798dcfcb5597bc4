# ctest: slow processors=2 timeout=900
"""`formwork compare`: variants side by side, whatever happens to the runs or to itself."""

import csv
import json
import os
import random
import shutil
import signal
import time
import urllib.request

import formwork_case
import tiny

VARIANTS = """
[[variant]]
name = "rms norm"
set = { "model.norm.kind" = "rms_norm" }

[[variant]]
name = "hot"
set = { "optimizer.kind" = "sgd", "optimizer.lr" = 1e30 }
"""
KILLS = 12


class CompareCase(tiny.TinyCase):
    def setUp(self):
        super().setUp()
        self.recipe = self.write("tiny.toml", tiny.RECIPE.replace(
            "heads = 2", 'heads = 2\nnorm = "layer_norm"') + VARIANTS)
        self.out = self.folder / "comparison"

    def compare(self, *options, recipe=None, out=None, **others):
        return self.formwork("compare", recipe or self.recipe, "--out", out or self.out, "--quiet",
                             *options, **others)

    def summary(self, out=None):
        return json.loads(((out or self.out) / "summary.json").read_text())

    def results(self, out=None):
        """What came out, without what the machine or the moment decides."""
        return {variant["name"]: (variant["status"], variant["metric"], variant["loss"],
                                  variant["curve"]["mean"], variant["validation_curve"]["mean"])
                for variant in self.summary(out)["variants"]}


class Results(CompareCase):
    def test_everything_is_written(self):
        done = self.compare("--seeds", 2, "--json")
        summary = self.summary()
        self.assertEqual(json.loads(done.stdout), summary)
        self.assertTrue(summary["complete"])
        self.assertEqual(summary["seeds"], [1, 2])
        self.assertEqual((summary["equal"], summary["budget"]), ("steps", 12))
        self.assertEqual(summary["metric"], {"name": "accuracy", "higher_is_better": True})
        base, rms, hot = summary["variants"]
        self.assertEqual([v["name"] for v in summary["variants"]], ["baseline", "rms norm", "hot"])
        self.assertEqual([v["status"] for v in summary["variants"]], ["done", "done", "diverged"])
        self.check_figures(base, rms)
        self.check_diverged(hot)
        self.check_files(summary)

    def check_figures(self, base, rms):
        self.assertIsNone(base["against_baseline"])
        for variant in (base, rms):
            run = self.out / variant["runs"][1]["folder"]
            own = json.loads((run / "summary.json").read_text())
            self.assertEqual(variant["metric"]["values"][1], own["accuracy"])
            self.assertEqual(variant["loss"]["values"][1], own["validation_loss"])
            self.assertAlmostEqual(variant["loss"]["mean"], sum(variant["loss"]["values"]) / 2)
            self.assertEqual(variant["parameters"], own["parameters"])
            self.assertAlmostEqual(variant["flops_per_token"], own["flops"] / own["tokens"])
            self.assertEqual(variant["curve"]["step"], list(range(1, 13)))
            self.assertEqual(variant["validation_curve"]["step"], [4, 8, 12])
            for key in ("tokens_per_second", "peak_memory_bytes", "largest_gradient_norm"):
                self.assertGreater(variant[key], 0, key)
            for key in ("batch_1", "training_batch"):
                self.assertGreater(variant["latency_ms"][key], 0, key)
        losses = [ours - theirs for ours, theirs in zip(rms["loss"]["values"],
                                                         base["loss"]["values"])]
        test = rms["against_baseline"]["loss"]
        self.assertAlmostEqual(test["difference"], sum(losses) / 2)
        self.assertGreater(test["smallest_detectable"], 0)
        self.assertIn({"key": "model.norm.kind", "baseline": "layer_norm", "variant": "rms_norm"},
                      rms["recipe_difference"])
        self.assertGreater(base["to_baseline_loss"]["tokens"], 0)

    def check_diverged(self, hot):
        self.assertIn("the loss is", hot["failure"])
        self.assertIsNone(hot["metric"]["mean"])
        self.assertEqual(hot["against_baseline"]["metric"]["verdict"], "too few seeds")

    def check_files(self, summary):
        with open(self.out / "summary.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self.assertEqual([row["variant"] for row in rows], ["baseline", "rms norm", "hot"])
        self.assertAlmostEqual(float(rows[1]["loss_mean"]), summary["variants"][1]["loss"]["mean"])
        with open(self.out / "runs.csv", encoding="utf-8") as file:
            self.assertEqual(len(list(csv.DictReader(file))), 6)
        self.assertIn("| rms norm |", (self.out / "summary.md").read_text())
        self.assertIn("rms norm", (self.out / "report.html").read_text())

    def test_runs_are_what_train_makes(self):
        self.compare("--seeds", 1, "--set", "train.threads=1")
        run = self.train("alone", "train.threads=1", "model.norm.kind=rms_norm")
        self.assertEqual(self.numbers(self.out / "runs" / "rms-norm" / "seed-1"),
                         self.numbers(run))

    def test_finished_runs_are_kept_and_seeds_added(self):
        self.compare("--seeds", 1)
        file = self.out / "runs" / "baseline" / "seed-1" / "metrics.jsonl"
        before = file.stat().st_mtime_ns
        self.compare("--seeds", 2)
        self.assertEqual(file.stat().st_mtime_ns, before)
        self.assertEqual(self.summary()["seeds"], [1, 2])
        self.formwork("compare", self.out, "--quiet")

    def test_equal_tokens(self):
        self.compare("--seeds", 1, "--equal", "tokens", "--set", "train.batch=2")
        summary = self.summary()
        self.assertEqual(summary["equal"], "tokens")
        base = summary["variants"][0]
        self.assertEqual(base["runs"][0]["steps"], 12)
        self.assertEqual(base["runs"][0]["tokens"], summary["budget"])

    def test_watch(self):
        process = self.start("compare", self.recipe, "--out", self.out, "--watch", "0",
                             *tiny.given(["train.budget.steps=3000"]))
        address = process.stderr.readline().rsplit(" ", 1)[1].strip()
        with urllib.request.urlopen(address, timeout=30) as page:
            self.assertIn("rms norm", page.read().decode())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


class Refused(CompareCase):
    def test_a_changed_recipe(self):
        self.compare("--seeds", 1)
        sentence = self.refused("compare", self.recipe, "--out", self.out, "--seeds", 1, "--set",
                                "model.width=32", names=["model.width", "16", "32", "--out"])
        self.assertIn(str(self.out), sentence)
        self.assertEqual(self.summary()["variants"][0]["status"], "done")

    def test_a_mistake_in_a_variant(self):
        recipe = self.write("wrong.toml", self.recipe.read_text().replace("norm.kind", "nrom.kind"))
        self.refused("compare", recipe, "--out", self.out, names=["rms norm", "nrom"])
        self.assertFalse(self.out.exists())

    def test_a_folder_of_something_else(self):
        self.write("comparison/notes.txt", "mine")
        self.refused("compare", self.recipe, "--out", self.out, names=["something else"])

    def test_no_such_run(self):
        self.compare("--seeds", 1)
        self.refused("compare", self.out, "--only", "baseline/seed-9", names=["baseline/seed-1"])


class Jobs(CompareCase):
    def test_job_list_and_collect(self):
        jobs = self.folder / "jobs.txt"
        self.compare("--seeds", 1, "--write-jobs", jobs)
        lines = jobs.read_text().splitlines()
        self.assertEqual(len(lines), 3)
        self.assertFalse((self.out / "runs").exists())
        for line in lines[:2] + lines[:1]:  # again is harmless
            self.shell(line)
        collected = self.formwork("compare", self.out, "--collect", expect=1)
        self.assertIn("hot/seed-1: missing", collected.stderr)
        self.shell(lines[2])
        self.formwork("compare", self.out, "--collect")
        self.assertEqual([v["status"] for v in self.summary()["variants"]],
                         ["done", "done", "diverged"])

    def shell(self, line):
        self.assertEqual(os.system(f"{line} > {self.folder}/said 2>&1"), 0,
                         (self.folder / "said").read_text())


class Killed(CompareCase):
    SETTINGS = tiny.given(["train.budget.steps=60", "train.evaluate.every=5",
                           "train.checkpoint.every=3"])

    def begin(self, out):
        return self.start("compare", self.recipe, "--out", out, "--seeds", "2", "--jobs", "2",
                          *self.SETTINGS)

    def children_of(self, process):
        path = f"/proc/{process.pid}/task/{process.pid}/children"
        with open(path, encoding="utf-8") as file:
            return [int(word) for word in file.read().split()]

    def test_goes_on_after_kills(self):
        seed = int(os.environ.get("FORMWORK_TEST_SEED", time.time_ns() % 1_000_000))
        print(f"FORMWORK_TEST_SEED={seed}", flush=True)
        chance = random.Random(seed)
        self.compare("--seeds", 2, *self.SETTINGS)
        reference = self.results()
        kills, rounds = 0, 0
        while kills < KILLS and rounds < 2 * KILLS:
            rounds += 1
            out = self.folder / f"killed-{rounds}"
            while kills < KILLS:
                process = self.begin(out)
                time.sleep(chance.uniform(0.1, 1.5))
                if chance.random() < 0.3 and process.poll() is None:  # a run instead of the whole
                    for child in self.children_of(process)[:1]:
                        os.kill(child, signal.SIGKILL)
                    time.sleep(chance.uniform(0.0, 0.5))
                if process.poll() is not None:
                    break
                process.kill()
                process.communicate()
                kills += 1
            last = self.begin(out)
            errors = last.communicate(timeout=240)[1]
            self.assertEqual(last.returncode, 0, errors)
            self.assertEqual(self.results(out), reference)
            shutil.rmtree(out)
        print(f"{kills} kills in {rounds} comparisons", flush=True)

    def test_interrupt_stops_the_runs_cleanly(self):
        process = self.start("compare", self.recipe, "--out", self.out, "--seeds", "1", "--jobs",
                             "2", *tiny.given(["train.budget.steps=1500",
                                               "train.checkpoint.every=1500",
                                               "train.evaluate.every=1500"]))
        run = self.out / "runs" / "baseline" / "seed-1"
        deadline = time.time() + 60
        while not self.has_trained(run) and time.time() < deadline:
            time.sleep(0.02)
        children = self.children_of(process)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn(f"formwork compare {self.out}", errors)
        for child in children:
            self.assertFalse(os.path.exists(f"/proc/{child}"), "a run outlived the comparison")
        base = self.summary()["variants"][0]
        self.assertEqual(base["status"], "interrupted")
        self.assertEqual(tiny.checkpoints(run), [base["runs"][0]["steps"]])
        self.formwork("compare", self.out, "--quiet")
        self.assertEqual(self.summary()["variants"][0]["runs"][0]["steps"], 1500)
        # Each session of a run writes an event file of its own: it went on, it did not begin anew.
        self.assertEqual(len(list(run.glob("events.*"))), 2)

    def has_trained(self, run):
        return (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size > 0

    def test_two_at_once(self):
        process = self.begin(self.out)
        deadline = time.time() + 60
        while not (self.out / "runs").exists() and time.time() < deadline:
            time.sleep(0.05)
        self.refused("compare", self.out, "--quiet", names=["another process", str(process.pid)])
        process.communicate(timeout=240)
        self.assertEqual(process.returncode, 0)


if __name__ == "__main__":
    formwork_case.main()

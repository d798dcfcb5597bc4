# ctest: slow timeout=900
"""`formwork resume`: a training that was ended in any way goes on as if it had never stopped."""

import json
import os
import random
import shutil
import signal
import time

import formwork_case
import tiny

KILLS = 20


def wait_for(process, *words):
    """Reads the running process's lines until one holds one of `words`; False at its end."""
    for line in process.stderr:
        if any(word in line for word in words):
            return True
    return False


class ResumeCase(tiny.TinyCase):
    def weights(self, run, step):
        """The bytes of a checkpoint's model and optimizer."""
        folder = run / "checkpoints" / f"step-{step}"
        return [(folder / f"{part}.safetensors").read_bytes() for part in ("model", "optimizer")]

    def same(self, run, reference, step):
        """Expects two runs to be equal to the last bit."""
        self.assertEqual(self.numbers(run), self.numbers(reference))
        self.assertEqual(self.weights(run, step), self.weights(reference, step))


class Killed(ResumeCase):
    SETTINGS = ["train.budget.steps=40", "train.checkpoint.every=3", "model.dropout=0.1"]

    def setUp(self):
        super().setUp()
        seed = int(os.environ.get("FORMWORK_TEST_SEED", time.time_ns() % 1_000_000))
        print(f"FORMWORK_TEST_SEED={seed}", flush=True)
        self.random = random.Random(seed)

    def kill_somewhere(self, process):
        """Kills the process at a random moment; False when it was at its end before."""
        if self.random.random() < 0.2:
            time.sleep(self.random.uniform(0.0, 0.6))  # perhaps before it has begun to train
        elif wait_for(process, "going on from step", "step 4 "):
            time.sleep(self.random.uniform(0.0, 0.4))
        process.kill()
        errors = process.communicate()[1]
        self.assertIn(process.returncode, (0, -signal.SIGKILL), errors)
        return process.returncode != 0

    def check_nothing_lost(self, run, known):
        """What was on disk before is on disk now, and the metrics reach the newest checkpoint."""
        newest = max(tiny.checkpoints(run), default=0) if (run / "checkpoints").is_dir() else 0
        self.assertGreaterEqual(newest, known)
        if newest > 0:
            text = (run / "metrics.jsonl").read_text()
            steps = [json.loads(line)["step"] for line in text.splitlines(True)
                     if line.endswith("\n")]
            self.assertEqual(steps[:newest], list(range(1, newest + 1)))
        return newest

    def trained_with_kills(self, run, most):
        """Trains `run` to its end, killed at most `most` times; the number of kills."""
        kills, known = 0, 0
        while True:
            if known == 0:
                shutil.rmtree(run, ignore_errors=True)
                process = self.start("train", self.recipe, "--out", run,
                                     *tiny.given(self.SETTINGS))
            else:
                process = self.start("resume", run)
            if kills == most:
                errors = process.communicate()[1]
                self.assertEqual(process.returncode, 0, errors)
                return kills
            if not self.kill_somewhere(process):
                return kills
            kills += 1
            known = self.check_nothing_lost(run, known)

    def test_equal_to_the_last_bit(self):
        reference = self.train("reference", *self.SETTINGS)
        kills, runs = 0, 0
        while kills < KILLS:
            runs += 1
            run = self.folder / f"run-{runs}"
            kills += self.trained_with_kills(run, KILLS - kills)
            self.same(run, reference, 40)
            self.assertTrue(json.loads((run / "summary.json").read_text())["complete"])
            self.assertFalse([path.name for path in (run / "checkpoints").iterdir()
                              if not path.name.startswith("step-")])
        print(f"{kills} kills in {runs} runs", flush=True)


class Signalled(ResumeCase):
    def stopped(self, number):
        run = self.folder / "run"
        process = self.start("train", self.recipe, "--out", run, *tiny.given(
            ["train.budget.steps=1000000", "schedule.kind=constant", "model.dropout=0.1",
             "train.checkpoint.every=1000000"]))
        self.assertTrue(wait_for(process, "step 8 "))
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn(f"formwork resume {run}", output)
        summary = json.loads((run / "summary.json").read_text())
        self.assertIs(summary["complete"], False)
        step = summary["steps"]
        self.assertEqual(self.metrics(run)[-1]["step"], step)
        self.assertEqual(tiny.checkpoints(run)[-1], step)
        self.formwork("resume", run, "--quiet", *tiny.given([f"train.budget.steps={step + 6}"]))
        reference = self.train("reference", f"train.budget.steps={step + 6}",
                               "schedule.kind=constant", "model.dropout=0.1")
        self.same(run, reference, step + 6)

    def test_terminate(self):
        self.stopped(signal.SIGTERM)

    def test_interrupt(self):
        self.stopped(signal.SIGINT)


class Exact(ResumeCase):
    def check(self, name, *settings, recipe=None):
        """Checkpoints change nothing, and neither does going on from one."""
        settings = [*settings, "train.checkpoint.keep=20"]
        plain = self.train(f"{name}-plain", *settings, "train.checkpoint.every=12", recipe=recipe)
        saved = self.train(f"{name}-saved", *settings, "train.checkpoint.every=1", recipe=recipe)
        self.assertEqual(self.numbers(saved), self.numbers(plain))
        before = self.weights(saved, 12)
        self.assertEqual(before, self.weights(plain, 12))
        self.formwork("resume", saved, "--from", saved / "checkpoints" / "step-5", "--quiet")
        self.same(saved, plain, 12)

    def test_every_optimizer(self):
        for entry in json.loads(self.formwork("methods", "optimizer", "--json").stdout):
            with self.subTest(optimizer=entry["name"]):
                self.check(entry["name"], f"optimizer.kind={entry['name']}")

    def test_bfloat16_with_accumulation_and_dropout(self):
        self.check("run", "train.precision=bfloat16", "train.accumulate=3", "model.dropout=0.2",
                   "model.attention_dropout=0.1")

    def test_batch_norm(self):
        self.check("run", "model.norm.kind=batch_norm", "model.position.kind=learned")

    def test_encoder_decoder(self):
        recipe = self.write("reverse.toml", tiny.RECIPE.replace(
            'problem = "copy"', 'problem = "reverse"\nsource = true').replace(
                "heads = 2", 'heads = 2\nposition = "sinusoidal"'))
        self.check("run", "model.dropout=0.1", recipe=recipe)

    def test_text_over_several_epochs(self):
        self.write("text.txt", "the quick brown fox jumps over the lazy dog\n" * 12)
        recipe = self.write("text.toml", tiny.RECIPE.replace(
            'kind = "sequence"\nproblem = "copy"', 'kind = "characters"\npath = "text.txt"').replace(
                "validation_items = 16\n", ""))
        self.check("run", "train.batch=6", recipe=recipe)


class Finished(ResumeCase):
    def test_longer_budget(self):
        run = self.train("run", "schedule.kind=constant")
        self.formwork("resume", run, "--quiet", "--set", "train.budget.steps=20")
        self.same(run, self.train("reference", "schedule.kind=constant", "train.budget.steps=20"), 20)
        self.assertEqual(json.loads((run / "summary.json").read_text())["steps"], 20)
        self.assertIn("steps = 20", (run / "recipe.toml").read_text())

    def test_nothing_left_to_do(self):
        run = self.train("run")
        numbers = self.numbers(run)
        summary = json.loads((run / "summary.json").read_text())
        self.formwork("resume", run, "--quiet")
        self.assertEqual(self.numbers(run), numbers)
        again = json.loads((run / "summary.json").read_text())
        for key in ("reason", "complete", "steps", "validation_loss", "best_step"):
            self.assertEqual(again.get(key), summary[key], key)

    def test_nothing_left_to_do_after_an_early_stop(self):
        run = self.train("run", "optimizer.lr=1e-20", "train.budget.steps=100",
                         "train.evaluate.every=2", "train.early_stop.patience=2")
        numbers = self.numbers(run)
        self.assertLess(len(numbers), 100)
        self.formwork("resume", run, "--quiet")
        self.assertEqual(self.numbers(run), numbers)

    def test_early_stop_counts_on(self):
        settings = ["optimizer.lr=1e-20", "train.budget.steps=100", "train.evaluate.every=2",
                    "train.checkpoint.every=2", "train.checkpoint.keep=9",
                    "train.early_stop.patience=3"]
        run = self.train("run", *settings)
        numbers = self.numbers(run)
        self.formwork("resume", run, "--quiet", "--from", run / "checkpoints" / "step-4")
        self.assertEqual(self.numbers(run), numbers)

    def test_threads_of_the_recipe(self):
        run = self.train("run", "train.threads=2")
        self.formwork("resume", run, "--quiet", "--set", "train.budget.steps=14")
        # A resume under other conditions writes a machine file of its own.
        self.assertEqual([path.name for path in run.glob("machine*.json")], ["machine.json"])
        self.assertEqual(json.loads((run / "machine.json").read_text())["threads"], 2)


if __name__ == "__main__":
    formwork_case.main()

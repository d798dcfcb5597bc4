# ctest: slow processors=2 timeout=600
"""`formwork train --processes 2`: the same losses as one process, and a clear end when one dies."""

import json
import json
import os
import pathlib
import signal
import time

import formwork_case
import tiny


def children(parent):
    """The processes that `parent` started, by the variable RANK that each was given."""
    found = {}
    for folder in pathlib.Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(state[1]) != parent:
                continue
            for word in (folder / "environ").read_bytes().split(b"\0"):
                if word.startswith(b"RANK="):
                    found[int(word[5:])] = int(folder.name)
        except (OSError, IndexError):
            continue  # it has ended meanwhile
    return found


class Processes(tiny.TinyCase):
    def close(self, one, two):
        one, two = self.metrics(one), self.metrics(two)
        self.assertEqual([line["step"] for line in one], [line["step"] for line in two])
        for a, b in zip(one, two):
            self.assertEqual(a["tokens"], b["tokens"])
            for key in ("loss", "gradient_norm", "validation_loss", "accuracy"):
                self.assertEqual(key in a, key in b)
                if key in a:
                    self.assertAlmostEqual(a[key], b[key], delta=2e-4 * abs(a[key]) + 1e-6,
                                           msg=f"{key} at step {a['step']}")

    def test_two_are_one_with_twice_the_batch(self):
        two = self.train("two", options=["--processes", "2"])
        one = self.train("one", "train.batch=8", "train.evaluate.batch=4")
        self.close(one, two)
        self.assertAlmostEqual(json.loads((one / "summary.json").read_text())["flops"],
                               json.loads((two / "summary.json").read_text())["flops"], delta=1)

    def test_accumulation_too(self):
        two = self.train("two", "train.batch=2", "train.accumulate=2", "train.evaluate.batch=5",
                         options=["--processes", "2"])
        self.close(self.train("one", "train.batch=8", "train.evaluate.batch=5"), two)

    def test_text(self):
        self.write("text.txt", "the quick brown fox jumps over the lazy dog\n" * 40)
        recipe = self.write("text.toml", tiny.RECIPE.replace(
            'kind = "sequence"\nproblem = "copy"', 'kind = "characters"\npath = "text.txt"').replace(
                "validation_items = 16\n", ""))
        two = self.train("two", recipe=recipe, options=["--processes", "2"])
        self.close(self.train("one", "train.batch=8", "train.evaluate.batch=4", recipe=recipe), two)

    def test_resume(self):
        whole = self.train("whole", options=["--processes", "2"])
        run = self.train("run", "train.checkpoint.keep=3", options=["--processes", "2"])
        self.formwork("resume", run, "--from", run / "checkpoints" / "step-4", "--processes", "2",
                      "--quiet")
        self.assertEqual(self.numbers(run), self.numbers(whole))

    def test_json(self):
        done = self.formwork("train", self.recipe, "--out", "run", "--processes", "2", "--json")
        self.assertEqual(json.loads(done.stdout)["steps"], 12)

    def test_refusal_is_said_once(self):
        self.refused("train", self.recipe, "--processes", "2", "--set", "model.widht=3",
                     names=["model.widht"])


class Ends(tiny.TinyCase):
    def running(self):
        process = self.start("train", self.recipe, "--out", self.folder / "run", "--processes", "2",
                             *tiny.given(["train.budget.steps=10000000"]))
        for line in process.stderr:
            if "step 8 " in line:
                break
        found = children(process.pid)
        self.assertEqual(sorted(found), [0, 1])
        return process, found

    def killed(self, rank):
        process, found = self.running()
        os.kill(found[rank], signal.SIGKILL)
        start = time.monotonic()
        errors = process.communicate(timeout=60)[1]
        self.assertLess(time.monotonic() - start, 30)
        self.assertEqual(process.returncode, 1, errors)
        said = [line for line in errors.splitlines() if "formwork:" in line]
        self.assertEqual(len(said), 1, errors)
        self.assertIn(f"process {rank} of 2", said[0])
        self.assertIn("signal 9", said[0])
        for pid in found.values():
            self.assertFalse(pathlib.Path(f"/proc/{pid}").exists())
        last = tiny.checkpoints(self.folder / "run")[-1]
        self.formwork("resume", self.folder / "run", "--quiet", "--set",
                      f"train.budget.steps={last + 2}")

    def test_the_second_is_killed(self):
        self.killed(1)

    def test_the_first_is_killed(self):
        self.killed(0)

    def test_terminate(self):
        process, _ = self.running()
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn("go on with", output)
        summary = json.loads((self.folder / "run" / "summary.json").read_text())
        self.assertEqual(tiny.checkpoints(self.folder / "run")[-1], summary["steps"])


if __name__ == "__main__":
    formwork_case.main()

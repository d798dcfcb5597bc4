# ctest: slow timeout=600
"""Damaged checkpoints, full disks, losses that are no numbers and too little memory: each ends in
one sentence that helps, and nothing good is lost."""

import re
import resource
import shutil

import formwork_case
import tiny

FILES = ["model.safetensors", "optimizer.safetensors", "recipe.toml", "progress.json",
         "checksums.json"]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


def lie(path):
    """A header that claims to be larger than any file."""
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


class Damage(tiny.TinyCase):
    def setUp(self):
        super().setUp()
        self.whole = self.train("whole", "train.checkpoint.keep=3", "train.checkpoint.best=false",
                                "train.evaluate.every=4")
        self.assertEqual(tiny.checkpoints(self.whole), [4, 8, 12])

    def damaged(self, damage, name, *steps):
        run = self.folder / "damaged"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(self.whole, run)
        for step in steps:
            damage(run / "checkpoints" / f"step-{step}" / name)
        return run

    def test_resume_falls_back(self):
        for name in FILES:
            for damage in (truncate, flip, lambda path: path.unlink()):
                with self.subTest(file=name, damage=damage.__name__):
                    run = self.damaged(damage, name, 12)
                    said = self.formwork("resume", run).stderr
                    self.assertIn("left out", said)
                    self.assertIn(f"step-12/{name}", said)
                    self.assertIn("going on from step 8", said)
                    self.assertEqual(self.numbers(run), self.numbers(self.whole))

    def test_two_damaged(self):
        run = self.damaged(flip, "model.safetensors", 8, 12)
        self.assertIn("going on from step 4", self.formwork("resume", run).stderr)
        self.assertEqual(self.numbers(run), self.numbers(self.whole))

    def test_all_damaged(self):
        run = self.damaged(flip, "optimizer.safetensors", 4, 8, 12)
        before = (run / "metrics.jsonl").read_text()
        self.refused("resume", run, code=1, names=["step-12/optimizer.safetensors"])
        self.assertEqual((run / "metrics.jsonl").read_text(), before)

    def test_asked_for(self):
        for damage in (truncate, empty, flip, lie):
            with self.subTest(damage=damage.__name__):
                run = self.damaged(damage, "model.safetensors", 12)
                for verb in (["evaluate"], ["generate"], ["resume", run, "--from"]):
                    self.refused(*verb, run / "checkpoints" / "step-12", code=1,
                                 names=["step-12/model.safetensors", "step-8"])

    def test_evaluate_takes_a_whole_one(self):
        run = self.damaged(flip, "model.safetensors", 12)
        self.assertNotIn("step-12\n", self.formwork("evaluate", run).stdout)

    def test_hidden_leftovers_go(self):
        run = self.damaged(flip, "model.safetensors")
        shutil.copytree(run / "checkpoints" / "step-8", run / "checkpoints" / ".step-9.77.tmp")
        self.formwork("resume", run, "--quiet", "--set", "train.budget.steps=13")
        self.assertFalse((run / "checkpoints" / ".step-9.77.tmp").exists())


class FullDisk(tiny.TinyCase):
    def limit(self, size):
        return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}

    def test_while_saving(self):
        settings = ["schedule.kind=constant", "train.checkpoint.every=4"]
        run = self.train("run", *settings, "train.budget.steps=4")
        old = run / "checkpoints" / "step-4"
        before = {path.name: path.read_bytes() for path in old.iterdir()}
        largest = max(map(len, before.values()))
        longer = ["--quiet", "--set", "train.budget.steps=12"]
        said = self.refused("resume", run, *longer, code=1, names=["checkpoints/step-8"],
                            **self.limit(largest - 100))
        self.assertIn("too large", said)  # the system's own words for this limit
        self.assertEqual({path.name: path.read_bytes() for path in old.iterdir()}, before)
        self.assertEqual([path.name for path in (run / "checkpoints").iterdir()], ["step-4"])
        self.formwork("resume", run, *longer)
        reference = self.train("reference", *settings, "train.budget.steps=12")
        self.assertEqual(self.numbers(run), self.numbers(reference))

    def test_while_logging(self):
        self.refused("train", self.recipe, "--out", "run", "--quiet", code=1,
                     names=["run/"], **self.limit(1000))


class BadLoss(tiny.TinyCase):
    def test_names_what_helps(self):
        said = self.refused("train", self.recipe, "--out", "run", "--quiet", *tiny.given(
            ["optimizer.lr=1e30", "train.checkpoint.every=1", "train.budget.steps=50"]), code=1)
        step = int(re.search(r"at step (\d+)", said).group(1))
        self.assertRegex(said, r"nan|inf")
        self.assertRegex(said, r"layer|model\.|parameter|stem|head")
        self.assertIn("optimizer.lr", said)
        last = tiny.checkpoints(self.folder / "run")[-1]
        self.assertEqual(last, step - 1)
        good = re.search(r"checkpoints/step-(\d+)", said)
        self.assertTrue(good, f"the last good checkpoint is not named: {said}")
        self.assertIn(int(good.group(1)), tiny.checkpoints(self.folder / "run"))

    def test_without_any_checkpoint(self):
        said = self.refused("train", self.recipe, "--out", "run", "--quiet", *tiny.given(
            ["optimizer.lr=1e30", "train.checkpoint.every=40", "train.evaluate.every=40",
             "train.budget.steps=50"]), code=1, names=["no checkpoint"])
        self.assertNotIn("step-", said)


class Memory(tiny.TinyCase):
    def test_batch_that_cannot_fit(self):
        said = self.refused("train", self.recipe, "--out", "run", timeout=60, code=None, *tiny.given(
            ["train.batch=100000000", "task.length=512"]), names=["train.batch"])
        self.assertRegex(said, r"train\.batch\D*[1-9]\d*", said)
        self.assertFalse((self.folder / "run").exists())

    def test_model_that_cannot_fit(self):
        if formwork_case.sanitized():
            self.skipTest("AddressSanitizer itself takes more addresses than the limit leaves")
        # The limit keeps a program that would really take the memory from taking it.
        limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))}
        said = self.refused("train", self.recipe, "--out", "run", timeout=60, code=None,
                            *tiny.given(["model.width=65536", "model.depth=2"]), **limit)
        self.assertRegex(said, r"memory")
        self.assertRegex(said, r"model\.(width|depth)")
        self.assertFalse((self.folder / "run").exists())

    def test_depth_that_cannot_fit(self):
        said = self.refused("train", self.recipe, "--out", "run", timeout=60, code=1,
                            *tiny.given(["model.width=1024", "model.depth=50000"]),
                            names=["model.depth", "50000 layers"])
        self.assertRegex(said, r"about \d+ layers of this width would fit")
        self.assertFalse((self.folder / "run").exists())


if __name__ == "__main__":
    formwork_case.main()

# ctest: slow timeout=600
"""`formwork train`: what it leaves in the run folder, and every way a training can be set and end."""

import json
import math
import tomllib

import formwork_case
import tiny

FILES = ["machine.json", "metrics.jsonl", "recipe.toml", "report.html", "summary.json"]
CHECKPOINT = {"checksums.json", "model.safetensors", "optimizer.safetensors", "progress.json",
              "recipe.toml"}


class RunFolder(tiny.TinyCase):
    def test_files(self):
        run = self.train("run")
        for name in FILES:
            self.assertGreater((run / name).stat().st_size, 0, name)
        self.assertTrue(list(run.glob("events.*")))
        self.assertLessEqual({8, 12}, set(tiny.checkpoints(run)))
        for step in tiny.checkpoints(run):
            folder = run / "checkpoints" / f"step-{step}"
            self.assertEqual({path.name for path in folder.iterdir()}, CHECKPOINT)
        self.assertFalse([path for path in (run / "checkpoints").iterdir()
                          if not path.name.startswith("step-")])

    def test_metrics(self):
        lines = self.metrics(self.train("run"))
        self.assertEqual([line["step"] for line in lines], list(range(1, 13)))
        self.assertEqual([line["step"] for line in lines if "validation_loss" in line], [4, 8, 12])
        for line in lines:
            self.assertTrue(math.isfinite(line["loss"]))
        # 16 symbols drawn evenly: an untrained model cannot be far from log 16 on each.
        self.assertAlmostEqual(lines[0]["loss"], math.log(16), delta=0.2)
        self.assertLess(lines[-1]["loss"], lines[0]["loss"])

    def test_summary_and_machine(self):
        run = self.train("run")
        summary = json.loads((run / "summary.json").read_text())
        last = self.metrics(run)[-1]
        self.assertEqual(summary["steps"], 12)
        self.assertIs(summary["complete"], True)
        self.assertEqual(summary["validation_loss"], last["validation_loss"])
        self.assertEqual(summary["tokens"], last["tokens"])
        self.assertIsInstance(json.loads((run / "machine.json").read_text()), dict)

    def test_log_every(self):
        lines = self.metrics(self.train("run", "train.log_every=5", "train.evaluate.every=6"))
        self.assertEqual([line["step"] for line in lines], [5, 6, 10, 12])

    def test_kept_checkpoints(self):
        run = self.train("run", "train.checkpoint.every=1", "train.checkpoint.keep=3",
                         "train.checkpoint.best=false")
        self.assertEqual(tiny.checkpoints(run), [10, 11, 12])

    def test_own_folder(self):
        self.formwork("train", self.recipe, "--quiet")
        runs = list((self.folder / "runs").iterdir())
        self.assertEqual(len(runs), 1)
        self.assertTrue(runs[0].name.startswith("tiny-"), runs[0].name)


class Again(tiny.TinyCase):
    def test_written_recipe(self):
        first = self.train("first", "model.dropout=0.1", "train.seed=7")
        again = self.train("again", recipe=first / "recipe.toml")
        self.assertEqual(self.numbers(first), self.numbers(again))
        self.assertEqual((first / "recipe.toml").read_text(), (again / "recipe.toml").read_text())

    def test_seed(self):
        first = self.train("first", "train.seed=1")
        other = self.train("other", "train.seed=2")
        self.assertNotEqual([line["loss"] for line in self.metrics(first)],
                            [line["loss"] for line in self.metrics(other)])

    def test_prefetch_keeps_the_order(self):
        self.assertEqual(self.numbers(self.train("none", "train.prefetch=0")),
                         self.numbers(self.train("eight", "train.prefetch=8")))

    def test_show(self):
        shown = self.formwork("train", self.recipe, "--show", *tiny.given(["train.seed=5"])).stdout
        self.assertEqual(tomllib.loads(shown)["train"]["seed"], 5)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["tiny.toml"])
        written = self.write("shown.toml", shown)
        self.assertEqual(self.formwork("train", written, "--show").stdout, shown)
        self.assertEqual(self.numbers(self.train("shown", recipe=written)),
                         self.numbers(self.train("plain", "train.seed=5")))

    def test_set(self):
        run = self.train("run", "model.mixer.kind=local", "model.mixer.window=8", "model.depth=1",
                         "train.budget.steps=3", 'name="other"')
        recipe = tomllib.loads((run / "recipe.toml").read_text())
        self.assertEqual(recipe["model"]["mixer"]["kind"], "local")
        self.assertEqual(recipe["model"]["mixer"]["window"], 8)
        self.assertEqual(recipe["model"]["depth"], 1)
        self.assertEqual(recipe["name"], "other")
        self.assertEqual(len(self.metrics(run)), 3)

    def test_json(self):
        done = self.formwork("train", self.recipe, "--out", self.folder / "run", "--json")
        outcome = json.loads(done.stdout)
        self.assertEqual(outcome["steps"], 12)
        self.assertEqual(outcome["folder"], str(self.folder / "run"))
        self.assertEqual(outcome["validation_loss"],
                         self.metrics(self.folder / "run")[-1]["validation_loss"])
        self.assertIn("12/12", done.stderr)

    def test_quiet(self):
        done = self.formwork("train", self.recipe, "--out", self.folder / "run", "--quiet")
        self.assertEqual(done.stderr, "")
        self.assertIn("report.html", done.stdout)


class Budget(tiny.TinyCase):
    def setUp(self):
        super().setUp()
        self.recipe = self.write("tiny.toml",
                                 tiny.RECIPE.replace("[train.budget]\nsteps = 12\n", ""))

    def last(self, *settings):
        run = self.train("run", *settings)
        summary = json.loads((run / "summary.json").read_text())
        self.assertEqual(summary["reason"], "budget used")
        self.assertIn("validation_loss", summary)
        return self.metrics(run)

    def test_tokens(self):
        lines = self.last("train.budget.tokens=2000")
        self.assertGreaterEqual(lines[-1]["tokens"], 2000)
        self.assertLess(lines[-2]["tokens"], 2000)

    def test_seconds(self):
        lines = self.last("train.budget.seconds=0.3")
        self.assertGreaterEqual(lines[-1]["seconds"], 0.3)
        self.assertLess(lines[-2]["seconds"], 0.3)

    def test_flops(self):
        one = self.metrics(self.train("one", "train.budget.steps=1"))[0]["flops"]
        # 24·D² a layer and token forward (attention 8, channel 16), three times that with backward.
        tokens = 4 * 64
        self.assertGreater(one, 3 * 2 * 24 * 16 * 16 * tokens)
        lines = self.last(f"train.budget.flops={4.5 * one}")
        self.assertEqual(len(lines), 5)
        self.assertAlmostEqual(lines[-1]["flops"], 5 * one, delta=one * 1e-6)

    def test_first_of_two(self):
        self.assertEqual(len(self.last("train.budget.steps=5", "train.budget.tokens=1e9")), 5)

    def test_early_stop(self):
        run = self.train("run", "optimizer.lr=1e-20", "train.budget.steps=100",
                         "train.evaluate.every=2", "train.early_stop.patience=3")
        summary = json.loads((run / "summary.json").read_text())
        self.assertEqual(summary["reason"], "no improvement")
        self.assertEqual(summary["steps"], 8)
        self.assertEqual(summary["best_step"], 2)


class Ways(tiny.TinyCase):
    def losses(self, run):
        return [line["loss"] for line in self.metrics(run)]

    def close(self, one, two, relative):
        self.assertEqual(len(one), len(two))
        for step, (a, b) in enumerate(zip(one, two), 1):
            self.assertAlmostEqual(a, b, delta=relative * abs(a), msg=f"step {step}")

    def test_accumulation(self):
        whole = self.metrics(self.train("whole", "train.batch=8", "train.evaluate.batch=4"))
        parts = self.metrics(self.train("parts", "train.batch=4", "train.accumulate=2"))
        for key in ("loss", "gradient_norm"):
            self.close([line[key] for line in whole], [line[key] for line in parts], 1e-4)
        self.assertEqual(whole[-1]["tokens"], parts[-1]["tokens"])
        self.assertAlmostEqual(whole[-1]["validation_loss"], parts[-1]["validation_loss"], delta=1e-4)

    def test_smoothed_loss(self):
        plain = self.numbers(self.train("plain"))
        for key, value in {"label_smoothing": 0.2, "z_loss": 0.1}.items():
            run = self.numbers(self.train(key, f"train.{key}={value}"))
            self.assertNotEqual(run[0]["loss"], plain[0]["loss"])  # of the same first model
            self.assertGreater(run[-1]["loss"], plain[-1]["loss"])
            mean = sum(line["validation_loss"] for line in run if "validation_loss" in line)
            other = sum(line["validation_loss"] for line in plain if "validation_loss" in line)
            self.assertLess(abs(mean - other), 0.1 * other)  # which stays the plain one
        self.refused("train", self.recipe, "--set", "train.label_smoothing=1",
                     names=["train.label_smoothing", "below 1"])
        rows = [f"2026-01-{1 + i // 24:02d} {i % 24:02d}:00:00,{i % 7}" for i in range(300)]
        self.write("series.csv", "\n".join(["date,a", *rows, ""]))
        numbers = self.write("numbers.toml", '[task]\nkind = "forecast"\npath = "series.csv"\n'
                             'split = "fractions"\nlength = 16\nhorizon = 4\n'
                             '[model]\nwidth = 16\nheads = 2\nstem = { kind = "series", patch = 4 }\n')
        self.refused("train", numbers, "--set", "train.z_loss=1e-4", names=["train.z_loss", "forecast"])

    def test_bfloat16(self):
        exact = self.losses(self.train("exact", "train.budget.steps=30"))
        rounded = self.losses(self.train("rounded", "train.budget.steps=30",
                                         'train.precision="bfloat16"'))
        self.assertNotEqual(exact, rounded)
        self.close(exact, rounded, 0.02)
        self.assertLess(rounded[-1], rounded[0])

    def test_float64(self):
        exact = self.losses(self.train("exact", "train.precision=float64"))
        self.close(exact, self.losses(self.train("single")), 1e-3)

    def test_every_optimizer(self):
        catalogue = json.loads(self.formwork("methods", "optimizer", "--json").stdout)
        names = [entry["name"] for entry in catalogue]
        self.assertLessEqual({"adamw", "sgd", "lion", "adafactor", "shampoo", "soap",
                              "schedule_free"}, set(names))
        for name in names:
            with self.subTest(optimizer=name):
                run = self.train(name, f"optimizer.kind={name}", "train.budget.steps=8")
                losses = self.losses(run)
                self.assertEqual(len(losses), 8)
                self.assertTrue(all(map(math.isfinite, losses)), losses)
                self.assertLess(losses[-1], losses[0] + 0.1)

    def test_encoder_decoder(self):
        recipe = self.write("reverse.toml", tiny.RECIPE.replace(
            'problem = "copy"', 'problem = "reverse"\nsource = true').replace(
                "heads = 2", 'heads = 2\nposition = "sinusoidal"'))
        run = self.train("run", recipe=recipe)
        self.assertEqual(tomllib.loads((run / "recipe.toml").read_text())["model"]["form"],
                         "encoder_decoder")
        self.assertLess(self.losses(run)[-1], self.losses(run)[0])

    def test_listops(self):
        recipe = self.write("listops.toml", tiny.RECIPE.replace(
            'kind = "sequence"\nproblem = "copy"\n', 'kind = "listops"\n'))
        run = self.train("run", "train.budget.steps=4", recipe=recipe)
        self.assertEqual(tomllib.loads((run / "recipe.toml").read_text())["model"]["form"], "encoder")
        self.assertAlmostEqual(self.losses(run)[0], math.log(10), delta=0.5)


class Recipes(formwork_case.FormworkCase):
    def test_every_recipe(self):
        without_files = 0
        for path in sorted((formwork_case.SOURCE / "recipes").glob("*.toml")):
            task = tomllib.loads(path.read_text())["task"]
            files = [value for value in task.values() if isinstance(value, str) and "/" in value]
            with self.subTest(recipe=path.name):
                if files:  # they are not here, and the sentence says which
                    said = self.refused("train", path, "--show")
                    self.assertTrue(any(file in said for file in files), said)
                    continue
                shown = self.formwork("train", path, "--show").stdout
                self.assertEqual(tomllib.loads(shown)["name"], path.stem)
                without_files += 1
        self.assertGreaterEqual(without_files, 3)


if __name__ == "__main__":
    formwork_case.main()

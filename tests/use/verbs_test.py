# ctest: slow timeout=300
"""The other verbs as a person uses them: evaluate, generate, methods, data, and help."""

import json

import formwork_case
import tiny

VERBS = ["train", "resume", "evaluate", "generate", "inspect", "convert", "compare", "claims", "methods",
         "data", "bench"]
TEXT = "the quick brown fox jumps over the lazy dog.\nhow now brown cow, said the dog to the fox.\n"


class Help(formwork_case.FormworkCase):
    def test_alone(self):
        alone = self.formwork().stdout
        self.assertEqual(alone, self.formwork("--help").stdout)
        self.assertIn("formwork train recipes/quickstart.toml", alone)
        for verb in VERBS:
            self.assertIn(verb, alone)

    def test_every_verb(self):
        for verb in VERBS:
            with self.subTest(verb=verb):
                said = self.formwork(verb, "--help").stdout
                self.assertRegex(said, "Examples?:\n +formwork " + verb)
        self.assertIn("Example", self.formwork("data", "check", "--help").stdout)
        self.assertIn("Example", self.formwork("bench", "train", "--help").stdout)

    def test_version(self):
        self.assertRegex(self.formwork("--version").stdout, r"^formwork \d+\.\d+\.\d+")


class Evaluate(tiny.TinyCase):
    def figures(self, *arguments):
        return json.loads(self.formwork("evaluate", *arguments, "--json").stdout)

    def test_best_and_given(self):
        run = self.train("run", "train.checkpoint.keep=3")
        best = json.loads((run / "summary.json").read_text())["best_step"]
        lines = {line["step"]: line for line in self.metrics(run)}
        figures = self.figures(run)
        self.assertEqual(figures["step"], best)
        self.assertEqual(figures["validation_loss"], lines[best]["validation_loss"])
        for step in (4, 8, 12):
            path = run / "checkpoints" / f"step-{step}"
            figures = self.figures(path)
            self.assertEqual(figures["checkpoint"], str(path))
            self.assertEqual(figures["validation_loss"], lines[step]["validation_loss"])
            self.assertEqual(figures["accuracy"], lines[step]["accuracy"])
            self.assertEqual(self.figures(f"{path}/"), {**figures, "checkpoint": f"{path}/"})
        said = self.formwork("evaluate", run / "checkpoints" / "step-8").stdout
        self.assertIn("step-8", said)
        self.assertIn(f"{lines[8]['validation_loss']:.5g}"[:6], said)

    def test_batch_items_and_settings(self):
        run = self.train("run")
        whole = self.figures(run)
        for size in (1, 5, 100):
            self.assertAlmostEqual(self.figures(run, "--batch", size)["validation_loss"],
                                   whole["validation_loss"], places=5)
        self.assertNotEqual(self.figures(run, "--items", 3)["validation_loss"],
                            whole["validation_loss"])
        self.assertNotEqual(self.figures(run, "--set", "task.length=48")["validation_loss"],
                            whole["validation_loss"])

    def test_averaging_optimizer(self):
        run = self.train("run", "optimizer.kind=schedule_free")
        self.assertEqual(self.figures(run / "checkpoints" / "step-12")["validation_loss"],
                         self.metrics(run)[-1]["validation_loss"])

    def test_writes_nothing(self):
        run = self.train("run")
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        self.formwork("evaluate", run)
        self.assertEqual({path: path.stat().st_mtime_ns for path in run.rglob("*")}, before)


class Generate(tiny.TinyCase):
    def setUp(self):
        super().setUp()
        self.write("text.txt", TEXT * 20)
        self.recipe = self.write("text.toml", tiny.RECIPE.replace(
            'kind = "sequence"\nproblem = "copy"', 'kind = "characters"\npath = "text.txt"').replace(
                "validation_items = 16\n", ""))
        self.run_folder = self.train("run", "train.budget.steps=60", "optimizer.lr=1e-2",
                                     "train.evaluate.every=60")

    def text(self, *options):
        return self.formwork("generate", self.run_folder, "--quiet", "--prompt", "the ", "--tokens",
                             80, *options).stdout

    def test_same_seed_same_text(self):
        one = self.text("--seed", 7)
        self.assertEqual(one, self.text("--seed", 7))
        self.assertNotEqual(one, self.text("--seed", 8))
        self.assertTrue(one.startswith("the "))
        self.assertEqual(len(one), len("the ") + 80 + 1)
        self.assertLessEqual(set(one), set(TEXT))

    def test_likeliest(self):
        likeliest = self.text("--temperature", 0)
        self.assertEqual(likeliest, self.text("--temperature", 0, "--seed", 9))
        self.assertEqual(likeliest, self.text("--top-k", 1))
        self.assertEqual(likeliest, self.text("--top-k", 1, "--seed", 5, "--temperature", 3))
        self.assertEqual(likeliest, self.text("--min-p", 1))
        self.assertEqual(likeliest, self.text("--top-p", 1e-9))
        self.assertNotEqual(likeliest, self.text())

    def test_no_limits_are_no_limits(self):
        self.assertEqual(self.text(), self.text("--top-k", 0, "--top-p", 1, "--min-p", 0,
                                                "--temperature", 1))
        self.assertEqual(self.text(), self.text("--top-k", 1000))

    def test_json(self):
        streamed = self.text("--seed", 3)
        told = json.loads(self.text("--seed", 3, "--json"))
        self.assertEqual(told["prompt"] + told["text"] + "\n", streamed)
        self.assertEqual(told["tokens"], 80)
        self.assertEqual(told["checkpoint"], str(self.run_folder / "checkpoints" / "step-60"))

    def test_figures(self):
        done = self.formwork("generate", self.run_folder, "--tokens", 10)
        self.assertRegex(done.stderr, r"10 tokens, \d+ tokens/s")

    def test_prefix_does_not_depend_on_length(self):
        long = self.text("--seed", 4)
        short = self.formwork("generate", self.run_folder, "--quiet", "--prompt", "the ",
                              "--tokens", 20, "--seed", 4).stdout
        self.assertTrue(long.startswith(short[:-1]))

    def test_longer_than_trained(self):
        told = json.loads(self.formwork("generate", self.run_folder, "--tokens", 150, "--json").stdout)
        self.assertEqual(len(told["text"]), 150)

    def test_packed_weights(self):
        told = {}
        for form in ("float32", "bfloat16", "int8"):
            told[form] = json.loads(self.text("--weights", form, "--json"))
            self.assertEqual(told[form]["text"],
                             json.loads(self.text("--weights", form, "--json"))["text"])
            self.assertEqual(told[form]["weights"]["form"], form)
            self.assertEqual(told[form]["weights"]["other_maps"], 0)
        self.assertEqual(told["float32"]["text"], json.loads(self.text("--json"))["text"])
        size = {form: figures["weights"]["bytes"] for form, figures in told.items()}
        self.assertEqual(size["float32"], 2 * size["bfloat16"])
        self.assertLess(size["int8"], size["bfloat16"])
        self.assertEqual(told["int8"]["weights"]["packed_maps"], 2 * 6 + 1)
        self.refused("generate", self.run_folder, "--weights", "int4",
                     names=["--weights", "int4", "int8", "bfloat16"])
        self.assertIn("--weights", self.formwork("generate", "--help").stdout)

    def test_weights_that_cannot_be_packed(self):
        run = self.train("sigma", "model.linear.kind=sigma_reparam")
        done = self.formwork("generate", run, "--weights", "int8", "--tokens", 9)
        self.assertIn("13 of 13 linear maps cannot hold int8", done.stderr)

    def test_unknown_character(self):
        self.refused("generate", self.run_folder, "--prompt", "caf\u00e9", names=["\u00e9"])


class Methods(formwork_case.FormworkCase):
    def test_json(self):
        catalogue = json.loads(self.formwork("methods", "--json").stdout)
        for entry in catalogue:
            self.assertEqual(set(entry), {"axis", "name", "specification", "paper", "summary",
                                          "options"})
            self.assertTrue(entry["summary"], entry["name"])
            for option in entry["options"]:
                self.assertTrue(option["key"])
                self.assertTrue(option["help"], (entry["name"], option["key"]))
        pairs = [(entry["axis"], entry["name"]) for entry in catalogue]
        self.assertEqual(len(pairs), len(set(pairs)))
        self.assertLessEqual({"stem", "conditioning", "position", "norm", "wiring", "mixer",
                              "channel", "linear", "optimizer", "schedule", "constraint", "task"},
                             {axis for axis, _ in pairs})

    def test_axis_and_method(self):
        catalogue = json.loads(self.formwork("methods", "--json").stdout)
        self.assertEqual(json.loads(self.formwork("methods", "mixer", "--json").stdout),
                         [entry for entry in catalogue if entry["axis"] == "mixer"])
        for entry in catalogue:
            if entry["axis"] not in ("mixer", "task", "constraint"):
                continue
            with self.subTest(method=entry["name"]):
                said = self.formwork("methods", entry["axis"], entry["name"]).stdout
                for option in entry["options"]:
                    self.assertIn(option["key"], said)
        whole = self.formwork("methods").stdout
        for entry in catalogue:
            self.assertIn(entry["name"], whole)


class Data(tiny.TinyCase):
    def test_listops(self):
        self.formwork("data", "listops", "--to", "lists", "--items", 50, "--set", "length=64")
        self.assertEqual({path.name for path in (self.folder / "lists").iterdir()},
                         {"basic_train.tsv", "basic_val.tsv", "basic_test.tsv"})
        self.assertEqual(len((self.folder / "lists/basic_train.tsv").read_text().splitlines()), 51)
        self.formwork("data", "check", "lists")
        recipe = self.write("listops.toml", tiny.RECIPE.replace(
            'kind = "sequence"\nproblem = "copy"', 'kind = "listops"\nfolder = "lists"'))
        self.train("run", "task.length=64", "train.budget.steps=2", recipe=recipe)

    def test_same_seed_same_files(self):
        for name, seed in (("one", 5), ("same", 5), ("other", 6)):
            self.formwork("data", "sequence", "--to", name, "--items", 20, "--seed", seed,
                          "--set", "problem=addition", "--set", "task.digits=3")
        files = {name: {path.name: path.read_bytes() for path in (self.folder / name).iterdir()}
                 for name in ("one", "same", "other")}
        self.assertEqual(files["one"], files["same"])
        self.assertNotEqual(files["one"], files["other"])
        self.assertTrue(all(files["one"].values()))

    def test_check_names_the_place(self):
        self.formwork("data", "listops", "--to", "lists", "--items", 10, "--set", "length=64")
        path = self.folder / "lists" / "basic_train.tsv"
        lines = path.read_text().splitlines()
        source, target = lines[2].split("\t")
        lines[2] = f"{source}\t{(int(target) + 1) % 10}"
        source, target = lines[3].split("\t")
        lines[3] = f"{source[:-2]}\t{target}"
        path.write_text("\n".join(lines) + "\n")
        found = self.formwork("data", "check", path, expect=2).stdout
        self.assertIn(f"basic_train.tsv:3:{len(lines[2])}", found)
        self.assertIn("basic_train.tsv:4:", found)
        for good in (1, 2, 5, 6):
            self.assertNotIn(f"basic_train.tsv:{good}:", found)
        self.assertIn("2 problems", found)

    def test_check_of_a_good_text(self):
        self.write("text.txt", TEXT)
        self.assertNotIn("problem", self.formwork("data", "check", "text.txt").stdout)


if __name__ == "__main__":
    formwork_case.main()

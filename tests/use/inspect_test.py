# ctest: slow timeout=300
"""Looking inside a trained model as a person does: formwork inspect, and probes while training."""

import json
import pathlib

import formwork_case
import tiny

PROBES = ["activations", "attention_entropy", "attention_maps", "causality", "condition_number",
          "gradient_norm", "permutation_symmetry", "spectrum", "sublayer_gain", "token_similarity"]


class Inspect(tiny.TinyCase):
    def test_everything(self):
        run = self.train("run")
        said = self.formwork("inspect", run).stdout
        for probe in PROBES:
            self.assertIn(f"\n{probe}: ", said)
        self.assertIn("causal: no input can change an earlier output", said)
        self.assertIn("layers.1.attn", said)
        self.assertNotIn("nan", said)

    def test_json_and_choice(self):
        run = self.train("run")
        best = json.loads((run / "summary.json").read_text())["best_step"]
        found = json.loads(self.formwork("inspect", run, "--probe", "attention_entropy", "--batches", 2,
                                         "--items", 8, "--json").stdout)
        self.assertEqual(found["step"], best)
        self.assertEqual(list(found["probes"]), ["attention_entropy"])
        entropy = found["probes"]["attention_entropy"]
        rows = entropy["figures"]["entropy"]["rows"]
        self.assertEqual(list(rows), ["layers.0.attn", "layers.1.attn"])
        columns = entropy["figures"]["entropy"]["columns"]
        self.assertEqual(columns, ["mean", "limit", "head 0", "head 1"])
        for place, row in rows.items():
            self.assertLessEqual(row[0], row[1])
            self.assertLessEqual(entropy["figures"]["bound"]["rows"][place][0], row[0])
        self.assertEqual(entropy["series"]["attention_entropy"], [row[0] for row in rows.values()])
        given = run / "checkpoints" / f"step-{tiny.checkpoints(run)[-1]}"
        one = json.loads(self.formwork("inspect", given, "--probe", "attention_entropy:bound=spectral",
                                       "--probe", "sublayer_gain", "--json").stdout)
        self.assertEqual(one["checkpoint"], str(given))
        self.assertIn("(spectral)", one["probes"]["attention_entropy"]["figures"]["bound"]["title"])

    def test_page(self):
        run = self.train("run")
        self.formwork("inspect", run, "--out", "look/inside")
        page = (self.folder / "look" / "inside" / "inspection.html").read_text(encoding="utf-8")
        numbers = json.loads((self.folder / "look" / "inside" / "inspection.json").read_text())
        self.assertEqual(list(numbers["probes"]), PROBES)
        maps = numbers["probes"]["attention_maps"]["pictures"]
        self.assertEqual([m["title"] for m in maps][:2], ["layers.0.attn head 0", "layers.0.attn head 1"])
        for row in maps[0]["rows"]:
            self.assertAlmostEqual(sum(row), 1.0, places=2)
        self.assertNotIn("{{", page.split("<script", 1)[0])
        self.assertNotIn('src="http', page)

    def test_without_attention(self):
        run = self.train("run", "model.mixer.kind=linear")
        said = self.formwork("inspect", run, "--probe", "attention_entropy").stdout
        self.assertIn("no distribution over keys", said)

    def test_refusals(self):
        run = self.train("run")
        self.refused("inspect", run, "--probe", "entropy_of_attention", names=["--probe", "entropy_of_attention", "attention_entropy"])
        self.refused("inspect", run, "--probe", "attention_entropi", names=["did you mean 'attention_entropy'"])
        self.refused("inspect", run, "--probe", "activations:massiv=3", names=["did you mean 'massive'"])
        self.refused("inspect", self.folder / "none", names=["none", "no folder"])
        self.refused("inspect", run, "--batches", 0, names=["--batches"])
        self.refused("train", self.recipe, "--out", "never", "--set", 'train.probe.kinds=["spectra"]',
                     names=["train.probe.kinds", "did you mean 'spectrum'"])
        self.assertFalse(pathlib.Path(self.folder / "never").exists())


class WhileTraining(tiny.TinyCase):
    KINDS = 'train.probe.kinds=["attention_entropy", "activations", "gradient_norm", "spectrum"]'

    def losses(self, run):
        return [(line["step"], line["loss"], line.get("validation_loss")) for line in self.metrics(run)]

    def test_training_is_the_same(self):
        settings = ["model.dropout=0.1", "model.norm.kind=batch_norm"]
        plain = self.train("plain", *settings)
        probed = self.train("probed", *settings, self.KINDS, "train.probe.every=3")
        self.assertEqual(self.losses(plain), self.losses(probed))
        measured = [line["step"] for line in self.metrics(probed) if "probes" in line]
        self.assertEqual(measured, [3, 6, 9, 12])
        self.assertFalse(any("probes" in line for line in self.metrics(plain)))

    def test_between_log_lines_and_resumed(self):
        probed = self.train("probed", self.KINDS, "train.probe.every=5", "train.log_every=4",
                            "train.budget.steps=6", "train.evaluate.every=3")
        self.formwork("resume", probed, "--set", "train.budget.steps=12", "--quiet")
        whole = self.train("whole", self.KINDS, "train.probe.every=5", "train.log_every=4",
                           "train.evaluate.every=3", "schedule.kind=constant")
        self.assertEqual([line["step"] for line in self.metrics(probed) if "probes" in line], [5, 10])
        self.assertEqual([line["step"] for line in self.metrics(whole) if "probes" in line], [5, 10])
        report = (whole / "report.html").read_text(encoding="utf-8")
        self.assertIn('"activations.massive"', report)


if __name__ == "__main__":
    formwork_case.main()

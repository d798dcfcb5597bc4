# ctest: timeout=300
"""`formwork convert`: runs and Hugging Face folders become others that compute the same."""

import json
import shutil

import formwork_case
import tiny

FOLDERS = formwork_case.SOURCE / "tests" / "golden" / "hf_models"


class Convert(tiny.TinyCase):
    def convert(self, source, out, transform, *options):
        done = self.formwork("convert", source, self.folder / out, "--transform", transform,
                             "--json", *options)
        return json.loads(done.stdout)

    def evaluate(self, run):
        return json.loads(self.formwork("evaluate", run, "--json").stdout)

    def test_run(self):
        run = self.train("run", "model.norm.kind=layer_norm", "model.mixer.bias=true")
        before = self.evaluate(run)
        for transform in ("pre_rms", "pre_crms"):
            with self.subTest(transform=transform):
                figures = self.convert(run, transform, transform)
                self.assertLess(figures["largest_difference"], 1e-4 * figures["largest_output"])
                self.assertGreater(figures["seconds_after"], 0)
                after = self.evaluate(self.folder / transform)
                self.assertAlmostEqual(before["validation_loss"], after["validation_loss"], places=5)
                self.assertEqual(before["step"], after["step"])
        self.refused("convert", self.folder / "pre_rms", self.folder / "again", "--transform",
                     "pre_rms", names=["model.norm.kind", "rms_norm"])
        self.assertFalse((self.folder / "again").exists())

    def test_trained_further(self):
        run = self.train("base", "model.norm.kind=layer_norm")
        self.convert(run, "forms", "pre_rms")
        self.refused("resume", "forms", names=["train.start_from"])
        further = self.train("further", "train.budget.steps=1", "train.start_from=forms",
                             "optimizer.lr=1e-9", recipe="forms/recipe.toml")
        before, after = self.evaluate("forms"), self.evaluate(further)
        self.assertAlmostEqual(before["validation_loss"], after["validation_loss"], delta=1e-4)
        self.refused("train", "forms/recipe.toml", "--set", "model.width=24", "--set",
                     "train.start_from=forms", "--out", "no",
                     names=["train.start_from: forms", "shape"])
        self.assertFalse((self.folder / "no").exists())

    def test_fold(self):
        run = self.train("run", "model.norm.kind=batch_norm")
        figures = self.convert(run, "folded", "fold")
        self.assertLess(figures["largest_difference"], 1e-4 * figures["largest_output"])
        self.assertAlmostEqual(self.evaluate(run)["validation_loss"],
                               self.evaluate(self.folder / "folded")["validation_loss"], places=4)

    def test_hugging_face(self):
        for name in ("gpt2_lm", "vit_classifier"):
            with self.subTest(folder=name):
                figures = self.convert(FOLDERS / name, f"{name}-rms", "pre_rms")
                self.assertIn("Hugging Face", figures["layout"])
                config = json.loads((self.folder / f"{name}-rms" / "config.json").read_text())
                self.assertEqual(config["architectures"],
                                 json.loads((FOLDERS / name / "config.json").read_text())["architectures"])
                figures = self.convert(FOLDERS / name, f"{name}-crms", "pre_crms", "--set",
                                       "storage=exact")
                self.assertIn("own layout", figures["layout"])
                self.assertLess(figures["largest_difference"], 1e-4 * figures["largest_output"])
                self.refused("generate", self.folder / f"{name}-crms", names=["without a task"])
        said = self.formwork("convert", FOLDERS / "gpt2_lm", "text", "--transform", "pre_rms").stdout
        for word in ("largest difference", "parameters", "time"):
            self.assertIn(word, said)

    def test_refusals(self):
        gpt2 = FOLDERS / "gpt2_lm"
        taken = self.folder / "taken"
        taken.mkdir()
        self.refused("convert", gpt2, taken, "--transform", "pre_rms", names=["taken", "free"])
        self.refused("convert", self.folder / "nowhere", "out", "--transform", "pre_rms",
                     names=["nowhere", "is no folder"])
        self.refused("convert", taken, "out", "--transform", "pre_rms", names=["taken"])
        self.refused("convert", gpt2, "out", "--transform", "pre_rsm",
                     names=["pre_rsm", "did you mean 'pre_rms'"])
        self.refused("convert", gpt2, "out", "--transform", "pre_rms", "--set", "tied=maybe",
                     names=["transform.tied", "untie"])
        self.refused("convert", gpt2, "out", "--transform", "fold", names=["nothing to fold"])
        self.assertFalse((self.folder / "out").exists())

    def test_damage(self):
        broken = self.folder / "broken"
        shutil.copytree(FOLDERS / "gpt2_lm", broken)
        weights = broken / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-9])
        self.refused("convert", broken, "out", "--transform", "pre_rms", names=["model.safetensors"])
        config = json.loads((broken / "config.json").read_text())
        config["architectures"] = ["LlamaForCausalLM"]
        (broken / "config.json").write_text(json.dumps(config))
        self.refused("convert", broken, "out", "--transform", "pre_rms",
                     names=["LlamaForCausalLM", "GPT2LMHeadModel", "ViTForImageClassification"])


if __name__ == "__main__":
    formwork_case.main()

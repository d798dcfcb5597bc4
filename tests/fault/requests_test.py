# ctest: timeout=300
"""Requests that cannot work are refused: exit code 2, one sentence that names the place and what
would be valid, and nothing written."""

import os
import unittest

import formwork_case
import tiny


class Refused(tiny.TinyCase):
    def files(self):
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))

    def no(self, *names, settings=(), recipe=None, options=()):
        """Expects `train` to be refused with all of `names` in its sentence and nothing written."""
        before = self.files()
        said = self.refused("train", recipe or self.recipe, "--out", self.folder / "run", *options,
                            *tiny.given(settings), names=names)
        self.assertEqual(self.files(), before)
        return said

    def text(self, *changes):
        """A recipe file with parts of the tiny recipe replaced."""
        text = tiny.RECIPE
        for old, new in changes:
            self.assertIn(old, text)
            text = text.replace(old, new)
        return self.write("changed.toml", text)


class Keys(Refused):
    def test_misspelt(self):
        self.no("model.widht", "did you mean 'width'", settings=["model.widht=16"])
        self.no("train.budget.step", "did you mean 'steps'", settings=["train.budget.step=16"])
        self.no("optimizer.learning_rte", settings=["optimizer.learning_rte=1"])

    def test_misspelt_in_the_file(self):
        self.no("changed.toml:10:", "model.haeds", "did you mean 'heads'", recipe=self.text(("heads = 2", "haeds = 2")))
        self.no("changed.toml:", "trian", "did you mean 'train'", recipe=self.text(("[train.budget]", "[trian.budget]")))

    def test_misspelt_method(self):
        self.no("model.mixer", "softmx", "softmax", settings=["model.mixer.kind=softmx"])
        self.no("optimizer", "adamv", "adamw", settings=["optimizer.kind=adamv"])
        self.no("task", "sequense", "sequence", settings=["task.kind=sequense"])

    def test_option_of_another_method(self):
        self.no("model.mixer", "window", settings=["model.mixer.window=8"])

    def test_wrong_type(self):
        self.no("model.width", "wide", settings=['model.width="wide"'])
        self.no("model.width", "16.5", settings=["model.width=16.5"])
        self.no("train.checkpoint.best", settings=["train.checkpoint.best=3"])
        self.no("model", recipe=self.write("flat.toml", 'model = 3\n[task]\nkind = "sequence"\n'))

    def test_out_of_range(self):
        self.no("model.width", "0", settings=["model.width=0"])
        self.no("model.depth", "-1", settings=["model.depth=-1"])
        self.no("model.dropout", "1.5", settings=["model.dropout=1.5"])
        self.no("optimizer.lr", settings=["optimizer.lr=-1"])
        self.no("optimizer.lr", settings=["optimizer.lr=nan"])
        self.no("train.batch", settings=["train.batch=0"])
        self.no("train.budget.steps", settings=["train.budget.steps=0"])
        self.no("train.precision", "float16", "bfloat16", settings=["train.precision=float16"])
        self.no("train.batch", settings=["train.batch=99999999999999999999"])

    def test_device(self):
        self.no("train.device", "gpu", "cuda", settings=["train.device=gpu"])

    @unittest.skipIf(os.path.exists("/dev/nvidia0"), "there may be a GPU")
    def test_no_gpu(self):
        self.no("train.device", "cuda", "no GPU", "cpu", settings=["train.device=cuda"])

    def test_set_without_value(self):
        self.no("model.width", settings=["model.width"])
        self.no(settings=["=3"])

    def test_no_task(self):
        self.no("task", recipe=self.write("none.toml", "[model]\nwidth = 16\n"))


class Combinations(Refused):
    def test_heads_do_not_divide(self):
        self.no("model.heads", "3", "16", settings=["model.heads=3"])

    def test_bias_without_scores(self):
        self.no("model.position.kind", "alibi", "linear",
                settings=["model.mixer.kind=linear", "model.position.kind=alibi"])
        self.no("model.position.kind", "t5_relative", "linear",
                settings=["model.mixer.kind=linear", "model.position.kind=t5_relative"])

    def test_encoder_decoder_without_cross_attention(self):
        recipe = self.text(('problem = "copy"', 'problem = "copy"\nsource = true'))
        self.no("model.mixer.kind", "local", "encoder_decoder", "softmax", recipe=recipe,
                settings=["model.mixer.kind=local", "model.position.kind=none"])
        self.no("model.form", "encoder_decoder", settings=["model.form=encoder_decoder"])

    def test_odd_columns_to_rotate(self):
        self.no("rotary", settings=["model.width=15", "model.heads=3"])

    def test_stem_of_another_task(self):
        self.no("model.stem.kind", "patch", "token", settings=["model.stem.kind=patch"])

    def test_pooling_where_every_token_answers(self):
        self.no("model.head.pooling", "mean", settings=["model.head.pooling=mean"])

    def test_layer_that_is_not_there(self):
        self.no("model.layer", "7", recipe=self.text(
            ("heads = 2", "heads = 2\n[[model.layer]]\nat = [7]\nmixer = \"local\"")))

    def test_schedule_beside_schedule_free(self):
        self.no("schedule.kind", "cosine", "schedule_free", "constant",
                settings=["optimizer.kind=schedule_free", "schedule.kind=cosine"])


class Files(Refused):
    def test_missing_recipe(self):
        self.no("nothing.toml", recipe="nothing.toml")

    def test_empty_recipe(self):
        self.no("empty.toml", recipe=self.write("empty.toml", ""))

    def test_folder_as_recipe(self):
        (self.folder / "recipes").mkdir()
        self.no("recipes", recipe="recipes")

    def test_not_toml(self):
        self.no("broken.toml:3:", recipe=self.write("broken.toml", "[task]\nkind = 'listops'\n= 7\n"))
        self.no("binary.toml", recipe=self.write("binary.toml", "\0\1\2\3"))
        self.no("twice.toml:2:", recipe=self.write("twice.toml", "name = 'a'\nname = 'b'\n"))

    def test_text_file(self):
        settings = ["task.kind=characters", "task.path=text.txt", "task.length=8"]
        recipe = self.text(('problem = "copy"\n', ""), ("validation_items = 16\n", ""),
                           ("length = 32\n", ""))
        self.no("text.txt", recipe=recipe, settings=settings)
        self.write("text.txt", "")
        self.no("text.txt", "empty", recipe=recipe, settings=settings)
        self.write("text.txt", "abc")
        self.no("text.txt", recipe=recipe, settings=settings)
        (self.folder / "text.txt").write_bytes(b"abcdefgh" * 20 + b"\xff" + b"abcdefgh" * 20)
        self.no("text.txt", "160", recipe=recipe, settings=settings)
        (self.folder / "text.txt").unlink()
        (self.folder / "text.txt").mkdir()
        self.no("text.txt", recipe=recipe, settings=settings)

    def test_path_not_given(self):
        recipe = self.text(('problem = "copy"\n', ""), ("validation_items = 16\n", ""))
        self.no("task.path", recipe=recipe, settings=["task.kind=characters"])

    def test_folder_for_listops(self):
        recipe = self.text(('kind = "sequence"\nproblem = "copy"\n', 'kind = "listops"\n'))
        self.no("basic_train.tsv", recipe=recipe, settings=["task.folder=none"])
        self.write("data/basic_train.tsv", "")
        self.no("basic_train.tsv", recipe=recipe, settings=["task.folder=data"])

    def test_out_holds_something(self):
        self.write("run/notes.txt", "mine")
        self.no("run")

    def test_out_is_a_file(self):
        self.write("run", "mine")
        self.no("run")


class Verbs(Refused):
    def test_unknown(self):
        self.refused("trian", names=["trian"])
        self.refused("train", "--no-such-option", self.recipe, names=["--no-such-option"])
        self.refused("train", names=["recipe"])
        self.refused("train", self.recipe, "--processes", "none", names=["--processes"])
        self.refused("train", self.recipe, "--processes", "0", names=["--processes"])

    def test_no_run(self):
        for verb in ("resume", "evaluate", "generate"):
            with self.subTest(verb=verb):
                self.refused(verb, "nothing", names=["nothing"])
                (self.folder / "empty").mkdir(exist_ok=True)
                self.refused(verb, "empty", names=["empty"])
                self.refused(verb, self.recipe, names=["tiny.toml"])
        self.assertEqual(self.files(), ["empty", "tiny.toml"])

    def test_unknown_method(self):
        self.refused("methods", "mixr", names=["mixr", "mixer"])
        self.refused("methods", "mixer", "softmx", names=["softmx", "softmax"])

    def test_data(self):
        self.refused("data", "listop", "--to", "out", names=["listop", "listops"])
        self.refused("data", "listops", names=["--to"])
        self.refused("data", "image", "--to", "out", names=["image"])
        self.refused("data", "listops", "--to", "out", "--items", "0", names=["--items"])
        self.refused("data", "check", "nothing", names=["nothing"])
        self.assertEqual(self.files(), ["tiny.toml"])

    def test_evaluate_and_generate(self):
        run = self.train("run", "train.budget.steps=1")
        before = self.files()
        self.refused("evaluate", run, "--set", "model.width=32", names=["tensor"])
        self.refused("evaluate", run, "--set", "task.lenght=8",
                     names=["task.lenght", "did you mean 'length'"])
        self.refused("evaluate", run, "--items", "-1", names=["--items"])
        self.refused("generate", run, "--prompt", "", names=["--prompt"])
        self.refused("generate", run, "--temperature", "-1", names=["--temperature"])
        self.refused("resume", run, "--from", "nothing", names=["nothing"])
        self.refused("resume", run, "--set", "model.widht=3", names=["model.widht"])
        self.assertEqual(self.files(), before)


if __name__ == "__main__":
    formwork_case.main()

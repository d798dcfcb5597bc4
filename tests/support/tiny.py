"""A recipe so small that a training takes a second, for tests that look at everything but learning."""

import formwork_case

RECIPE = """\
[task]
kind = "sequence"
problem = "copy"
length = 32
validation_items = 16

[model]
width = 16
depth = 2
heads = 2

[train]
batch = 4
log_every = 1

[train.budget]
steps = 12

[train.evaluate]
every = 4
"""


class TinyCase(formwork_case.FormworkCase):
    """A test with the tiny recipe in `self.recipe`."""

    def setUp(self):
        super().setUp()
        self.recipe = self.write("tiny.toml", RECIPE)

    def train(self, run, *settings, recipe=None, options=(), **others):
        """Trains into the folder named `run` with KEY=VALUE settings; returns the folder."""
        folder = self.folder / run
        self.formwork("train", recipe or self.recipe, "--out", folder, "--quiet", *options,
                      *given(settings), **others)
        return folder

    def numbers(self, run):
        """What a run computed, step by step: everything in its metrics but times and memory."""
        return [{key: value for key, value in line.items() if key not in MEASURED}
                for line in self.metrics(run)]


MEASURED = {"seconds", "tokens_per_second", "memory_bytes"}  # of the machine, not of the training


def given(settings):
    """["a=1"] as ["--set", "a=1"]."""
    return [word for setting in settings for word in ("--set", setting)]


def checkpoints(run):
    """The steps of a run's checkpoints, oldest first."""
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").iterdir()
                  if path.name.startswith("step-"))

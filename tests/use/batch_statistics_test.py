# ctest: slow processors=2 timeout=600
"""Norms with statistics of the batch: alike in all processes, resumed to the last bit; SLAB's recipe."""

import json

import formwork_case
import tiny

NORMS = {
    "unified_norm": ["warmup_iters=3", "rho_start=5", "outlier_filtration=true"],
    "power_norm": ["warmup_iters=3", "group_num=2"],
    "batch_norm": ["momentum=0.2"],
    "prepbn": ["warm_fraction=0.2", "total_fraction=0.5"],
}


class BatchStatistics(tiny.TinyCase):
    def settings(self, norm):
        return [f"model.norm.kind={norm}", *(f"model.norm.{key}" for key in NORMS[norm])]

    def test_two_processes_are_one_with_twice_the_batch(self):
        for norm in NORMS:
            with self.subTest(norm):
                chosen = self.settings(norm)
                two = self.metrics(self.train(f"two-{norm}", *chosen, options=["--processes", "2"]))
                one = self.metrics(self.train(f"one-{norm}", *chosen, "train.batch=8",
                                              "train.evaluate.batch=4"))
                self.assertEqual(len(one), len(two))
                for a, b in zip(one, two):
                    for key in ("loss", "validation_loss"):
                        if key in a:
                            self.assertAlmostEqual(a[key], b[key], delta=5e-4 * abs(a[key]),
                                                   msg=f"{key} at step {a['step']}")

    def test_resume(self):
        for norm in NORMS:
            with self.subTest(norm):
                chosen = [*self.settings(norm), "train.checkpoint.keep=9"]
                whole = self.train(f"whole-{norm}", *chosen)
                run = self.train(f"run-{norm}", *chosen)
                first = run / "checkpoints" / f"step-{tiny.checkpoints(run)[0]}"
                self.formwork("resume", run, "--from", first, "--quiet")
                self.assertEqual(self.numbers(run), self.numbers(whole))
                newest = f"step-{tiny.checkpoints(run)[-1]}"
                self.assertEqual((run / "checkpoints" / newest / "model.safetensors").read_bytes(),
                                 (whole / "checkpoints" / newest / "model.safetensors").read_bytes())


class Slab(tiny.TinyCase):
    def test_recipe(self):
        run = self.train("slab", "train.budget.steps=4", "train.batch=2", "task.length=64",
                         "task.validation_items=4", "train.evaluate.every=2",
                         recipe=formwork_case.SOURCE / "recipes" / "slab.toml")
        self.assertEqual(self.metrics(run)[-1]["step"], 4)

    def test_bench(self):
        done = self.formwork("bench", "norms", "--rows", "64", "--width", "32", "--rounds", "2",
                             "--json")
        norms = json.loads(done.stdout)["norms"]
        self.assertEqual(norms["at::layer_norm"]["ratio"]["least"], 1.0)
        for name in (*NORMS, "layer_norm", "rms_norm", "crms_norm"):
            self.assertGreater(norms[name]["forward_backward_ms"]["least"], 0.0)
        table = self.formwork("bench", "norms", "--rows", "8", "--width", "8", "--rounds", "1")
        self.assertIn("crms_norm", table.stdout)


if __name__ == "__main__":
    formwork_case.main()

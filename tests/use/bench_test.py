"""`formwork bench`: the figures are whole, and nothing is left out without a word."""

import json
import math

import formwork_case

# Small enough to take no time; what the figures are is nobody's promise here.
SMALL = ["--width", "32", "--heads", "2", "--rounds", "2", "--threads", "1"]


class Mixers(formwork_case.FormworkCase):
    def bench(self, *arguments, lengths=(16, 64)):
        return json.loads(self.formwork("bench", "mixers", *SMALL, "--from", lengths[0], "--to",
                                        lengths[1], *arguments, "--json").stdout)

    def registered(self):
        return {method["name"] for method in
                json.loads(self.formwork("methods", "mixer", "--json").stdout)}

    def check_whole(self, figures, causal):
        self.assertEqual(figures["causal"], causal)
        self.assertEqual({entry["mixer"] for entry in figures["mixers"]}, self.registered())
        measured = set()
        for entry in figures["mixers"]:
            with self.subTest(mixer=entry["mixer"]):
                lengths = [at["tokens"] for at in entry["lengths"]]
                left_out = [at["tokens"] for at in entry["omitted"]]
                if left_out == [None]:
                    self.assertEqual(lengths, [])
                    self.assertGreater(len(entry["omitted"][0]["why"]), 20)
                    continue
                self.assertEqual(sorted(lengths + left_out), [16, 32, 64])
                measured.add(entry["mixer"])
                for at in entry["lengths"]:
                    self.assertGreater(at["ms"]["least"], 0.0)
                    self.assertGreaterEqual(at["ms"]["median"], at["ms"]["least"])
                    self.assertGreaterEqual(at["ms"]["spread"], 0.0)
                    self.assertAlmostEqual(
                        at["tokens_per_second"] * at["ms"]["median"] / 1e3 / at["tokens"], 1.0)
                    # The output of the mixer at least.
                    self.assertGreaterEqual(at["memory_bytes"], at["tokens"] * 32 * 4)
                slope = entry["slope"]
                self.assertEqual([slope["from"], slope["to"]], [32, 64])
                self.assertTrue(math.isfinite(slope["time"]) and math.isfinite(slope["memory"]))
        return measured

    def test_both_ways(self):
        measured = self.check_whole(self.bench(), False)
        self.assertLessEqual({"softmax", "linear", "soft", "kernel_rpe", "slab"}, measured)

    def test_causal(self):
        figures = self.bench("--causal")
        measured = self.check_whole(figures, True)
        self.assertLessEqual({"softmax", "linear", "kernel_rpe", "local"}, measured)
        why = {entry["mixer"]: entry["omitted"][0]["why"] for entry in figures["mixers"]
               if entry["omitted"]}
        self.assertIn("future", why["soft"])

    def test_slope_of_known_memory(self):
        # All pairs in memory, and sums of fixed size: the meter must tell one from the other.
        figures = self.bench("--only", "saturated_attention", "--only", "linear",
                             lengths=(256, 1024))
        slopes = {entry["mixer"]: entry["slope"]["memory"] for entry in figures["mixers"]}
        self.assertGreater(slopes["saturated_attention"], 1.6)
        self.assertLess(slopes["linear"], 1.1)

    def test_options_and_limit(self):
        figures = self.bench("--only", "kernel_rpe", "--set", "algorithm=fft", "--set", "features=4")
        self.assertEqual(len(figures["mixers"][0]["lengths"]), 3)
        figures = self.bench("--only", "softmax", "--limit", "1e-9")
        entry = figures["mixers"][0]
        self.assertEqual([at["tokens"] for at in entry["omitted"]], [32, 64])
        self.assertIn("--limit", entry["omitted"][0]["why"])
        self.assertNotIn("slope", entry)
        table = self.formwork("bench", "mixers", *SMALL, "--only", "softmax", "--to",
                              "512").stdout
        self.assertIn("time ~ N^", table)

    def test_refusals(self):
        self.refused("bench", "mixers", "--only", "sofmax", names=["--only", "softmax"])
        self.refused("bench", "mixers", "--set", "window=3", names=["--set", "--only"])
        self.refused("bench", "mixers", "--from", "64", "--to", "32", names=["--from", "--to"])
        self.refused("bench", "mixers", "--width", "30", "--heads", "4", names=["--heads", "30"])
        self.refused("bench", "mixers", "--only", "softmax", "--set", "windo=3", names=["windo"])


class Conditioning(formwork_case.FormworkCase):
    def test_all_and_one(self):
        small = ["--batch", "2", "--tokens", "9", "--width", "8", "--rounds", "3"]
        done = self.formwork("bench", "conditioning", *small, "--json")
        entries = {entry["conditioning"]: entry for entry in json.loads(done.stdout)["conditionings"]}
        self.assertEqual(set(entries), {method["name"] for method in json.loads(
            self.formwork("methods", "conditioning", "--json").stdout)})
        self.assertGreater(entries["conditioned_embedded_tokens"]["ms"]["least"], 0.0)
        for entry in entries.values():
            self.assertTrue("ms" in entry or len(entry["omitted"]) > 20, entry)
        table = self.formwork("bench", "conditioning", *small, "--only",
                              "conditioned_embedded_tokens", "--set", "method=svd").stdout
        self.assertIn("conditioned_embedded_tokens", table)
        self.refused("bench", "conditioning", "--set", "scale=2.0", names=["--set", "--only"])


class Matmul(formwork_case.FormworkCase):
    def test_every_product(self):
        cache = {"XDG_CACHE_HOME": str(self.folder / "cache")}
        done = self.formwork("bench", "matmul", "--shape", "256x128x192", "--shape", "5x3x7", "--rounds",
                             2, "--json", environment=cache)
        table = json.loads(done.stdout)
        self.assertEqual([entry["shape"] for entry in table["products"]],
                         ["256x128x192"] * 3 + ["5x3x7"] * 3)
        for entry in table["products"]:
            self.assertGreater(min(entry["gflops"].values()), 0.0)
            self.assertIn(entry["chosen"], entry["gflops"])
        self.assertEqual({entry["chosen"] for entry in table["products"][3:]}, {"mkl"})  # too small
        libraries = set(table["products"][0]["gflops"])
        self.assertGreaterEqual(libraries, {"mkl", "formwork"})
        kept = open(table["choices"], encoding="utf-8").read()
        self.assertEqual(kept.count("\n"), 3 * len(libraries - {"mkl"}), kept)
        self.assertTrue(table["choices"].startswith(str(self.folder)))
        text = self.formwork("bench", "matmul", "--shape", "64x32x16", environment={
            **cache, "FORMWORK_MATMUL": "mkl"}).stdout
        self.assertIn("taken", text)

    def test_training_is_the_same_but_for_rounding(self):
        losses = {}
        for library in ("mkl", "formwork", "onednn"):
            run = self.folder / library
            done = self.formwork("train", formwork_case.SOURCE / "recipes" / "copy.toml", "--out", run,
                                 "--quiet", "--set", "train.budget.steps=20", "--set",
                                 "train.log_every=1", environment={"FORMWORK_MATMUL": library}, expect=None)
            if library == "onednn" and "FORMWORK_MATMUL" in done.stderr:
                continue  # this libtorch has no oneDNN
            self.assertEqual(done.returncode, 0, done.stderr)
            losses[library] = [line["loss"] for line in self.metrics(run) if "loss" in line]
        self.assertEqual(len(losses["mkl"]), 20)
        for library in losses:
            for ours, theirs in zip(losses[library], losses["mkl"], strict=True):
                self.assertAlmostEqual(ours, theirs, delta=1e-3)

    def test_mistakes(self):
        self.refused("bench", "matmul", "--shape", "3x4", names=["--shape", "3x4", "ROWSxINxOUT"])
        self.refused("bench", "matmul", "--shape", "3x4x0", names=["--shape", "3x4x0"])
        self.refused("bench", "matmul", "--shape", "64x32x16", names=["FORMWORK_MATMUL", "blis", "formwork"],
                     environment={"FORMWORK_MATMUL": "blis"})


class Decode(formwork_case.FormworkCase):
    SMALL = ["--width", "32", "--depth", "2", "--heads", "2", "--vocabulary", "50", "--context", "6",
             "--tokens", "5", "--rounds", "2", "--threads", "1"]

    def test_all_and_one(self):
        figures = json.loads(self.formwork("bench", "decode", *self.SMALL, "--json").stdout)
        self.assertEqual([entry["weights"] for entry in figures["decodings"]],
                         ["float32", "bfloat16", "int8"])
        weights = 2 * 12 * 32 * 32 + 50 * 32
        rows = 2 * 9 * 32 + 50  # of all maps together: 4 and 4 and 1 times the width, and the head
        self.assertEqual([entry["weight_bytes"] for entry in figures["decodings"]],
                         [4 * weights, 2 * weights, weights + 4 * rows])
        self.assertGreater(figures["memory"]["read_gb_per_second"], 0.0)
        self.assertGreater(figures["memory"]["triad_gb_per_second"], 0.0)
        for entry in figures["decodings"]:
            rate = entry["tokens_per_second"]
            self.assertGreaterEqual(rate["best"], rate["median"])
            self.assertAlmostEqual(entry["gb_per_second"],
                                   rate["best"] * entry["weight_bytes"] / 1e9)
            self.assertAlmostEqual(entry["share_of_read"], entry["gb_per_second"] /
                                   figures["memory"]["read_gb_per_second"])
            self.assertGreater(entry["prompt_ms"]["least"], 0.0)
        table = self.formwork("bench", "decode", *self.SMALL, "--weights", "int8,float32").stdout
        self.assertRegex(table, r"(?s)\nint8 .*\nfloat32 .*memory: reading")
        self.assertNotIn("bfloat16", table)

    def test_refusals(self):
        self.refused("bench", "decode", "--weights", "int8,int4", names=["--weights", "int4"])
        self.refused("bench", "decode", "--width", "30", "--heads", "4", names=["--heads", "30"])


class Infer(formwork_case.FormworkCase):
    RECIPE = formwork_case.SOURCE / "recipes" / "bench-bert.toml"
    SMALL = ["--set", "model.width=32", "--set", "model.heads=2", "--set", "model.depth=2",
             "--rounds", "2", "--threads", "1"]

    def test_shapes_and_types(self):
        done = self.formwork("bench", "infer", "--recipe", self.RECIPE, "--vocabulary", 50,
                             *self.SMALL, "--shape", "2x16,1", "--save", "saved", "--json")
        figures = json.loads(done.stdout)
        layer = 4 * 32 * 33 + 32 * 129 + 128 * 33 + 128
        self.assertEqual(figures["parameters"], (50 + 512 + 2) * 32 + 2 * layer + 33 * 10)
        self.assertEqual([(each["shape"], each["type"]) for each in figures["passes"]],
                         [("2x16", "float32"), ("1", "float32"), ("2x16", "bfloat16"),
                          ("1", "bfloat16")])
        # A multiplication and an addition for each weight of a map and each pair's channel.
        short = 2 * 32 * 2 * 12 * 32 * 32 + 2 * 4 * 2 * 16 * 16 * 32 + 2 * 2 * 32 * 10
        for each in figures["passes"]:
            self.assertGreater(each["ms"]["least"], 0.0)
            self.assertGreaterEqual(each["ms"]["median"], each["ms"]["least"])
            self.assertAlmostEqual(each["gflop_per_second"],
                                   1e3 * each["gflop"] / each["ms"]["least"])
            self.assertAlmostEqual(each["share_of_product"] * figures["product_gflop_per_second"],
                                   each["gflop_per_second"])
        self.assertAlmostEqual(figures["passes"][0]["gflop"] * 1e9, short, delta=1.0)
        self.assertEqual({path.name for path in (self.folder / "saved").iterdir()},
                         {"model.toml", "model.safetensors", "2x16.safetensors", "1.safetensors"})
        table = self.formwork("bench", "infer", "--recipe", self.RECIPE, *self.SMALL, "--shape",
                              "1x8", "--type", "int8").stdout
        self.assertRegex(table, r"(?s)1x8 +int8 .*int8 weights.*a large float32 product")

    def test_any_recipe(self):
        recipe = self.write("series.toml", '[task]\nkind = "forecast"\npath = "none.csv"\n')
        self.assertIn("none.csv", self.refused("bench", "infer", "--recipe", recipe))
        recipe = formwork_case.SOURCE / "recipes" / "bench-characters.toml"
        done = self.formwork("bench", "infer", "--recipe", recipe, *self.SMALL, "--shape", "3x20",
                             "--type", "float32", "--json")
        self.assertEqual(json.loads(done.stdout)["passes"][0]["shape"], "3x20")

    def test_mistakes(self):
        bench = ["bench", "infer", "--recipe", self.RECIPE, *self.SMALL]
        self.refused(*bench, "--shape", "8x0", names=["--shape", "8x0", "BATCHxTOKENS"])
        self.refused(*bench, "--shape", "8x", names=["--shape", "8x"])
        self.refused(*bench, "--shape", "1x513", names=["--shape", "1x513", "512", "task.length"])
        self.refused(*bench, "--type", "float16", names=["--type", "float16"])
        (self.folder / "there").mkdir()
        self.refused(*bench, "--shape", "1x8", "--save", "there", names=["there"])
        self.refused("bench", "infer", names=["recipes/bench-bert.toml"])


class Ops(formwork_case.FormworkCase):
    SMALL = ["--tokens", "64", "--width", "32", "--rounds", "2", "--threads", "1"]

    def test_every_operator(self):
        figures = json.loads(self.formwork("bench", "ops", *self.SMALL, "--json").stdout)
        self.assertGreater(figures["product_gflop_per_second"], 0.0)
        self.assertGreater(figures["triad_gb_per_second"], 0.0)
        names = {each["operator"] for each in figures["operators"]}
        self.assertLessEqual({"product y", "product dx", "product dW", "linear", "rms_norm",
                              "add_rms_norm", "attention", "attention causal", "matrix_state_scan",
                              "packed int8", "packed bfloat16", "rotate half", "adamw step",
                              "projected_cross_entropy", "gradient_clipping"}, names)
        for each in figures["operators"]:
            with self.subTest(operator=each["operator"], shape=each["shape"], passed=each["pass"]):
                self.assertGreater(each["ms"]["least"], 0.0)
                self.assertGreater(each["gb_per_second"], 0.0)
                self.assertAlmostEqual(
                    each["share_of_product"] * figures["product_gflop_per_second"],
                    each["gflop_per_second"])
                if "ratio" in each:
                    self.assertAlmostEqual(
                        each["ratio"]["least"] * each["ms"]["least"],
                        min(peer["least"] for peer in each["peers_ms"]))
        # What is known of the work of one: three products of 64 x 32 x 128, and x, W, b, y.
        linear = {each["pass"]: each for each in figures["operators"]
                  if each["operator"] == "linear" and each["shape"].startswith("64x32, 128x32")}
        self.assertAlmostEqual(linear["forward"]["gflop_per_second"]
                               * linear["forward"]["ms"]["least"] * 1e6, 2 * 64 * 32 * 128)
        self.assertAlmostEqual(linear["training"]["gflop_per_second"]
                               * linear["training"]["ms"]["least"] * 1e6, 6 * 64 * 32 * 128)
        self.assertAlmostEqual(linear["forward"]["gb_per_second"]
                               * linear["forward"]["ms"]["least"] * 1e6,
                               4 * (64 * 32 + 128 * 32 + 128 + 64 * 128))

    def test_one(self):
        table = self.formwork("bench", "ops", *self.SMALL, "--only", "rms_norm").stdout
        self.assertRegex(table, r"(?s)\nrms_norm +forward .*\nrms_norm +training .*triad")
        self.assertNotIn("linear", table)
        self.refused("bench", "ops", "--only", "rmsnorm", names=["--only", "rmsnorm", "add_rms_norm"])


if __name__ == "__main__":
    formwork_case.main()

"""bench/against-peers: its mistakes are said in a sentence, and its ratios follow from the figures.

The peers themselves are not run: they need gigabytes that a test does not fetch.
"""

import json
import os
import subprocess
import sys

import formwork_case

PROGRAM = formwork_case.SOURCE / "bench" / "against-peers"


class AgainstPeers(formwork_case.FormworkCase):
    def against_peers(self, *arguments, expect=0):
        done = subprocess.run([sys.executable, PROGRAM, *map(str, arguments)], text=True,
                              capture_output=True, timeout=240, check=False, cwd=self.folder,
                              env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        self.assertEqual(done.returncode, expect, done.stderr)
        return done

    def mistaken(self, *arguments, names, code=2):
        said = self.against_peers(*arguments, expect=code).stderr
        for word in names:
            self.assertIn(word, said)

    def stand_in(self, name, figures):
        """A program that prints the figures and keeps what it was told."""
        path = self.write(name, f"#!{sys.executable}\nimport sys\n"
                          f"open({str(self.folder / name)!r} + '.told', 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
                          f"print({json.dumps(figures)!r})\n")
        path.chmod(0o755)
        return path

    def told(self, path):
        return path.with_name(path.name + ".told").read_text().splitlines()

    def test_mistakes(self):
        self.mistaken("listop", names=["'listop'", "listops", "infer_1x128", "decode"])
        self.mistaken("--peer", "openvin", names=["'openvin'", "openvino"])
        self.mistaken("--rounds", "0", names=["--rounds", "at least 1"])
        self.mistaken("soft", "--causal", names=["soft", "--causal"])
        self.mistaken("infer", "--type", "float16", names=["--type", "float16", "bfloat16"])
        self.mistaken("--program", self.folder / "none", names=["none", "missing"], code=1)
        program = self.stand_in("formwork", {})
        self.mistaken("--program", program, "--python", self.folder / "no-python",
                      names=["--python", "no-python"], code=1)
        self.mistaken("characters", "--peer", "openvino", "--program", program, "--python",
                      sys.executable, names=["characters", "openvino", "x_transformers"], code=1)

    def training(self, rate, parameters=10, megabytes=100.0):
        return {"parameters": parameters, "peak_megabytes": megabytes,
                "tokens_per_second": {"best": 2.0 * rate, "median": rate}}

    def test_ratios(self):
        ours = self.stand_in("ours", self.training(30.0, megabytes=40.0))
        theirs = self.stand_in("theirs", self.training(10.0))
        done = self.against_peers("training_memory", "--program", ours, "--python", theirs, "--json",
                                  "--rounds", 2, "--steps", 3, "--threads", 1)
        result, = json.loads(done.stdout)
        self.assertEqual(result["ratios"], {"pytorch_eager": {"median": 3.0, "best": 3.0,
                                                              "megabytes": 0.4}})
        self.assertEqual(result["sides"]["formwork"]["best"], 60.0)
        self.assertEqual(len(self.told(ours)), 2)
        self.assertIn("--steps 3", self.told(ours)[0])
        self.assertIn("task.symbols=50000", self.told(ours)[0])
        self.assertIn("train.threads=1", self.told(ours)[0])
        self.assertIn("--vocabulary 50000", self.told(theirs)[0])
        shown = self.against_peers("listops_bfloat16", "--program", ours, "--python", theirs,
                                   "--rounds", 1).stdout
        self.assertRegex(shown, r"formwork_float32 +30.0 +60.0 +1.00")
        self.assertRegex(shown, r"pytorch_eager +10.0 +20.0 +3.00")
        self.assertIn("train.precision=bfloat16", self.told(ours)[-1] + self.told(ours)[-2])

    def test_another_model_is_refused(self):
        ours = self.stand_in("ours", self.training(30.0))
        theirs = self.stand_in("theirs", self.training(10.0, parameters=11))
        self.mistaken("listops", "--program", ours, "--python", theirs, "--rounds", 1,
                      names=["listops", "11 parameters", "not the same model"], code=1)

    def test_a_failure_is_shown(self):
        broken = self.write("broken", "#!/bin/sh\necho out of luck >&2\nexit 3\n")
        broken.chmod(0o755)
        self.mistaken("listops", "--program", broken, "--python", sys.executable,
                      names=["ended with 3", "out of luck"], code=1)


if __name__ == "__main__":
    formwork_case.main()

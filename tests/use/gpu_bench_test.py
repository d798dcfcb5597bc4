"""bench/gpu says in one sentence what is missing where there is no GPU."""

import os
import subprocess
import unittest

import formwork_case


class GpuBench(formwork_case.FormworkCase):
    def refusal(self, capability):
        """What bench/gpu says where nvidia-smi prints `capability`."""
        tool = self.write("bin/nvidia-smi", f"#!/bin/sh\n{capability}\n")
        tool.chmod(0o755)
        done = subprocess.run([str(formwork_case.SOURCE / "bench" / "gpu")], text=True, check=False,
                              env={**os.environ, "PATH": f"{tool.parent}:{os.environ['PATH']}"},
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        return done.stderr

    def test_no_gpu(self):
        self.assertIn("found no NVIDIA GPU", self.refusal("exit 9"))
        self.assertIn("found no NVIDIA GPU", self.refusal("echo 'No devices were found'"))

    def test_an_old_gpu(self):
        self.assertIn("compute capability 7.5; valid: 8.0", self.refusal("echo 7.5"))


if __name__ == "__main__":
    formwork_case.main()

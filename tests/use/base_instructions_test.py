# ctest: timeout=300
"""The kernels give the same answers where the processor has nothing wider than the baseline."""

import os
import subprocess
import unittest

NORMS = ("norm_baselines", "crms_norm", "power_norm", "unified_norm", "pre_rmsnorm", "slab", "transnormer")
TESTS = [f"golden.{name}" for name in NORMS] + ["golden.position_baselines", "contract.norm.*"]


class BaseInstructions(unittest.TestCase):
    def test_norms_and_rotations(self):
        done = subprocess.run(["./formwork_tests", "--gtest_filter=" + ":".join(TESTS)],
                              env={**os.environ, "FORMWORK_SIMD": "base"}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout[-4000:])
        self.assertIn("contract.norm", done.stdout)


if __name__ == "__main__":
    unittest.main()

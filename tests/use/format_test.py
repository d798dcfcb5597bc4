"""Every C++ file is laid out as .clang-format says, by the version that the project uses."""

import re
import shutil
import subprocess
import unittest

import formwork_case

VERSION = "14"  # other versions break lines elsewhere


def clang_format():
    """The program of the right version, or None."""
    for name in (f"clang-format-{VERSION}", "clang-format"):
        if shutil.which(name):
            said = subprocess.run([name, "--version"], stdout=subprocess.PIPE, text=True, check=True)
            if re.search(rf"version {VERSION}\.", said.stdout):
                return name
    return None


class Format(unittest.TestCase):
    def test_format(self):
        program = clang_format()
        if not program:
            self.skipTest(f"clang-format {VERSION} is not here")
        files = [str(path) for path in formwork_case.tracked_files()
                 if path.suffix in {".cpp", ".h", ".cu", ".cuh"}]
        self.assertTrue(files)
        done = subprocess.run([program, "--dry-run", "-Werror", *files], stderr=subprocess.PIPE,
                              text=True, check=False)
        wrong = sorted({line.split(":")[0] for line in done.stderr.splitlines() if ": error:" in line})
        self.assertEqual(done.returncode, 0,
                         f"{done.stderr[:2000]}\nrun: clang-format -i {' '.join(wrong)}")


if __name__ == "__main__":
    formwork_case.main()

"""Helpers for tests that use Formwork as a person does: they run the built program.

    import formwork_case

    class Help(formwork_case.FormworkCase):
        def test_help(self):
            self.assertIn("train", self.formwork("--help").stdout)

    if __name__ == "__main__":
        formwork_case.main()

ctest sets FORMWORK (the program) and FORMWORK_SOURCE (the project's folder), one thread unless the
file asks for more near its top: `# ctest: slow processors=2 timeout=600`.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE = pathlib.Path(os.environ.get("FORMWORK_SOURCE", pathlib.Path(__file__).parents[2]))
PROGRAM = pathlib.Path(os.environ.get("FORMWORK", SOURCE / "build" / "formwork"))
SKIPPED = 77  # the exit code that ctest shows as "skipped"


def sanitized(program=PROGRAM):
    """Whether a program or library was built with AddressSanitizer or ThreadSanitizer."""
    return re.search(rb"__[at]san_init", pathlib.Path(program).read_bytes()) is not None


class FormworkCase(unittest.TestCase):
    """A test with a temporary folder `self.folder` and functions that run the program in it."""

    maxDiff = None

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="formwork-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def write(self, name, text):
        """Writes `text` to a file of the temporary folder and returns its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def formwork(self, *arguments, expect=0, timeout=240, stdin="", environment=None, **options):
        """Runs the program to its end, checks its exit code, returns stdout and stderr as text."""
        done = subprocess.run([str(PROGRAM), *map(str, arguments)], input=stdin, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                              cwd=options.pop("cwd", self.folder),
                              env={**os.environ, **(environment or {})}, **options)
        if expect is not None and done.returncode != expect:
            self.fail(f"formwork {' '.join(map(str, arguments))}: exit code {done.returncode}, "
                      f"expected {expect}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}")
        return done

    def start(self, *arguments, environment=None, **options):
        """Starts the program and returns the running process; it is killed when the test ends."""
        process = subprocess.Popen([str(PROGRAM), *map(str, arguments)], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   cwd=options.pop("cwd", self.folder),
                                   env={**os.environ, **(environment or {})}, **options)
        self.addCleanup(_end, process)
        return process

    def refused(self, *arguments, names=(), code=2, **options):
        """Expects a refusal: exit code 2 and one sentence on stderr that holds every word of
        `names`. Returns the sentence."""
        done = self.formwork(*arguments, expect=code, **options)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        self.assertEqual(len(lines), 1, f"one sentence was expected:\n{done.stderr}")
        for word in names:
            self.assertIn(word, lines[0])
        return lines[0]

    def metrics(self, run):
        """The lines of a run folder's metrics.jsonl."""
        path = pathlib.Path(run) / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tracked_files():
    """The project's files: those git knows or could add, or all but builds where there is no git."""
    listed = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others",
                             "--exclude-standard"], cwd=SOURCE, stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, check=False) if shutil.which("git") else None
    if listed and listed.returncode == 0:
        names = [name for name in listed.stdout.decode().split("\0") if name]
        return sorted(SOURCE / name for name in names if (SOURCE / name).is_file())
    built = re.compile(r"^(build.*|\.git|\.formwork|runs|comparisons|data)$")
    return sorted(path for path in SOURCE.rglob("*")
                  if path.is_file() and not built.match(path.relative_to(SOURCE).parts[0]))


def _end(process):
    if process.poll() is None:
        process.kill()
    process.communicate()


def main():
    """Runs the tests of the file that calls it; "all skipped" has an exit code of its own."""
    result = unittest.main(module="__main__", exit=False, verbosity=2).result
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(SKIPPED if result.testsRun and result.testsRun == len(result.skipped) else 0)

"""#include arrows point downwards only, and sources hold no machine's path and no mark of work undone."""

import re
import unittest

import formwork_case

# A folder of src may include the folders of a lower rank, and itself.
RANK = {"core": 0, "kernels": 1, "formats": 1, "data": 1, "methods": 2, "model": 3, "tasks": 4,
        "applications": 4, "training": 5, "lab": 6, "cli": 7}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
TEXT = {".cpp", ".h", ".cu", ".cuh", ".py", ".cmake", ".toml", ".md", ".txt", ".sh", ".json", ".in"}
# Written in parts, so that this file does not break its own rule.
FORBIDDEN = re.compile("|".join([r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", r"\bXX" + r"X\b",
                                 r"(?<![\w.])/wo" + r"rk/"]))


def wrong_arrows(folder, text):
    """The folders that a source in `folder` includes though they lie beside or above it."""
    for target in INCLUDE.findall(text):
        room = target.split("/")[0]
        if "/" in target and room in RANK and room != folder and RANK[room] >= RANK[folder]:
            yield target


class IncludeArrows(unittest.TestCase):
    def sources(self):
        for path in sorted((formwork_case.SOURCE / "src").rglob("*")):
            if path.suffix in {".cpp", ".h", ".cu", ".cuh"}:
                yield path, path.relative_to(formwork_case.SOURCE / "src")

    def test_downwards_only(self):
        wrong, seen = [], 0
        for path, inside in self.sources():
            if len(inside.parts) < 2:
                continue
            self.assertIn(inside.parts[0], RANK, f"src/{inside}: a folder without a rank")
            seen += 1
            wrong += [f"src/{inside} includes {target}"
                      for target in wrong_arrows(inside.parts[0], path.read_text(encoding="utf-8"))]
        self.assertGreater(seen, 0)
        self.assertEqual(wrong, [])

    def test_quoted_includes_start_at_src(self):
        wrong = [f"src/{inside} includes {target}" for path, inside in self.sources()
                 for target in INCLUDE.findall(path.read_text(encoding="utf-8"))
                 if not (formwork_case.SOURCE / "src" / target).exists()]
        self.assertEqual(wrong, [])

    def test_the_rule_is_seen(self):
        self.assertEqual(list(wrong_arrows("core", '#include "model/stream.h"\n')), ["model/stream.h"])
        self.assertEqual(list(wrong_arrows("data", '#include "formats/png.h"\n')), ["formats/png.h"])
        self.assertEqual(list(wrong_arrows("model", '#include "methods/a.h"\n#include <b.h>\n')), [])

    def test_no_marks(self):
        wrong = []
        for path in formwork_case.tracked_files():
            if path.suffix not in TEXT and path.name not in {"formwork", "check", "run"}:
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if FORBIDDEN.search(line):
                    wrong.append(f"{path.relative_to(formwork_case.SOURCE)}:{number}: {line.strip()}")
        self.assertEqual(wrong, [])


if __name__ == "__main__":
    formwork_case.main()

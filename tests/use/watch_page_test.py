"""A comparison watched in a browser: the page follows it and keeps what its reader chose."""

import json
import os
import pathlib
import subprocess
import time
import unittest

import browser
import formwork_case
import sample_comparison


@unittest.skipUnless(browser.program(), "no browser is here: " + ", ".join(browser.NAMES))
class WatchPage(formwork_case.FormworkCase):
    def wait(self, found, seconds=30):
        deadline = time.monotonic() + seconds
        while not (value := found()):
            self.assertLess(time.monotonic(), deadline, "nothing came")
            time.sleep(0.1)
        return value

    def put(self, summary):
        (self.folder / "new").write_text(json.dumps(summary), encoding="utf-8")
        (self.folder / "new").rename(self.folder / "summary.json")

    def test_follows(self):
        summary = sample_comparison.summary()
        whole, summary["variants"] = summary["variants"], summary["variants"][:2]
        self.put(summary)
        server = subprocess.Popen([str(pathlib.Path.cwd() / "formwork_tests"), "--gtest_filter=unit.watch_page"],
                                  stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                  env={**os.environ, "FORMWORK_TEST_WATCH": str(self.folder)})
        self.addCleanup(server.wait)
        self.addCleanup(server.stdin.close)
        address = self.folder / "address"
        self.wait(lambda: address.exists() and address.stat().st_size)
        with browser.Browser() as page:
            page.open(address.read_text(encoding="utf-8"))
            rows = "document.querySelectorAll('#sheet tbody tr').length"
            self.assertEqual(page.run(rows), 2)
            page.run("[...document.querySelectorAll('#sheet th button')].find(b => b.textContent === 'Loss').click()")
            page.run("document.querySelector('.chip').click()")
            summary["variants"] = whole
            self.put(summary)
            self.wait(lambda: page.run(rows) == len(whole))
            self.assertEqual(page.run("document.querySelector('#sheet tbody tr').dataset.variant"), "peri")
            self.assertEqual(page.run("document.querySelector('.chip').getAttribute('aria-pressed')"), "false")
            self.assertIn("follows the comparison", page.run("document.getElementById('live').textContent"))
            self.assertEqual(page.problems, [])
            server.stdin.close()
            server.wait()
            self.wait(lambda: "no longer answers" in page.run("document.getElementById('live').textContent"))


if __name__ == "__main__":
    formwork_case.main()

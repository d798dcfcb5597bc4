"""`formwork methods --docs` writes a site that opens from disk: every page, its plot, the finding of methods."""

# ctest: timeout=600
import json
import os
import pathlib
import time
import unittest

import browser
import formwork_case
from report_page_test import DRAWN


class MethodPages(formwork_case.FormworkCase):
    def test_requests(self):
        self.refused("methods", "--measure", names=["--docs"])
        (self.folder / "file").write_text("", encoding="utf-8")
        self.refused("methods", "--docs", "file/site", names=["file/site"], code=1)
        self.refused("methods", "--docs", "site", "--results", "none", names=["claims.json"])

    @unittest.skipUnless(browser.program(), "no browser is here: " + ", ".join(browser.NAMES))
    def test_site(self):
        said = self.formwork("methods", "--docs", "site", "--measure", timeout=500).stdout
        methods = json.loads(self.formwork("methods", "--json").stdout)
        self.assertIn(f"{len(methods)} methods: site/index.html", said)
        site = self.folder / "site"
        pictures = os.environ.get("FORMWORK_TEST_PICTURES")
        with browser.Browser(width=1400) as page:
            page.open(site / "index.html")
            rows = "[...document.querySelectorAll('.index tbody tr')].filter(r => !r.hidden).length"
            self.assertGreaterEqual(page.run(rows), len(methods))
            page.run("(() => { const f = document.getElementById('find'); f.value = '2502.02732'; f.oninput(); })()")
            axes = sorted({method["axis"] for method in methods if "2502.02732" in method["paper"]})
            self.assertIn("wiring", axes)
            self.assertEqual(page.run("[...document.querySelectorAll('.index:not([hidden])')].map(c => c.id)"), [*axes, "by-paper"])
            page.run("(() => { const f = document.getElementById('find'); f.value = ''; f.oninput(); })()")
            if pictures:
                page.picture(pathlib.Path(pictures) / "methods.png")
            for method in methods:
                page.open(site / method["axis"] / f"{method['name']}.html")
                self.assertEqual(page.run("document.querySelector('h1').textContent"), method["name"])
                self.assertIn(method["summary"], page.run("document.body.innerText"))
                for option in method["options"]:
                    self.assertIn(option["help"], page.run("document.body.textContent"))
            self.assertEqual(page.problems, [])
            page.open(site / "mixer" / "local.html")
            self.assertTrue(all(count > 10 for count in page.run(DRAWN)))
            self.assertEqual(page.run("charts[0].data.datasets.map(d => d.label)"), ["local", "softmax (the default)"])
            self.assertEqual(page.run("charts[0].data.datasets[0].data.map(p => p.x)"), [32, 64, 128, 256])
            if pictures:
                page.picture(pathlib.Path(pictures) / "method.png")
            page.run("[...document.querySelectorAll('.fits a')].find(a => a.textContent === 'rms_norm').click()")
            time.sleep(1)  # the click leaves this page: nothing can be asked of it meanwhile
            self.assertEqual(page.run("document.querySelector('h1').textContent"), "rms_norm")
            self.assertEqual(page.problems, [])
        with browser.Browser(width=390, height=844, phone=True, dark=True) as page:
            for name in ("index", "mixer/local", "channel/glu"):
                page.open(site / f"{name}.html")
                self.assertLessEqual(page.run("document.documentElement.scrollWidth"), 390, name)
                self.assertEqual(page.run("getComputedStyle(document.body).backgroundColor"), "rgb(19, 21, 24)")
                if pictures:
                    page.picture(pathlib.Path(pictures) / f"{name.replace('/', '-')}-phone.png")
            self.assertEqual(page.problems, [])


if __name__ == "__main__":
    formwork_case.main()

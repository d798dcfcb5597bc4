"""The page of a comparison opens from disk in a browser, sorts, draws, and answers to its reader."""

import json
import os
import pathlib
import subprocess
import unittest

import browser
import formwork_case
import sample_comparison
from report_page_test import DRAWN

NAMES = [variant["name"] for variant in sample_comparison.summary()["variants"]]


@unittest.skipUnless(browser.program(), "no browser is here: " + ", ".join(browser.NAMES))
class ComparisonPage(formwork_case.FormworkCase):
    def made(self, summary):
        """Writes the page of a summary and returns its path."""
        self.write("summary.json", json.dumps(summary))
        tests = pathlib.Path.cwd() / "formwork_tests"
        subprocess.run([str(tests), "--gtest_filter=unit.comparison_page"], check=True, stdout=subprocess.DEVNULL,
                       env={**os.environ, "FORMWORK_TEST_REPORT": str(self.folder)})
        return self.folder / "report.html"

    def picture(self, page, name):
        if os.environ.get("FORMWORK_TEST_PICTURES"):
            page.picture(pathlib.Path(os.environ["FORMWORK_TEST_PICTURES"]) / f"comparison-{name}.png")

    def order(self, page):
        return page.run("[...document.querySelectorAll('#sheet tbody tr')].map(row => row.dataset.variant)")

    def press(self, page, selector, text):
        page.run(f"[...document.querySelectorAll({selector!r})].find(b => b.textContent === {text!r}).click()")

    def drawn(self, page):
        return page.run("charts[0].data.datasets.filter(d => !d.band).map(d => d.label)")

    def test_table(self):
        with browser.Browser(width=1400) as page:
            page.open(self.made(sample_comparison.summary()))
            self.assertEqual(self.order(page), NAMES)
            self.picture(page, "wide")
            self.assertLessEqual(page.run("document.getElementById('sheet').scrollWidth - document.getElementById('sheet').clientWidth"), 0)
            # The best first, what has no number last; then turned round.
            self.press(page, "#sheet th button", "Accuracy")
            self.assertEqual(self.order(page)[:5], ["peri", "sandwich", "pre-rms", "pre", "local"])
            self.assertEqual(page.run("document.querySelector('#sheet [aria-sort]').getAttribute('aria-sort')"), "descending")
            self.press(page, "#sheet th button", "Accuracy")
            self.assertEqual(self.order(page)[:6], ["post", "local", "pre", "pre-rms", "sandwich", "peri"])
            self.press(page, "#sheet th button", "Loss")
            self.assertEqual(self.order(page)[0], "peri")
            self.press(page, "#sheet th button", "Variant")
            self.assertEqual(self.order(page), sorted(NAMES))
            # Words and sentences.
            rows = page.run("Object.fromEntries([...document.querySelectorAll('#sheet tbody tr')].map(r => [r.dataset.variant, r.innerText]))")
            self.assertIn("no\u00a0difference\u00a0seen", rows["pre-rms"])
            self.assertIn("detects 0.61 points".replace(" ", "\u00a0"), rows["pre-rms"])
            self.assertIn("better, p\u00a0=\u00a00.012", rows["peri"])
            self.assertIn("worse", rows["local"])
            self.assertIn("the loss became NaN at step 300", rows["post"])
            self.assertIn("diverged", rows["post"])
            self.assertIn("1 of 3 seeds", rows["post"])
            self.assertIn("which does not divide model.width", rows["wide"])
            self.assertIn("not yet run", rows["b2t"])
            text = page.run("document.body.innerText")
            self.assertIn("formwork compare recipes/norms.toml --seeds 3 --jobs 2", text)
            self.assertIn("AMD EPYC", text)
            self.assertIn('model.wiring.kind = "peri"', text)
            self.assertEqual(page.problems, [])

    def test_names_are_text(self):
        with browser.Browser() as page:
            page.open(self.made(sample_comparison.summary()))
            self.assertIn(sample_comparison.HOSTILE, page.run("document.getElementById('sheet').innerText"))
            self.assertIn("<img src=x", page.run("document.getElementById('changes').innerText"))
            self.assertEqual(page.run("document.querySelectorAll('#sheet b, #changes img').length"), 0)
            self.assertEqual(page.problems, [])

    def test_plots(self):
        with browser.Browser(width=1400) as page:
            page.open(self.made(sample_comparison.summary()))
            done = ["pre", "pre-rms", "peri", "sandwich", "local"]
            colours = page.run(DRAWN)
            self.assertEqual(len(colours), 4)
            self.assertTrue(all(count > 20 for count in colours), colours)
            self.assertEqual(self.drawn(page), done)
            self.press(page, "#kind button", "training loss")
            self.assertEqual(self.drawn(page), done + ["post"])
            self.assertEqual(page.run("charts[0].data.datasets.length"), 18)  # each with its band
            # The axis below.
            for name, greatest in (("tokens", 2000 * 16384), ("time", 2000 * 16384 / 36100), ("steps", 2000)):
                self.press(page, "#axis button", name)
                self.assertAlmostEqual(page.run("charts[0].scales.x.max"), greatest)
                self.assertEqual(page.run("document.querySelector('#axis [aria-pressed=true]').textContent"), name)
                self.assertTrue(all(count > 20 for count in page.run(DRAWN)))
            # A variant toggled is gone everywhere, and comes back in its colour.
            before = page.run("charts[0].data.datasets.find(d => d.label === 'peri' && !d.band).borderColor")
            self.press(page, ".chip", "peri")
            self.assertEqual(self.drawn(page), ["pre", "pre-rms", "sandwich", "local", "post"])
            self.assertEqual(page.run("charts[2].data.datasets.map(d => d.label)"), ["pre", "pre-rms", "sandwich", "local"])
            self.assertEqual(page.run("document.querySelectorAll('.chip[aria-pressed=false]').length"), 1)
            self.press(page, ".chip", "peri")
            self.assertEqual(page.run("charts[0].data.datasets.find(d => d.label === 'peri' && !d.band).borderColor"), before)
            # Quality against cost: the front is what no other beats on both.
            front = "charts[1].data.datasets.find(d => d.label === 'Pareto front').data.map(p => p.v.name)"
            self.assertEqual(page.run(front), ["local", "pre", "peri"])
            page.run("(() => { const c = document.getElementById('cost'); c.value = 'seconds'; c.onchange(); })()")
            self.assertEqual(page.run(front), ["local", "pre-rms", "sandwich", "peri"])
            self.press(page, "#quality button", "loss")
            self.assertEqual(page.run(front), ["local", "pre-rms", "sandwich", "peri"])
            # Probes: the last record, then the first.
            self.assertEqual(page.run("charts[2].data.datasets[0].data[5].y"), 11)
            page.run("(() => { const r = document.querySelector('[data-key=probe-activation_variance] input'); r.value = 0; r.oninput(); })()")
            self.assertEqual(page.run("charts[2].data.datasets[0].data[5].y"), 6.875)
            # Values under the pointer, without those of the bands.
            page.run("document.querySelector('[data-key=curves]').scrollIntoView({block: 'center'})")
            box = page.run("(() => { const b = document.querySelector('canvas').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()")
            page.point_at(box[0] + box[2] / 2, box[1] + box[3] / 2)
            shown = page.run("charts[0].tooltip.opacity ? charts[0].tooltip.body.map(b => b.lines[0]) : []")
            self.assertEqual(len(shown), 6)
            self.assertEqual(page.problems, [])

    def test_phone_and_dark(self):
        with browser.Browser(width=390, height=844, phone=True, dark=True) as page:
            page.open(self.made(sample_comparison.summary()))
            self.assertLessEqual(page.run("document.documentElement.scrollWidth"), 390)
            self.assertTrue(all(count > 20 for count in page.run(DRAWN)))
            self.assertEqual(page.run("getComputedStyle(document.body).backgroundColor"), "rgb(19, 21, 24)")
            page.run("(() => { const s = document.querySelector('#sorting select'); s.value = 'loss'; s.onchange(); })()")
            self.assertEqual(self.order(page)[0], "peri")
            self.assertGreaterEqual(page.run("Math.min(...[...document.querySelectorAll('.chip, .choice button')].map(b => b.offsetHeight))"), 30)
            self.picture(page, "phone-dark")
            self.assertEqual(page.problems, [])

    def test_nothing_yet(self):
        empty = {key: sample_comparison.summary()[key] for key in ("recipe", "seeds", "metric", "equal", "budget")}
        for variants in ([], [{"name": "a", "baseline": True}],
                         [{"name": "a", "baseline": True, "set": None, "status": "running", "failure": None, "metric": None, "loss": None,
                           "runs": [{"seed": 1, "status": "running"}], "curve": None, "against_baseline": None, "probes": None}]):
            with browser.Browser() as page:
                page.open(self.made({**empty, "variants": variants}))
                self.assertIn("No curve was written yet", page.run("document.body.innerText"))
                self.assertEqual(self.order(page), [variant["name"] for variant in variants])
                self.assertEqual(page.problems, [])


if __name__ == "__main__":
    formwork_case.main()

"""The page of curves opens from disk in a browser, draws, and answers to its reader."""

import os
import pathlib
import subprocess
import unittest

import browser
import formwork_case

DRAWN = """(() => [...document.querySelectorAll('canvas')].map((canvas) => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 200) colours.add(pixels[i] << 16 | pixels[i + 1] << 8 | pixels[i + 2]);
  return colours.size;
}))()"""


@unittest.skipUnless(browser.program(), "no browser is here: " + ", ".join(browser.NAMES))
class ReportPage(formwork_case.FormworkCase):
    def setUp(self):
        super().setUp()
        tests = pathlib.Path.cwd() / "formwork_tests"
        subprocess.run([str(tests), "--gtest_filter=unit.report_page"], check=True,
                       stdout=subprocess.DEVNULL, env={**os.environ, "FORMWORK_TEST_REPORT": str(self.folder)})
        self.page = self.folder / "report.html"
        self.pictures = os.environ.get("FORMWORK_TEST_PICTURES")

    def picture(self, page, name):
        if self.pictures:
            page.picture(pathlib.Path(self.pictures) / f"{name}.png")

    def test_wide(self):
        with browser.Browser(width=1280) as page:
            page.open(self.page)
            drawn = page.run(DRAWN)
            self.assertEqual(len(drawn), 6)
            self.assertTrue(all(colours > 3 for colours in drawn), drawn)
            self.assertEqual(page.run("document.querySelector('pre').textContent.includes('</script><script>bad()')"), True)
            self.assertIn("1.5264", page.run("document.getElementById('figures').textContent"))
            self.assertEqual(page.run("charts.length"), 6)
            self.picture(page, "wide")

            # The axis below: steps, then tokens, then time.
            self.assertEqual(page.run("charts[0].scales.x.max"), 2000)
            for name, greatest in (("tokens", 2000 * 4096), ("time", 0.081 * 2000)):
                page.run(f"[...document.querySelectorAll('#axis button')].find(b => b.textContent === '{name}').click()")
                self.assertAlmostEqual(page.run("charts[0].scales.x.max"), greatest)
                self.assertEqual(page.run("document.querySelector('#axis [aria-pressed=true]').textContent"), name)
                self.assertTrue(all(colours > 3 for colours in page.run(DRAWN)))

            # Log scale of one chart.
            page.run("document.querySelector('[data-key=loss] button').click()")
            self.assertEqual(page.run("charts.map(c => c.scales.y.type)"), ["logarithmic"] + ["linear"] * 5)

            # Values under the pointer, of all three curves.
            box = page.run("(() => { const b = document.querySelector('canvas').getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()")
            page.point_at(box[0] + box[2] / 2, box[1] + box[3] / 2)
            shown = page.run("charts[0].tooltip.opacity ? charts[0].tooltip.body.map(b => b.lines[0]) : []")
            self.assertEqual([line.split()[0] for line in shown], ["training", "smoothed", "validation"])
            self.assertAlmostEqual(float(shown[0].split()[1]), 1.5, delta=0.2)
            self.assertIsNotNone(page.run("marked"))
            self.picture(page, "pointed")

            # Smoothing off, and the other theme.
            page.run("(() => { const r = document.querySelector('input[type=range]'); r.value = 0; r.oninput(); })()")
            self.assertEqual(page.run("charts[0].data.datasets.map(d => d.label)"), ["training", "validation"])
            light = page.run("getComputedStyle(document.body).backgroundColor")
            page.run("document.getElementById('theme').click()")
            self.assertNotEqual(page.run("getComputedStyle(document.body).backgroundColor"), light)
            self.assertEqual(page.problems, [])

    def test_phone_and_dark(self):
        with browser.Browser(width=390, height=844, phone=True, dark=True) as page:
            page.open(self.page)
            self.assertTrue(all(colours > 3 for colours in page.run(DRAWN)))
            self.assertLessEqual(page.run("document.documentElement.scrollWidth"), 390)
            self.assertEqual(page.run("getComputedStyle(document.body).backgroundColor"), "rgb(19, 21, 24)")
            self.assertGreaterEqual(page.run("Math.min(...[...document.querySelectorAll('#axis button')].map(b => b.offsetHeight))"), 32)
            self.picture(page, "phone")
            self.assertEqual(page.problems, [])

    def test_without_metrics(self):
        (self.folder / "metrics.jsonl").unlink()
        empty = self.page.read_text(encoding="utf-8")
        start = empty.index('"columns":')
        end = empty.index("</script>", start)
        self.page.write_text(empty[:start] + '"columns":{}}' + empty[end:], encoding="utf-8")
        with browser.Browser() as page:
            page.open(self.page)
            self.assertIn("No metrics", page.run("document.body.innerText"))
            self.assertEqual(page.problems, [])


if __name__ == "__main__":
    formwork_case.main()

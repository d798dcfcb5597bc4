# ctest: slow timeout=300
"""The page of formwork inspect opens from disk in a browser and draws; so do the probes of a report."""

import os
import pathlib
import unittest

import browser
import formwork_case
import tiny

DRAWN = """(() => [...document.querySelectorAll('canvas')].map((canvas) => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const colours = new Set();
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 200) colours.add(pixels[i] << 16 | pixels[i + 1] << 8 | pixels[i + 2]);
  return colours.size;
}))()"""


@unittest.skipUnless(browser.program(), "no browser is here: " + ", ".join(browser.NAMES))
class InspectPage(tiny.TinyCase):
    def picture(self, page, name):
        if os.environ.get("FORMWORK_TEST_PICTURES"):
            page.picture(pathlib.Path(os.environ["FORMWORK_TEST_PICTURES"]) / f"{name}.png")

    def test_inspection(self):
        run = self.train("run")
        self.formwork("inspect", run, "--out", "look")
        for phone, width in ((False, 1280), (True, 390)):
            with browser.Browser(width=width, phone=phone, dark=phone) as page:
                page.open(self.folder / "look" / "inspection.html")
                drawn = page.run(DRAWN)
                self.assertGreater(len(drawn), 12)
                self.assertTrue(all(colours > 1 for colours in drawn), drawn)
                self.assertEqual(page.run("document.querySelectorAll('section.probe').length"), 10)
                self.assertEqual(page.run("document.querySelectorAll('#attention_maps .picture').length"), 4)
                self.assertLessEqual(page.run("document.documentElement.scrollWidth"), width)
                self.picture(page, f"inspection-{width}")
                box = page.run("(() => { const c = document.querySelector('#attention_maps canvas'); c.scrollIntoView(); "
                               "const b = c.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()")
                if not phone:
                    page.point_at(box[0] + box[2] / 2, box[1] + box[3] / 2)
                    self.assertRegex(page.run("document.querySelector('#attention_maps .below').textContent"),
                                     r"^query \d+, key \d+: ")
                scale = "charts[0].options.scales.y.type"
                before = page.run(scale)
                page.run("document.querySelector('article.chart button').click()")
                self.assertNotEqual(page.run(scale), before)
                page.run("document.getElementById('theme').click()")
                self.assertTrue(all(colours > 1 for colours in page.run(DRAWN)))
                self.assertEqual(page.problems, [])

    def test_report(self):
        run = self.train("run", 'train.probe.kinds=["attention_entropy", "activations"]', "train.probe.every=2")
        with browser.Browser(width=1280) as page:
            page.open(run / "report.html")
            self.assertEqual(page.run("document.querySelectorAll('[data-key=\"attention_entropy\"] canvas').length"), 1)
            self.assertEqual(page.run("charts.find(c => c.data.datasets[0].key === 'attention_entropy').data.datasets.length"), 2)
            self.assertEqual(page.run("charts.find(c => c.data.datasets[0].key === 'activations').data.datasets[0].data.map(p => p.x)"),
                             [2, 4, 6, 8, 10, 12])
            page.run("[...document.querySelectorAll('#axis button')].find(b => b.textContent === 'tokens').click()")
            self.assertTrue(all(colours > 3 for colours in page.run(DRAWN)))
            self.picture(page, "report-with-probes")
            self.assertEqual(page.problems, [])


if __name__ == "__main__":
    formwork_case.main()

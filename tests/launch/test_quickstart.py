"""The quickstart with its tiny budget: all stages, a report, nothing done twice, the same numbers."""

import os
import subprocess
import unittest

import harness


class Quickstart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        harness.Case.setUpClass.__func__(cls)
        harness.write(cls.text["train"], harness.documents(600, 5))

    @classmethod
    def tearDownClass(cls):
        harness.Case.tearDownClass.__func__(cls)

    def quickstart(self, out, *arguments):
        env = harness.environment()
        env["T2R_BUILD"] = os.path.dirname(os.path.dirname(harness.T2R))
        done = subprocess.run(["bash", os.path.join(harness.SOURCE, "launch", "quickstart.sh"),
                               "--quick", "--text", self.text["train"], "--out", out, *arguments],
                              env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done

    def losses(self, out):
        report = harness.read_json(os.path.join(out, "report", "report.json"))
        return {run["name"]: (run["loss"], run["splits"]["test"]["loss"], run["cost_share"])
                for run in report["runs"]}

    def test_quickstart(self):
        first, second = os.path.join(self.folder, "one"), os.path.join(self.folder, "two")
        done = self.quickstart(first)
        self.assertIn("t2r-finetuned", done.stdout)
        self.assertIn("report/report.html", done.stderr)
        losses = self.losses(first)
        self.assertEqual(list(losses), ["teacher", "t2r-finetuned", "t2r-scratch", "elu-finetuned",
                                        "rfa-finetuned"])
        self.assertAlmostEqual(losses["t2r-finetuned"][2], 1 / 6, delta=0.02)
        again = self.quickstart(first)
        self.assertNotIn("update ", again.stderr, "a finished stage was repeated")
        self.assertEqual(self.losses(first), losses)
        self.quickstart(second)
        self.assertEqual(self.losses(second), losses)


if __name__ == "__main__":
    harness.main()

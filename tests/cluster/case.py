"""What the tests on several hosts share."""

import os
import sys

import hosts

sys.path.insert(0, os.path.join(os.path.dirname(hosts.HERE), "launch"))
import harness  # noqa: E402


def without_times(line):
    return {key: line[key] for key in ("step", "tokens", "loss", "learning_rate", "grad_norm")}


class Case(harness.Case):
    hosts_count = 2

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        tree = [harness.SOURCE, os.path.dirname(os.path.abspath(harness.T2R))]
        cls.hosts_folder = os.path.join(cls.folder, "hosts-state")
        os.mkdir(cls.hosts_folder)
        cls.hosts = hosts.Hosts(cls.hosts_count, cls.hosts_folder,
                                [cls.folder, *(f for f in tree if f.startswith("/tmp/"))])

    @classmethod
    def tearDownClass(cls):
        cls.hosts.close()
        super().tearDownClass()

    def updates(self, name):
        """Updates that a run has written down so far."""
        try:
            return len(harness.metrics(self.path(name)))
        except (FileNotFoundError, ValueError):  # not yet, or half a line was read
            return 0

    def curve(self, name):
        """What metrics.jsonl says of each update, the last word where it says several."""
        return [without_times(line) for line in
                {line["step"]: line for line in harness.metrics(self.path(name))}.values()]

    def assert_same_run(self, name, other):
        """Loss by loss and weight by weight the same bits."""
        self.assertEqual(self.curve(name), self.curve(other))
        models = []
        for run in (name, other):
            with open(os.path.join(self.path(run), "model", "model.safetensors"), "rb") as file:
                models.append(file.read())
        self.assertTrue(models[0] == models[1], f"the models of {name} and {other} differ")

    def assert_same_losses(self, name, other):
        """The same but for rounding: another mesh adds in another order. Runs in fp64."""
        mine, theirs = self.curve(name), self.curve(other)
        self.assertEqual(len(mine), len(theirs))
        for a, b in zip(mine, theirs):
            self.assertAlmostEqual(a["loss"], b["loss"], delta=1e-10)

"""Finetuning a part of a converted model: attention, feature maps, low-rank adapters."""

import os
import re

import harness
from harness import MODEL, WORK, metrics, ok, ok_json, read_json


class TrainPart(harness.Case):
    def setUp(self):
        super().setUp()
        if not os.path.isdir(self.path("swapped")):
            self.train("teacher", *MODEL, "--steps", "60")
            ok("convert", "--model", self.path("teacher"), "--feature-map", "t2r", "--keep-softmax",
               "0", "--out", self.path("swapped"))

    def loss(self, model):
        return ok_json("evaluate", "--model", self.path(model), "--data", self.data,
                       "--sequence-length", "32")["loss"]

    def finetune(self, name, part, *options, steps="20", **more):
        return self.train(name, "--model", self.path("swapped"), "--train", part, "--learning-rate",
                          "5e-3", "--schedule", "constant", "--steps", steps, *options, **more)

    def test_parts_learn_at_less_cost(self):
        summaries = {}
        for part in ("all", "attention", "feature-maps", "lora"):
            self.finetune(part, part)
            summaries[part] = read_json(self.path(f"{part}/summary.json"))
            # What was written is what was evaluated: adapters merged.
            self.assertAlmostEqual(self.loss(part), summaries[part]["loss"], delta=1e-5)
            self.assertLess(self.loss(part), self.loss("swapped"))
        whole = summaries["all"]
        for part in ("attention", "feature-maps", "lora"):
            summary = summaries[part]
            self.assertLess(summary["flops"], 0.9 * whole["flops"])
            for key in ("gradients_bytes", "optimizer_bytes"):
                self.assertLess(summary["memory"][key], 0.7 * whole["memory"][key])
            self.assertLess(summary["trained_parameters"], whole["trained_parameters"])
            self.assertIn(part, summary["trained"])

    def test_on_ranks_and_gone_on(self):
        self.finetune("one", "lora", "--lora-targets", "q,v,fc", "--new-parameter-rate", "3")
        self.finetune("half", "lora", "--lora-targets", "q,v,fc", "--new-parameter-rate", "3",
                      steps="10")
        self.finetune("half", "lora", "--lora-targets", "q,v,fc", "--new-parameter-rate", "3", "--tp",
                      "2", ranks=2)
        self.assertAlmostEqual(metrics(self.path("half"))[-1]["loss"],
                               metrics(self.path("one"))[-1]["loss"], delta=1e-4)
        with open(self.path("one/config.toml"), encoding="utf-8") as file:
            self.assertEqual(float(re.search(r"new-parameter-rate\s*=\s*(\S+)", file.read())[1]), 3)
        self.assertEqual(read_json(self.path("one/summary.json"))["new_parameter_rate"], 3)
        for other in (["all"], ["lora", "--lora-targets", "q"], ["feature-maps"]):
            self.assert_fails("train", "--data", self.data, "--out", self.path("one"), *WORK, "--model",
                              self.path("swapped"), "--steps", "30", "--train", *other,
                              says=["another part of the parameters"])
        self.assert_fails("average", "--run", self.path("one"), "--last", "1", "--out",
                          self.path("never"), says=["adapters"])

    def test_bad_input(self):
        train = ["train", "--data", self.data, "--out", self.path("never"), *WORK, "--steps", "1"]
        swapped = [*train, "--model", self.path("swapped")]
        self.assert_fails(*train, *MODEL, "--train", "lora", says=["--model"])
        self.assert_fails(*swapped, "--train", "some", says=["feature-maps or lora"])
        self.assert_fails(*swapped, "--train", "lora", "--lora-rank", "0", says=["--lora-rank 0"])
        self.assert_fails(*swapped, "--train", "lora", "--lora-alpha", "-1", says=["--lora-alpha"])
        self.assert_fails(*swapped, "--train", "lora", "--lora-targets", "q,x", says=["'x'"])
        self.assert_fails(*swapped, "--train", "lora", "--lora-targets", "gate", says=["gate"])
        self.assert_fails(*swapped, "--new-parameter-rate", "0", says=["above 0"])
        self.assert_fails(*swapped, "--stage", "transfer", "--train", "all", says=["transfer"])
        self.assert_fails(*train, "--model", self.path("teacher"), "--train", "feature-maps",
                          says=["nothing to train"])
        self.assertFalse(os.path.exists(self.path("never")))


if __name__ == "__main__":
    harness.main()

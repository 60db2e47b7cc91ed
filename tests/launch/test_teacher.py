"""What a converted model learns from beside the text: its own softmax attention (attention
transfer), its teacher's distribution, and texts that the teacher draws."""

import os

import harness
from harness import MODEL, WORK, metrics, ok, ok_json, read_json


class Teacher(harness.Case):
    def setUp(self):
        super().setUp()
        if not os.path.isdir(self.path("teacher")):
            self.train("teacher", *MODEL, "--steps", "120")
            ok("convert", "--model", self.path("teacher"), "--feature-map", "hedgehog", "--decay",
               "learned", "--window", "4", "--out", self.path("swapped"))
            ok("convert", "--model", self.path("teacher"), "--feature-map", "t2r", "--out",
               self.path("plain"))

    def loss(self, model):
        return ok_json("evaluate", "--model", self.path(model), "--data", self.data,
                       "--sequence-length", "32")["loss"]

    def test_transfer_then_the_teachers_distribution(self):
        transfer = ["--model", self.path("plain"), "--stage", "transfer", "--learning-rate", "1e-2",
                    "--weight-decay", "0"]
        self.train("transferred", *transfer, "--steps", "60")
        lines = metrics(self.path("transferred"))
        self.assertEqual(len(lines[0]["transfer_error"]), 2)  # a swapped layer each
        self.assertLess(lines[-1]["loss"], 0.6 * lines[0]["loss"])
        self.assertLess(self.loss("transferred"), self.loss("plain") - 0.01)
        self.assertEqual(read_json(self.path("transferred/summary.json"))["stage"], "transfer")
        # The same on two ranks, and gone on from a stop.
        self.train("two", *transfer, "--steps", "20", "--schedule", "constant", ranks=2)
        self.train("halves", *transfer, "--steps", "10", "--schedule", "constant")
        self.train("halves", *transfer, "--steps", "20", "--schedule", "constant")
        for update in (9, 19):  # before and after the stop
            self.assertAlmostEqual(metrics(self.path("halves"))[update]["loss"],
                                   metrics(self.path("two"))[update]["loss"], delta=1e-5)
        self.train("after", "--model", self.path("transferred"), "--teacher", self.path("teacher"),
                   "--steps", "20", "--learning-rate", "1e-3")
        self.assertLess(self.loss("after"), self.loss("transferred"))
        last = metrics(self.path("after"))[-1]
        self.assertLess(last["objective"], 0.2)  # the divergence, far below the loss of the text
        self.assertGreater(last["loss"], 1)
        # Checkpoints of one objective are not those of another.
        self.assert_fails("train", "--data", self.data, "--out", self.path("after"), *WORK, "--model",
                          self.path("transferred"), "--steps", "30", says=["minimises something else"])

    def test_a_teacher_of_itself_has_nothing_to_teach(self):
        self.train("same", "--model", self.path("teacher"), "--teacher", self.path("teacher"),
                   "--steps", "2", "--learning-rate", "0")
        self.assertLess(abs(metrics(self.path("same"))[0]["objective"]), 1e-5)

    def test_texts_of_the_teacher(self):
        draw = ["generate", "--model", self.path("teacher"), "--texts", "30", "--max-tokens", "32",
                "--temperature", "1", "--seed", "5", "--threads", "1"]
        ok(*draw, "--batch", "8", "--dataset", self.path("drawn"))
        ok(*draw, "--batch", "7", "--dataset", self.path("shared"), ranks=2)
        info, shared = (read_json(self.path(f"{name}/dataset.json"))["splits"]["train"]
                        for name in ("drawn", "shared"))
        self.assertEqual((info["documents"], info["shards"], shared["shards"]), (30, 1, 2))
        self.assertLessEqual(info["tokens"], 30 * 32)
        for key in ("documents", "tokens", "words", "bytes"):
            self.assertEqual(info[key], shared[key])
        loss = [ok_json("evaluate", "--model", self.path("teacher"), "--data", self.path(name),
                        "--split", "train", "--sequence-length", "32")["loss"]
                for name in ("drawn", "shared")]
        self.assertAlmostEqual(loss[0], loss[1], delta=1e-6)
        # Colder texts are surer.
        ok(*draw, "--temperature", "0.2", "--dataset", self.path("cold"))
        cold = ok_json("evaluate", "--model", self.path("teacher"), "--data", self.path("cold"),
                       "--split", "train", "--sequence-length", "32")["loss"]
        self.assertLess(cold, 0.8 * loss[0])

        ok(*draw, "--dataset", self.path("mixed"), "--data", self.data)
        splits = read_json(self.path("mixed/dataset.json"))["splits"]
        before = read_json(self.data + "/dataset.json")["splits"]
        self.assertEqual(splits["valid"]["tokens"], before["valid"]["tokens"])
        self.assertEqual(splits["train"]["tokens"], before["train"]["tokens"] + info["tokens"])
        ok("train", "--data", self.path("mixed"), "--model", self.path("swapped"), "--out",
           self.path("run"), "--steps", "2", *WORK)

    def test_bad_input(self):
        train = ["train", "--data", self.data, "--out", self.path("never"), *WORK, "--steps", "1"]
        self.assert_fails(*train, *MODEL, "--stage", "transfer", says=["convert"])
        self.assert_fails(*train, "--model", self.path("swapped"), "--stage", "transfers", says=["task"])
        self.assert_fails(*train, "--model", self.path("swapped"), "--stage", "transfer", "--teacher",
                          self.path("teacher"), says=["teacher"])
        self.assert_fails(*train, "--model", self.path("swapped"), "--teacher", self.path("nowhere"),
                          says=["nowhere"])
        self.assert_fails(*train, "--model", self.path("swapped"), "--teacher", self.path("teacher"),
                          "--teacher-share", "0", says=["share"])
        self.assert_fails(*train, "--model", self.path("swapped"), "--cp", "2", ranks=2,
                          says=["window", "--cp 1"])
        convert = ["convert", "--model", self.path("teacher"), "--out", self.path("never")]
        self.assert_fails(*convert, "--feature-map", "rfa", "--window", "4", says=["window"])
        self.assert_fails(*convert, "--window", "-1", says=["window of -1"])
        self.assert_fails(*convert, "--feature-map", "hedgehog", "--feature-size", "7", says=["even"])
        draw = ["generate", "--model", self.path("teacher"), "--dataset"]
        self.assert_fails(*draw, self.path("never"), says=["--texts"])
        self.assert_fails(*draw, self.data, "--texts", "1", says=["already holds a dataset"])
        self.assert_fails(*draw, self.path("never"), "--texts", "1", "--prompt", "a", says=["--prompt"])
        self.assert_fails(*draw, self.data, "--texts", "1", "--data", self.data, "--overwrite",
                          says=["its own base"])
        self.assertFalse(os.path.exists(self.path("never")))


if __name__ == "__main__":
    harness.main()

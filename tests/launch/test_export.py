"""Exported models are whole Hugging Face folders: import gives the same bytes back, and Python
generates with them what t2r generates."""

import json
import os
import shutil
import struct
import subprocess
import sys
import unittest

import harness
from harness import ok, ok_json, read_json, write

PYTHON = os.environ.get("T2R_PYTHON", sys.executable)
STORIES = os.environ.get("T2R_STORIES_MODEL", os.path.join(
    os.path.dirname(harness.SOURCE), "shared", "models", "stories260K"))
MODEL = ["--layers", "3", "--hidden-size", "32", "--heads", "4", "--ffn-size", "64", "--learning-rate", "1e-2"]
LLAMA = ["--family", "llama", "--key-value-heads", "2"]


def tensors(folder):
    """Name to (type, shape, bytes) of all weights of a model folder."""
    found = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(folder, name), "rb") as file:
            length, = struct.unpack("<Q", file.read(8))
            header, data = json.loads(file.read(length)), file.read()
        header.pop("__metadata__", None)
        for tensor, info in header.items():
            begin, end = info["data_offsets"]
            found[tensor] = (info["dtype"], info["shape"], data[begin:end])
    return found


def config(folder):
    whole = read_json(os.path.join(folder, "config.json"))
    whole.pop("t2r_provenance", None)
    for key in ("bos_token_id", "eos_token_id"):  # Hugging Face's; t2r asks the tokenizer
        whole.pop(key, None)
    return whole


class Models(harness.Case):
    """Four models, trained for a moment."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        here = lambda name: os.path.join(cls.folder, name)
        train = ["train", "--data", cls.data, *harness.WORK, *MODEL, "--steps", "30"]
        ok(*train, *LLAMA, "--out", here("llama"))
        ok(*train, "--out", here("gpt2"), "--max-positions", "200")
        ok("convert", "--model", here("llama"), "--feature-size", "8", "--decay", "learned", "--keep-softmax", "1",
           "--out", here("llama-swapped"))
        ok("convert", "--model", here("gpt2"), "--feature-size", "8", "--keep-softmax", "0", "--out",
           here("gpt2-swapped"))
        cls.models = {name: here(name) + ("" if "swapped" in name else "/model")
                      for name in ("llama", "gpt2", "llama-swapped", "gpt2-swapped")}


class Export(Models):
    def export(self, name, *options):
        out = self.path(f"export-{name}-{self.id().rsplit('.')[-1]}")
        ok("export", "--model", self.models.get(name, name), "--out", out, *options)
        return out

    def test_what_is_in_the_folder(self):
        for name, kind in (("llama", "llama"), ("gpt2", "gpt2"), ("llama-swapped", "t2r"), ("gpt2-swapped", "t2r")):
            out = self.export(name)
            self.assertEqual(config(out)["model_type"], kind)
            self.assertEqual(read_json(out + "/generation_config.json")["eos_token_id"], 257)
            for file in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
                self.assertTrue(os.path.isfile(os.path.join(out, file)), file)
            self.assertEqual(os.path.isfile(out + "/modeling_t2r.py"), kind == "t2r")
            if kind == "t2r":
                self.assertEqual(config(out)["auto_map"]["AutoModelForCausalLM"], "modeling_t2r.T2RForCausalLM")
                with open(out + "/modeling_t2r.py") as code, open(os.path.join(
                        harness.SOURCE, "launch", "hugging_face", "modeling_t2r.py")) as source:
                    self.assertEqual(code.read(), source.read())

    def test_import_gives_the_same_back(self):
        for name, folder in self.models.items():
            for number, options in enumerate(([], ["--shard-gib", "2e-5"])):
                out, back = self.export(name, *options) + f"-{number}", self.path(f"back-{name}-{number}")
                os.rename(out[:-2], out)
                if options:
                    index = read_json(out + "/model.safetensors.index.json")
                    self.assertGreater(len(set(index["weight_map"].values())), 2)
                    self.assertEqual(index["metadata"]["total_size"], sum(len(t[2]) for t in tensors(out).values()))
                ok("import", "--from", out, "--out", back)
                self.assertEqual(tensors(back), tensors(folder))
                self.assertEqual(config(back), config(folder))
                evaluate = ["evaluate", "--data", self.data, "--model"]
                self.assertEqual(ok_json(*evaluate, back)["loss"], ok_json(*evaluate, folder)["loss"])

    def test_precision(self):
        out = self.export("llama-swapped", "--precision", "bf16")
        self.assertEqual({t[0] for t in tensors(out).values()}, {"BF16"})
        self.assertEqual(config(out)["torch_dtype"], "bfloat16")

    def test_bad_input(self):
        folder = self.path("full")
        os.makedirs(folder)
        write(folder + "/precious", "x")
        export = ["export", "--model"]
        self.assert_fails(*export, self.models["gpt2"], "--out", folder, says=["full", "no empty folder"], status=[2])
        self.assertEqual(os.listdir(folder), ["precious"])
        self.assert_fails(*export, self.path("nowhere"), "--out", self.path("x"), says=["nowhere"], status=[2])
        self.assert_fails(*export, self.models["gpt2"], "--out", self.path("x"), "--shard-gib", "0",
                          says=["--shard-gib"], status=[2])
        self.assert_fails(*export, self.models["gpt2"], "--out", self.path("x"), "--precision", "int8",
                          says=["int8"], status=[2])
        write(self.path("pairs.tsv"), "a b\tc d\n" * 40)
        ok("prepare", "--tsv", self.path("pairs.tsv"), "--valid-tsv", self.path("pairs.tsv"), "--vocab-size", "270",
           "--out", self.path("pairs"))
        ok("train", "--data", self.path("pairs"), "--out", self.path("translator"), "--layers", "1", "--hidden-size",
           "16", "--heads", "2", "--steps", "1", "--threads", "1")
        self.assert_fails(*export, self.path("translator"), "--out", self.path("x"), says=["translation model"],
                          status=[2])
        self.assertFalse(os.path.exists(self.path("x")))


# Loads the folder as a user of transformers does; prints token ids.
SCRIPT = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompts, new_tokens = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
eos = model.generation_config.eos_token_id
result = {"class": type(model).__name__, "prompts": [], "cached": [], "uncached": [], "padded": []}
def generate(inputs, **options):
    options = {"max_new_tokens": new_tokens, **options}
    with torch.no_grad():
        ids = model.generate(**inputs, do_sample=False, **options)
    return [row[:row.index(eos)] if eos in row else row
            for row in ids[:, inputs["input_ids"].shape[1]:].tolist()]
for prompt in prompts:
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    result["prompts"] += inputs["input_ids"].tolist()
    result["cached"] += generate(inputs)
    result["uncached"] += generate(inputs, use_cache=False)
tokenizer.padding_side = "left"
result["padded"] = generate(tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False))
inputs = tokenizer(prompts[0], return_tensors="pt", return_token_type_ids=False)
beams = {"num_beams": 3, "max_new_tokens": 8}
result["beams"] = generate(inputs, **beams) == generate(inputs, **beams, use_cache=False)
model.train()
model(**inputs, labels=inputs["input_ids"]).loss.backward()
result["without_gradient"] = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
print(json.dumps(result))
"""


def python_has_transformers():
    return subprocess.run([PYTHON, "-c", "import torch, transformers, tokenizers"],
                          capture_output=True).returncode == 0


@unittest.skipUnless(python_has_transformers(), f"{PYTHON} has no torch and transformers: set T2R_PYTHON")
class InPython(Models):
    prompts = ["the cell range ", "a"]

    def assert_same(self, model, new_tokens=100, prompts=None, kind="T2RForCausalLM"):
        prompts = prompts or self.prompts
        out = self.path("export-python")
        shutil.rmtree(out, ignore_errors=True)
        ok("export", "--model", model, "--out", out)
        done = subprocess.run([PYTHON, "-c", SCRIPT, out, json.dumps(prompts), str(new_tokens)], capture_output=True,
                              text=True, timeout=300, stdin=subprocess.DEVNULL, env={**os.environ, "HF_HOME": self.path("hf"),
                                                           "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
        self.assertEqual(done.returncode, 0, done.stderr[-3000:])
        python = json.loads(done.stdout.splitlines()[-1])
        ours = ok_json("generate", "--model", model, "--temperature", "0", "--max-tokens", str(new_tokens),
                       "--threads", "1", "--prompt", *prompts)["sequences"]
        ids = [sequence["token_ids"] for sequence in ours]
        self.assertEqual(python["class"], kind)
        for form in ("cached", "uncached", "padded"):
            self.assertEqual(python[form], ids, form)
        self.assertTrue(python["beams"])
        self.assertEqual(python["without_gradient"], [])
        return ids

    def test_greedy_tokens(self):
        for name in ("llama-swapped", "gpt2-swapped"):
            self.assert_same(self.models[name])

    def test_classes_of_transformers(self):
        self.assert_same(self.models["llama"], 40, kind="LlamaForCausalLM")
        self.assert_same(self.models["gpt2"], 40, kind="GPT2LMHeadModel")

    def test_other_maps_and_forms(self):
        sinusoids = self.train("sinusoids", *MODEL, "--positions", "sinusoidal", "--steps", "20", "--biases", "true",
                               "--max-positions", "100")
        for number, (model, options) in enumerate([
                (self.models["llama"], ["--feature-map", "hedgehog", "--window", "4"]),
                (self.models["llama"], ["--feature-map", "t2r", "--window", "3", "--decay", "fixed"]),
                (self.models["llama"], ["--feature-map", "elu"]),
                (sinusoids, ["--feature-map", "rfa"])]):
            ok("convert", "--model", model, *options, "--out", self.path(f"map{number}"))
            self.assert_same(self.path(f"map{number}"), 40)

    def test_trained_tokenizers(self):
        for kind in ("bpe", "unigram"):
            data, run = self.path("data-" + kind), self.path("run-" + kind)
            ok("prepare", "--text", self.text["train"], "--vocab-size", "300", "--tokenizer-type", kind, "--out", data)
            ok("train", "--data", data, "--out", run, *harness.WORK, *MODEL, *LLAMA, "--steps", "10",
               "--feature-map", "t2r")
            self.assert_same(run, 20, ["the cell  range.\nGrüße, 世界", " a value"])

    @unittest.skipUnless(os.path.isdir(STORIES), f"{STORIES} is missing: set T2R_STORIES_MODEL")
    def test_a_pretrained_model(self):
        ok("import", "--from", os.path.join(STORIES, "stories260K.bin"), "--tokenizer",
           os.path.join(STORIES, "tok512.bin"), "--out", self.path("stories"))
        story = ["Once upon a time", "Lily and Tom went to the park."]
        self.assert_same(self.path("stories"), 100, story, kind="LlamaForCausalLM")
        ok("convert", "--model", self.path("stories"), "--decay", "learned", "--keep-softmax", "2", "--out",
           self.path("stories-swapped"))
        self.assert_same(self.path("stories-swapped"), 100, story)


if __name__ == "__main__":
    harness.main()

"""Bad plugins, each spoiled in one place: the loader or exactly the right check names the fault."""
# ruff: noqa: E501 - the table of mutants reads as one line each

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo import registry
from zoo.folder import FileRecord
from zoo.plugins import discover
from zoo.testing import CHECKS, Report, check_plugin, static

Plant = Callable[..., Path]
Spoil = Callable[[Path], None]

FACE, MODEL = "zoo_hello/__init__.py", "zoo_hello/model.py"
CARD, RECIPE = "zoo_hello/models/hello-tiny/README.md", "zoo_hello/models/hello-tiny/recipe.toml"
METADATA = "zoo_hello-0.1.0.dist-info/METADATA"
BUILT = "        nn.init.normal_(self.token_embedding.weight, std=0.1)\n"
FORWARD = "        T = ids.shape[1]\n"
RETURN = "        return self.norm(x) @ self.token_embedding.weight.T\n"


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        fault: in words.
        check: the one check that must fail.
        says: part of its message.
        spoil: changes the installed files, given the site folder.
        kind: of the generated plugin.
        trained: the plugin brings trained weights.
    """

    fault: str
    check: str
    says: str
    spoil: Spoil
    kind: str = "architecture"
    trained: bool = False


def at(file: str, old: str, new: str) -> Spoil:
    """Replace a text in a file; it must stand there."""

    def spoil(site: Path) -> None:
        text = (site / file).read_text(encoding="utf-8")
        assert old in text, f"{file} has no {old!r}"
        (site / file).write_text(text.replace(old, new), encoding="utf-8")

    return spoil


def where(file: str, pattern: str, new: str) -> Spoil:
    """Replace what a pattern matches in a file; it must match."""

    def spoil(site: Path) -> None:
        text, count = re.subn(pattern, new, (site / file).read_text(encoding="utf-8"), flags=re.S)
        assert count, f"{file} has no {pattern!r}"
        (site / file).write_text(text, encoding="utf-8")

    return spoil


def after(file: str, code: str) -> Spoil:
    """Code at the end of a file."""

    def spoil(site: Path) -> None:
        with (site / file).open("a", encoding="utf-8") as end:
            end.write(f"\n{code}\n")

    return spoil


def face(code: str) -> Spoil:
    return after(FACE, code)


def task(code: str) -> Spoil:
    return after("zoo_hello/task.py", code)


def both(one: Spoil, other: Spoil) -> Spoil:
    def spoil(site: Path) -> None:
        one(site)
        other(site)

    return spoil


def squat(site: Path) -> None:
    """The model takes the name of one of txzoo's."""
    models = site / "zoo_hello/models"
    at(CARD, "name: hello-tiny", "name: alibi-lm")(site)
    (models / "hello-tiny").rename(models / "alibi-lm")


def drop_a_tensor(site: Path) -> None:
    """The card vouches for weights that lack one."""
    folder = (site / CARD).parent
    tensors = load_file(folder / "model.safetensors")
    del tensors["norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    record = FileRecord.of(folder / "model.safetensors")
    entry = f"model.safetensors: {{sha256: {record.sha256}, bytes: {record.bytes}}}"
    where(CARD, r"model\.safetensors: \{[^}]*\}", entry)(site)


OWN_PADDING = """
        if cache is not None and cache.length == 0:
            self.first_padding = cache.padding
        S, padding = (T, None) if cache is None else (cache.length + T, self.first_padding)
"""
CONVERTERS = """
    def to_transformers(self):
        return self.config.to_dict(), dict(self.state_dict())

    @classmethod
    def from_transformers(cls, config, tensors):
        return cls(HelloConfig.from_dict(config))
"""
LAX = """
    @classmethod
    def from_dict(cls, values):
        names = ("vocab_size", "max_seq_len", "d_model", "n_layers", "n_heads", "max_distance")
        return cls(**{name: values[name] for name in names if name in values})
"""
BATCHES = """
    def batches(self, tokenizer, *, length, batch_tokens, seed):
        import os

        seed = int.from_bytes(os.urandom(4))
        return super().batches(tokenizer, length=length, batch_tokens=batch_tokens, seed=seed)
"""
EVALUATE = """
    def evaluate(self, model, split, *, limit=None, context=None):
        scores = super().evaluate(model, split, limit=limit, context=context)
        return scores | {"perplexity_per_token": 2 * scores["perplexity_per_token"]}
"""
TOKENIZER = """
    def build_tokenizer(self, settings):
        from random import SystemRandom

        from zoo.tokenization import build_tokenizer

        return build_tokenizer(self.text("train") + chr(SystemRandom().randrange(256, 9999)), settings)
"""

MUTANTS = [
    Mutant("no dependency on txzoo", "S101", "does not depend on txzoo", at(METADATA, "Requires-Dist: txzoo>=0.1,<1\n", "")),
    Mutant("an open-ended dependency", "S101", "open-ended", at(METADATA, ">=0.1,<1", ">=0.1")),
    Mutant("one pinned version", "S101", "pins one version", at(METADATA, ">=0.1,<1", "==" + zoo.__version__)),
    Mutant("no licence", "S102", "has no licence", at(METADATA, "License-Expression: MIT\n", "")),
    Mutant("a licence nobody knows", "S102", "'Mine' is not an SPDX licence", at(METADATA, "MIT", "Mine")),
    # what the loader names; the kit repeats its words
    Mutant("raises at import", "I201", "RuntimeError: no luck", face("raise RuntimeError('no luck')")),
    Mutant("sys.exit at import", "I201", "calls sys.exit(3)", face("import sys; sys.exit(3)")),
    Mutant("ends the process at import", "I201", "ends the process with status 7", face("import os; os._exit(7)")),
    Mutant("hangs at import", "I201", "does not finish within 4 s", face("import time; time.sleep(60)")),
    Mutant("wrong hook signature", "I201", "Argument(s) {'extra'} are declared", at(FACE, "txzoo_models()", "txzoo_models(extra)")),
    Mutant("unknown hook", "I201", "Unknown hook 'txzoo_model'. Did you mean 'txzoo_models'", at(FACE, "txzoo_models()", "txzoo_model()")),
    Mutant("unmet txzoo version", "I201", "needs txzoo<10,>=9", at(METADATA, ">=0.1,<1", ">=9,<10")),
    Mutant("hooks of a later version", "I201", "written for version 99 of the hooks", face("TXZOO_HOOKS = 99")),
    # what the kit alone names
    Mutant("heavy import", "I202", "imports torch", face("import torch")),
    Mutant("prints at import", "I203", "prints 'hello'", face("print('hello')")),
    Mutant("prints past Python", "I203", "prints 'hello'", face("import os; os.write(1, b'hello')")),
    Mutant("network at import", "I204", "socket.connect ('127.0.0.1', 9)", face("import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9))\nexcept OSError:\n    pass")),
    Mutant("a process at import", "I204", "subprocess.Popen", face("import subprocess; subprocess.run(['true'])")),
    Mutant("slow import", "I205", "at most 0.5 s", face("import time; time.sleep(0.7)")),
    Mutant("large import", "I206", "at most 32 MB", face("table = b'x' * 64_000_000")),
    Mutant("duplicate model name", "I208", "the model 'alibi-lm' is also in txzoo:zoo_alibi", squat),
    # architectures
    Mutant("the target is not there", "A301", "has no attribute 'Hallo'", at(FACE, "model:Hello", "model:Hallo")),
    Mutant("a config that is no dataclass", "A301", "must be @dataclass(frozen=True, kw_only=True)", at(MODEL, "@dataclass(frozen=True, kw_only=True)\nclass", "@dataclass(frozen=True)\nclass")),
    Mutant("a forward without cache", "A302", "forward(self, ids, cache=None)", at(MODEL, "def forward(self, ids, cache=None)", "def forward(self, ids, past=None, cache=None)")),
    Mutant("a config that needs what nobody knows", "A303", "needs a value for secret", at(MODEL, "    vocab_size: int\n", "    vocab_size: int\n    secret: int\n")),
    Mutant("no max_len", "A303", "has no attribute max_len", at(MODEL, "    max_len = None  # reads a text of any length\n", "")),
    Mutant("a config that takes any key", "A304", "takes a key that it does not have", at(MODEL, "\n\nclass Block", LAX + "\n\nclass Block")),
    Mutant("logits of the last token only", "A310", "must be (B, T, V)", at(MODEL, RETURN, RETURN.replace("\n", "[:, :1]\n"))),
    Mutant("non-deterministic eval", "A311", "other logits the second time", at(MODEL, RETURN, "        x = x + torch.randn_like(x)\n" + RETURN)),
    Mutant("a leaky causal mask", "A312", "another token 1 changes logits before it", at(MODEL, 'return bias.masked_fill(~mask, float("-inf"))', "return bias[None]")),
    Mutant("rows that look at each other", "A313", "other logits in a batch than alone", at(MODEL, RETURN, "        x = x - x.mean(0)\n" + RETURN)),
    Mutant("a cache that differs from the full forward", "A314", "through a cache give other logits", at(MODEL, "torch.arange(S - T, S)[:, None]", "torch.arange(T)[:, None]")),
    Mutant("tokens that are not counted", "A314", "the cache counts 0 of 12 tokens", at(MODEL, "            cache.advance(T)\n", "            pass\n")),
    Mutant("padding that changes results", "A315", "padding on the left", at(MODEL, "(cache.length + T, cache.padding)", "(cache.length + T, None)")),
    Mutant("padding remembered by row", "A316", "after cache.reorder(rows)", at(MODEL, "        S, padding = (T, None) if cache is None else (cache.length + T, cache.padding)\n", OWN_PADDING)),
    Mutant("a max_len that is not kept", "A317", "65 tokens are read though max_len is 64", at(MODEL, "max_len = None", "max_len = 64")),
    Mutant("weights from another source of chance", "A320", "differs between two modules made from one seed", at(MODEL, BUILT, BUILT + "        import random; self.bias.data.fill_(random.SystemRandom().random())\n")),
    Mutant("a parameter nobody uses", "A321", "no gradient reaches unused", at(MODEL, BUILT, BUILT + "        self.unused = nn.Parameter(torch.ones(3))\n")),
    Mutant("a module that does not learn", "A322", "80 steps take the loss", at(MODEL, RETURN, RETURN.replace("\n", " / 1000\n"))),
    Mutant("state that is not saved", "A330", "something is not in its state_dict", both(at(MODEL, BUILT, BUILT + "        self.scale = torch.rand(())\n"), at(MODEL, RETURN, RETURN.replace("\n", " * self.scale\n")))),
    Mutant("always float32", "A331", "in bfloat16 it gives logits of torch.float32", at(MODEL, RETURN, RETURN.replace("return ", "return 1.0 * ").replace("\n", ".float()\n").replace("self.norm(x)", "self.norm(x).float()"))),
    Mutant("attention maps of the future", "A332", "attends to what comes after", at(MODEL, "        x = x + self.out(attend", "        attend(q, k, v)\n        x = x + self.out(attend")),
    Mutant("another answer while it is watched", "A333", "with attention recorded", at(MODEL, RETURN, "        from torch.overrides import _get_current_function_mode_stack as modes\n        x = x.flip(-1) if modes() else x\n" + RETURN)),
    Mutant("converters promised, not given", "A350", "lacks the two converters", at(FACE, "summary=summary)", "summary=summary, model_types=('gpt2',))")),
    Mutant("converters that lose the weights", "A350", "comes back with other logits", at(MODEL, "    def distance_bias", CONVERTERS.lstrip("\n") + "\n    def distance_bias")),
    # tasks
    Mutant("no test split", "T401", "are not among the splits", task("    splits = ('train',)\n"), "task"),
    Mutant("a licence of data nobody knows", "T401", "is not an SPDX licence", at(FACE, "cc0-1.0", "mine"), "task"),
    Mutant("another tokenizer each time", "T402", "another tokenizer the second time", task(TOKENIZER), "task"),
    Mutant("unseeded batches", "T403", "differs between two runs of one seed", task(BATCHES), "task"),
    Mutant("a loss that is a sum", "T404", "the loss of a uniform predictor", task("    def loss(self, module, batch):\n        return 64 * super().loss(module, batch)\n"), "task"),
    Mutant("a metric that is not measured", "T405", "bleu is missing", at(FACE, '"accuracy", ', '"accuracy", "bleu", '), "task"),
    Mutant("a metric measured wrongly", "T406", "a uniform predictor over", task(EVALUATE), "task"),
    # models
    Mutant("bad card", "M501", "a card opens with front matter", where(CARD, "^---", "no card")),
    Mutant("a licence of weights nobody knows", "M502", "is not an SPDX licence", at(CARD, "license: mit", "license: mine")),
    Mutant("an architecture nobody has", "M502", "Unknown architecture 'hallo'", both(at(CARD, "architecture: hello", "architecture: hallo"), at(RECIPE, '"hello"', '"hallo"'))),
    Mutant("a recipe of another model", "M503", "its recipe", at(RECIPE, '"hello"', '"decoder"')),
    Mutant("a changed file", "M504", "its card says", after(CARD.replace("README.md", "config.json"), ""), trained=True),
    Mutant("weights with a missing tensor", "M505", "missing norm.weight", drop_a_tensor, trained=True),
    Mutant("wrong declared parameter count", "M506", "txzoo.parameters is 1, the module has", where(CARD, r"parameters: \d+", "parameters: 1"), trained=True),
    Mutant("scores without an error bar", "M507", "has no standard error", where(CARD, r"  standard_error:.*?\nmodel-index", "model-index"), trained=True),
    # pipelines and tunings
    Mutant("a pipeline that wants more than a model", "P601", "must be called with a model alone", at("zoo_hello/pipeline.py", "def __init__(self, model)", "def __init__(self, model, more)"), "pipeline"),
    Mutant("a tuning that returns nothing", "U701", "must return the adapted module", at("zoo_hello/tuning.py", "    return module\n", ""), "tuning"),
]  # fmt: skip
# checks that no mutant fails alone, and why
WITHOUT = {
    "I207": "there is no deprecated name yet: see test_loader.py",
    "A318": "an encoder's: see test_encoders.py",
    "A340": "what breaks streaming breaks the cache first",
    "M508": "what breaks writing breaks the architecture's checks first",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of zoo-hello, trained for a moment; filled by the first that needs it."""
    return tmp_path_factory.mktemp("trained") / "hello-tiny"


def give_weights(site: Path, trained: Path) -> None:
    """Train the planted plugin's model, once, and put it where it belongs."""
    folder = (site / CARD).parent
    if not trained.exists():
        torch.set_num_threads(1)
        zoo.train(folder / "recipe.toml", out=trained, steps=2)
    shutil.rmtree(folder)
    shutil.copytree(trained, folder)


def failed(report: Report) -> dict[str, str]:
    return {result.number: result.message for result in report.results if not result.ok}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault.replace(" ", "-"))
def test_each_fault_is_named_by_exactly_its_check(
    mutant: Mutant, plant: Plant, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "IMPORT_LIMIT", 4.0 if "hangs" in mutant.fault else 60.0)
    if mutant.check != "I205":  # of the others a busy machine may take its time
        monkeypatch.setattr(static, "FAST", 60.0)
    site = plant(kind=mutant.kind)
    if mutant.trained:
        give_weights(site, trained)
        registry.reset()
    mutant.spoil(site)
    report = check_plugin("zoo-hello", on_fail=None)
    found = failed(report)
    assert list(found) == [mutant.check], found
    assert mutant.says in found[mutant.check]
    assert "\n" not in found[mutant.check]
    if mutant.check == "I201" and "process" not in mutant.fault and "hangs" not in mutant.fault:
        registry.reset()
        [plugin] = [
            plugin for plugin in discover() if plugin.third_party and "hello" in plugin.name
        ]
        assert plugin.error == found["I201"]  # the loader says the same, and goes on


@pytest.mark.parametrize("kind", ["architecture", "task", "pipeline", "tuning"])
def test_the_unspoiled_plugin_passes(
    kind: str, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static, "FAST", 60.0)
    plant(kind=kind)
    report = check_plugin("zoo-hello")
    assert report.ok and report.count("passed") >= 11
    assert not report.count("not run")


def test_the_unspoiled_trained_plugin_passes(plant: Plant, trained: Path) -> None:
    give_weights(plant(), trained)
    report = check_plugin("zoo-hello")
    states = {r.number: r.outcome for r in report.results if r.number.startswith("M")}
    assert set(states.values()) == {"passed"} and len(states) == 8


def test_every_check_has_a_mutant_that_it_alone_names() -> None:
    named = {mutant.check for mutant in MUTANTS}
    assert named.isdisjoint(WITHOUT)
    assert named | set(WITHOUT) == {check.number for check in CHECKS}

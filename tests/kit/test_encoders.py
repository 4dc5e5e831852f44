"""The kit on architectures that are no decoders: what applies, and that faults are named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.testing import check_plugin

ENCODER = '''
"""A tiny encoder: each vector is the mean of all real ones, then a layer."""

from dataclasses import dataclass

import torch
from torch import nn
from zoo import Config
from zoo.errors import ContextLengthError


@dataclass(frozen=True, kw_only=True)
class HelloConfig(Config):
    vocab_size: int
    max_seq_len: int
    d_model: int = 8
    pad_id: int = 0


class Hello(nn.Module):
    config_class = HelloConfig

    def __init__(self, config):
        super().__init__()
        self.config, self.max_len = config, config.max_seq_len
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.out = nn.Linear(config.d_model, 3)

    def forward(self, ids, real=None):
        if ids.shape[1] > self.max_len:
            raise ContextLengthError("too long")
        real = (ids != self.config.pad_id).unsqueeze(-1)  # (B, T, 1)
        mean = (self.embedding(ids) * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return self.out(torch.tanh(self.embedding(ids) + mean))
'''


@pytest.mark.parametrize(
    ("old", "new", "number", "says"),
    [
        ("", "", None, ""),
        ("(ids != self.config.pad_id)", "(ids != -1)", "A318", "padding on the right changes"),
        ("+ mean)", ")", "A312", "it is not seen"),
        ("real=None", "real", "A302", "forward must do with ids alone"),
        ("real=None", "real=None, cache=None", "A302", "forward(self, ids, cache=None)"),
    ],
)
def test_an_encoder_and_what_can_be_wrong_with_it(
    plant: Callable[..., Path], old: str, new: str, number: str | None, says: str
) -> None:
    site = plant()
    assert old in ENCODER
    (site / "zoo_hello" / "model.py").write_text(ENCODER.replace(old, new, 1) if old else ENCODER)
    report = check_plugin("zoo-hello", on_fail=None, expected_failures={"M503": "a decoder's"})
    results = {r.number: r for r in report.results if r.number.startswith("A")}
    failed = [r.number for r in results.values() if not r.ok]
    assert failed == ([number] if number else [])
    if number:
        assert says in results[number].message
    else:
        assert {results[n].outcome for n in ("A314", "A315", "A316", "A340")} == {"not applicable"}
        assert {results[n].outcome for n in ("A312", "A318", "A322", "A330")} == {"passed"}


SEER = '''
"""A tiny reader of pictures: the mean of its patches, then a layer."""

from dataclasses import dataclass

import torch
from torch import nn
from zoo import Config


@dataclass(frozen=True, kw_only=True)
class HelloConfig(Config):
    image_size: int
    d_model: int = 8
    n_channels: int = 3
    labels: tuple = ("cat", "dog", "none")

    def __post_init__(self):
        object.__setattr__(self, "labels", tuple(self.labels))


class Hello(nn.Module):
    config_class = HelloConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(config.n_channels, config.d_model, 4, stride=4)
        self.out = nn.Linear(config.d_model, len(config.labels))

    def forward(self, pixels):
        patches = self.patches(pixels).flatten(2)
        return self.out(torch.tanh(patches).mean(2))
'''


@pytest.mark.parametrize(
    ("old", "new", "number", "says"),
    [
        ("", "", None, ""),
        ("pixels):", "pixels, labels):", "A302", "forward must do with pixels alone"),
        (".mean(2))", ".mean(2))[:, :2]", "A310", "logits must be (B, labels)"),
        ("= self.patches(pixels)", "= self.patches(pixels)[:, :, 1:]", "A312", "in a corner"),
        ("(patches)", "(patches + patches.mean(0))", "A313", "in a batch than alone"),
        ("(pixels).flat", "(pixels.mul_(2)).flat", "A310", "changes its input in place"),
    ],
)
def test_a_reader_of_pictures_and_what_can_be_wrong_with_it(
    plant: Callable[..., Path], old: str, new: str, number: str | None, says: str
) -> None:
    site = plant()
    assert old in SEER
    (site / "zoo_hello" / "model.py").write_text(SEER.replace(old, new, 1) if old else SEER)
    report = check_plugin("zoo-hello", on_fail=None, expected_failures={"M503": "a decoder's"})
    results = {r.number: r for r in report.results if r.number.startswith("A")}
    failed = [r.number for r in results.values() if not r.ok]
    assert failed[:1] == ([number] if number else [])
    if number:
        assert says in results[number].message
    else:
        other = ("A314", "A315", "A316", "A317", "A318", "A340")
        assert {results[n].outcome for n in other} == {"not applicable"}
        assert {results[n].outcome for n in ("A312", "A313", "A322", "A330")} == {"passed"}


WRITER = '''
"""A tiny encoder-decoder: one layer of attention to the target so far, one to the source."""

from dataclasses import dataclass

import torch
from torch import nn
from zoo import Config
from zoo.nn import EncoderDecoder, attend, attend_source


@dataclass(frozen=True, kw_only=True)
class HelloConfig(Config):
    vocab_size: int
    max_seq_len: int
    d_model: int = 8
    n_layers: int = 1
    n_heads: int = 1
    pad_id: int = 0
    start_id: int = 0
    end_id: int = 1


class Hello(EncoderDecoder):
    config_class = HelloConfig

    def __init__(self, config):
        super().__init__()
        self.config, self.max_len = config, config.max_seq_len
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.position = nn.Embedding(config.max_seq_len, config.d_model)
        self.key_value = nn.Linear(config.d_model, config.d_model)
        self.out = nn.Linear(config.d_model, config.vocab_size)

    def read(self, source, real):
        x, w = self.embedding(source), real.unsqueeze(-1)
        return torch.tanh(x + (x * w).sum(1, keepdim=True) / w.sum(1, keepdim=True))

    def write(self, ids, memory, real, cache):
        before = 0 if cache is None else cache.length
        x = self.embedding(ids) + self.position(torch.arange(ids.shape[1]) + before)
        q = k = v = self.heads(x)
        mask = None
        if cache is not None:
            k, v = cache.update(0, k, v)
            mask = cache.mask(ids.shape[1])
        x = x + attend(q, k, v, mask, causal=mask is None).transpose(1, 2).flatten(2)
        make = lambda: [self.heads(self.key_value(memory))] * 2
        k, v = make() if cache is None else cache.source(0, make)
        seen = None if real is None else real[:, None, None, :]
        x = x + attend_source(self.heads(x), k, v, seen).transpose(1, 2).flatten(2)
        return self.out(x)

    def heads(self, x):
        return x.unflatten(-1, (self.config.n_heads, -1)).transpose(1, 2)  # (R, H, T, E)
'''


@pytest.mark.parametrize(
    ("old", "new", "number", "says"),
    [
        ("", "", None, ""),
        ("x + (x * w).sum(1, keepdim=True) / w.sum(1, keepdim=True)", "x", "A312", "is not seen"),
        ("causal=mask is None", "causal=False", "A312", "changes logits before it"),
        (" + before)", ")", "A314", "through a cache give other logits"),
        ("real[:, None, None, :]", "None", "A318", "padding of a source changes"),
        ("max_len = config, config.max_seq_len", "max_len = config, 12**3", "A317", "out of range"),
    ],
)
def test_an_encoder_decoder_and_what_can_be_wrong_with_it(
    plant: Callable[..., Path], old: str, new: str, number: str | None, says: str
) -> None:
    site = plant()
    assert old in WRITER
    (site / "zoo_hello" / "model.py").write_text(WRITER.replace(old, new, 1) if old else WRITER)
    report = check_plugin("zoo-hello", on_fail=None, expected_failures={"M503": "a decoder's"})
    results = {r.number: r for r in report.results if r.number.startswith("A")}
    failed = [r.number for r in results.values() if not r.ok and r.outcome != "not run"]
    assert failed == ([number] if number else []), results
    if number:
        assert says in results[number].message
    else:
        # nobody gave it the transformers layout
        assert {r.outcome for n, r in results.items() if n != "A350"} == {"passed"}

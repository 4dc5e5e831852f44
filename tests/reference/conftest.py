"""What the reference tests share: tiny checkpoints, and how twins are held together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.export import export
from zoo.generation import GenerationOptions, generate
from zoo.model import Model
from zoo.nn import Cache

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

CLOSE = {"rtol": 1e-5, "atol": 2e-5}
LENGTHS = (11, 7, 1)  # of the rows in a padded batch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is a reference test."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.reference)


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def widen(module: nn.Module) -> nn.Module:
    """Random weights large enough that every part shows in the logits: biases and norms too."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.25)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


@pytest.fixture
def twins(tmp_path: Path) -> Callable[..., tuple[nn.Module, nn.Module]]:
    """From a config of `transformers`: a random checkpoint of it, and `zoo.load` of its folder."""

    def make(
        config: Any, kind: Any = transformers.AutoModelForCausalLM
    ) -> tuple[nn.Module, nn.Module]:
        theirs = widen(kind.from_config(config))
        folder = tmp_path / "theirs"
        theirs.save_pretrained(folder)
        model = zoo.load(str(folder))
        assert model.tokenizer is None
        return model.module, theirs

    return make


@pytest.fixture
def exported(tmp_path: Path) -> Callable[[nn.Module], nn.Module]:
    """A module of ours, exported and opened by `transformers`."""

    def make(module: nn.Module) -> nn.Module:
        model = Model(
            name="ours",
            module=module,
            config=module.config,
            tokenizer=None,
            pipeline="text-generation",
            card=None,
        )
        folder = export(model, tmp_path / "exported")
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "generation_config.json",
            "model.safetensors",
        ]
        opened, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True
        )
        assert not any(report.values()), report  # no tensor missing, left over or of another shape
        return opened.eval()

    return make


@pytest.fixture
def assert_twins() -> Callable[..., None]:
    """Hold a module of ours and one of theirs together: logits, padded batches, greedy tokens."""
    return _assert_twins


def _assert_twins(ours: nn.Module, theirs: nn.Module, *, positions: bool = True) -> None:
    """Logits of whole rows and of a left-padded batch, and greedy tokens, are equal.

    Args:
        ours: a decoder of ours.
        theirs: its twin.
        positions: whether the twin wants to be told the positions of padded rows.
    """
    V = ours.config.vocab_size
    ids = torch.randint(V, (len(LENGTHS), max(LENGTHS)))  # (B, T)
    with torch.no_grad():
        expected = theirs(ids).logits
        assert expected.std() > 0.5, "too tame to tell the two apart"
        torch.testing.assert_close(ours(ids), expected, **CLOSE)

        padding = torch.tensor([max(LENGTHS) - length for length in LENGTHS])
        real = torch.arange(max(LENGTHS)) >= padding[:, None]  # (B, T)
        told = {"position_ids": (real.cumsum(1) - 1).clamp(min=0)} if positions else {}
        expected = theirs(ids, attention_mask=real.long(), **told).logits
        cache = Cache.of(ours.config, len(LENGTHS), max(LENGTHS), padding=padding)
        torch.testing.assert_close(ours(ids, cache)[real], expected[real], **CLOSE)

        prompts = [row[keep].tolist() for row, keep in zip(ids, real, strict=True)]
        written = theirs.generate(
            ids,
            attention_mask=real.long(),
            generation_config=transformers.GenerationConfig(
                do_sample=False, max_new_tokens=9, eos_token_id=None, pad_token_id=0
            ),
        )
    options = GenerationOptions(max_new_tokens=9)
    assert generate(ours, prompts, options).ids == written[:, ids.shape[1] :].tolist()


@pytest.fixture
def wide() -> Callable[..., nn.Module]:
    """`zoo.create` with wide random weights."""

    def make(architecture: str, **config: Any) -> nn.Module:
        return widen(zoo.create(architecture, **config))

    return make


@pytest.fixture
def assert_same_tensors() -> Callable[[nn.Module, nn.Module], None]:
    """What `to_transformers` gives is, bit by bit, what the checkpoint held."""

    def check(ours: nn.Module, theirs: nn.Module) -> None:
        _, tensors = ours.to_transformers()
        state: dict[str, Tensor] = theirs.state_dict()
        if theirs.config.tie_word_embeddings:
            state.pop("lm_head.weight")
        assert tensors.keys() == state.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, state[name]), name

    return check

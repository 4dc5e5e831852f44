"""Ways of adapting on models of two stacks: both are adapted, and what cannot be is refused."""

import copy
from pathlib import Path

import pytest
import torch
from encoder_decoders import CLOSE, check_pieces, check_places
from models import as_model
from torch import Tensor, nn

import zoo
from zoo.errors import ConfigError, ContextLengthError
from zoo.generation import GenerationOptions, generate
from zoo.pipelines.text2text import Given
from zoo.tuning import adapt, share, trained
from zoo.tuning.bottleneck import Bottleneck
from zoo.tuning.files import write
from zoo.tuning.lora import LoraLinear
from zoo.tuning.prefix import record

SIZES = {"vocab_size": 29, "max_seq_len": 12, "d_model": 16, "n_heads": 2, "d_ff": 20}
MODULES = {
    "seq2seq": {"n_encoder_layers": 3, "n_layers": 2},
    "t5": {"n_encoder_layers": 2, "n_layers": 3, "d_head": 8, "tie_embeddings": True},
    "captioner": {"n_encoder_layers": 2, "n_layers": 2, "image_size": 16},
}
BLOCKS = {
    "seq2seq": {"encoder.0", "encoder.1", "encoder.2", "decoder.0", "decoder.1"},
    "t5": {"encoder.0", "encoder.1", "decoder.0", "decoder.1", "decoder.2"},
    "captioner": {"encoder.0", "encoder.1", "decoder.0", "decoder.1"},
}
PARTS = {"seq2seq": 3 * 2 + 2 * 3, "t5": 2 * 2 + 3 * 3, "captioner": 2 * 2 + 2 * 3}
EVERYWHERE = ["full", "gradual-unfreezing", "houlsby", "pfeiffer", "lora", "ia3", "bitfit"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


TEXTS = ("seq2seq", "t5")  # read texts and write texts
BEFORE = ("prefix-tuning", "prompt-tuning")


def module_of(architecture: str, **changes: object) -> nn.Module:
    """A small module, none of whose parameters is 0."""
    module = zoo.create(architecture, **{**SIZES, **MODULES[architecture], **changes})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def sources(architecture: str) -> Tensor:
    if architecture == "captioner":
        return torch.randn(3, 3, 16, 16)
    return torch.randint(3, 29, (3, 7))


def around(names: list[str]) -> set[str]:
    """The first two parts of names: `encoder.0` of `encoder.0.attention.qkv`."""
    return {".".join(name.split(".")[:2]) for name in names}


@pytest.mark.parametrize("architecture", MODULES)
@pytest.mark.parametrize("method", ["lora", "ia3", "houlsby", "pfeiffer"])
def test_each_block_of_both_stacks_is_adapted(method: str, architecture: str) -> None:
    assert around(list(trained(adapt(module_of(architecture), method)))) == BLOCKS[architecture]


@pytest.mark.parametrize("architecture", MODULES)
def test_lora_changes_every_matrix_of_the_blocks(architecture: str) -> None:
    adapted = adapt(module_of(architecture), "lora")
    for name, part in adapted.named_modules():
        if isinstance(part, nn.Linear) and ".lora_" not in name:
            inside = name.startswith(tuple(f"{block}." for block in BLOCKS[architecture]))
            assert isinstance(part, LoraLinear) == inside, name


@pytest.mark.parametrize("architecture", MODULES)
def test_bottlenecks_stand_after_both_attentions(architecture: str) -> None:
    """Two parts in a block that reads, three in one that writes; Pfeiffer's after the last."""
    for method, expected in (
        ("houlsby", PARTS[architecture]),
        ("pfeiffer", len(BLOCKS[architecture])),
    ):
        adapted = adapt(module_of(architecture), method)
        assert sum(isinstance(part, Bottleneck) for part in adapted.modules()) == expected


@pytest.mark.parametrize("architecture", MODULES)
@pytest.mark.parametrize("method", EVERYWHERE)
def test_a_step_changes_what_learns_and_nothing_else(method: str, architecture: str) -> None:
    adapted = adapt(module_of(architecture), method)
    if method == "gradual-unfreezing":
        adapted.set_progress(0.99)  # type: ignore[operator]
    learning = trained(adapted)
    start = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    optimizer = torch.optim.SGD(learning.values(), lr=0.1)
    source, ids = sources(architecture), torch.randint(3, 29, (3, 6))
    losses = []
    for _ in range(3):  # LoRA's A has no gradient while B is zero
        optimizer.zero_grad()
        logits = adapted(source, ids)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in adapted.named_parameters():
        assert (name not in learning) == torch.equal(parameter, start[name]), name


@pytest.mark.parametrize("architecture", MODULES)
def test_gradual_unfreezing_wakes_one_block_after_another(architecture: str) -> None:
    """The decoder from its end, then the encoder from its end."""
    adapted = adapt(module_of(architecture), "gradual-unfreezing")
    counts = len([n for n in BLOCKS[architecture] if n.startswith("encoder")])
    order = [f"decoder.{n}" for n in reversed(range(len(BLOCKS[architecture]) - counts))]
    order += [f"encoder.{n}" for n in reversed(range(counts))]
    seen: list[set[str]] = [set()]
    for number in range(100):
        adapted.set_progress(number / 100)  # type: ignore[operator]
        if (awake := around(list(trained(adapted))) & BLOCKS[architecture]) != seen[-1]:
            seen.append(awake)
    assert seen == [set(order[:number]) for number in range(len(order) + 1)]


@pytest.mark.parametrize(
    ("method", "architecture"),
    [("linear-probe", name) for name in MODULES] + [(method, "captioner") for method in BEFORE],
)
def test_what_has_no_place_is_refused_by_name(method: str, architecture: str) -> None:
    kind = {"seq2seq": "Seq2Seq", "t5": "T5", "captioner": "Captioner"}[architecture]
    with pytest.raises(ConfigError, match=rf"{kind}.*use lora, ia3, houlsby"):
        adapt(module_of(architecture), method)


def test_a_probe_of_an_output_of_its_own_is_that_output() -> None:
    module = zoo.create("t5", **{**SIZES, **MODULES["t5"], "tie_embeddings": False})
    assert list(trained(adapt(module, "linear-probe"))) == ["head.weight"]


def padded() -> tuple[Tensor, Tensor]:
    """Sources of 7, 4 and 1 tokens, padded on the right, and targets that begin with start_id."""
    source, ids = torch.randint(3, 29, (3, 7)), torch.randint(3, 29, (3, 6))
    ids[:, 0] = 0
    return source.where(torch.arange(7) < torch.tensor([[7], [4], [1]]), 0), ids


def adapted_of(architecture: str, method: str, **changes: object) -> nn.Module:
    """A module with three virtual tokens that are not what they began as."""
    adapted = adapt(module_of(architecture, **changes), method, num_virtual_tokens=3)
    with torch.no_grad():
        adapted.prompt_embeddings.add_(0.3 * torch.randn_like(adapted.prompt_embeddings))
    return adapted


@pytest.mark.parametrize("architecture", TEXTS)
@torch.no_grad()
def test_a_prompt_is_read_like_words_of_the_source(architecture: str) -> None:
    module, words = module_of(architecture), torch.tensor([7, 4, 12])
    source, ids = padded()
    adapted = adapt(share(module), "prompt-tuning", num_virtual_tokens=3)
    adapted.prompt_embeddings.copy_(module.embedding.weight[words])
    whole = torch.cat([words.expand(3, -1), source], 1)
    torch.testing.assert_close(adapted(source, ids), module(whole, ids), **CLOSE)
    torch.testing.assert_close(adapted.encode(source), module.encode(whole), **CLOSE)
    real = source != 0
    told = adapted(source, ids, torch.ones_like(real))  # padding that counts as text
    assert not torch.allclose(told, module(whole, ids), atol=1e-2)


@pytest.mark.parametrize("architecture", TEXTS)
@torch.no_grad()
def test_a_prefix_is_read_like_words_where_nothing_has_a_position(architecture: str) -> None:
    """One layer a stack: the prefix of each attention is keys and values of three vectors."""
    module = module_of(architecture, n_layers=1, n_encoder_layers=1)
    tables = [module.positions.table] if architecture == "seq2seq" else []
    tables += [p for name, p in module.named_parameters() if name.endswith("_bias.weight")]
    for table in tables:
        table.zero_()
    assert tables
    words = torch.tensor([[7, 4, 12]])
    source, ids = padded()
    adapted = adapt(share(module), "prefix-tuning", num_virtual_tokens=3)
    parts = [part[0] for pair in record(module, words) for part in pair]  # (H, P, E) each
    assert len(parts) == 6
    adapted.prompt_embeddings.copy_(
        torch.cat([part.transpose(0, 1).flatten(1) for part in parts], 1)
    )
    three = words.expand(3, -1)
    real = torch.cat([torch.ones_like(three), source], 1) != 0
    # of the source, words before it and their vectors in the memory of the words alone
    memory = module.encode(torch.cat([three, source], 1), real)
    memory[:, :3] = module.encode(words)
    expected = module.decode(torch.cat([three, ids], 1), memory, real)[:, 3:]
    torch.testing.assert_close(adapted(source, ids), expected, **CLOSE)


@pytest.mark.parametrize("method", BEFORE)
@pytest.mark.parametrize("architecture", TEXTS)
def test_what_stands_before_a_text_learns_alone(architecture: str, method: str) -> None:
    adapted = adapt(module_of(architecture), method, num_virtual_tokens=3)
    learning, (source, ids) = trained(adapted), padded()
    assert list(learning) == ["prompt_embeddings"]
    start = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    optimizer = torch.optim.Adam(learning.values(), lr=0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        logits = adapted(source, ids)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in adapted.named_parameters():
        changed = (parameter != start[name]).any()
        assert changed == (name == "prompt_embeddings"), name
    rows = adapted.prompt_embeddings - start["prompt_embeddings"]
    assert (rows != 0).all()  # every number takes part


@pytest.mark.parametrize("method", BEFORE)
@pytest.mark.parametrize("architecture", TEXTS)
def test_adapted_it_writes_with_a_cache_as_without(architecture: str, method: str) -> None:
    adapted = adapted_of(architecture, method)
    source, ids = padded()
    check_pieces(adapted, source, ids, [1, 2, 3])
    check_places(adapted, source, (3, 29))
    rows = [[5, 9, 3, 8, 1], [4, 1], [6, 7, 1]]
    for beams in (1, 3):
        options = GenerationOptions(max_new_tokens=6, num_beams=beams)
        together = Given(adapted, rows)
        found = generate(together, together.prompts, options).ids
        for cached in (True, False):
            alone = [Given(adapted, [row]) for row in rows]
            assert found == [
                generate(each, each.prompts, options, use_cache=cached).ids[0] for each in alone
            ]
    torch.testing.assert_close(copy.deepcopy(adapted)(source, ids), adapted(source, ids))


def test_only_a_prompt_takes_up_positions() -> None:
    source = torch.randint(3, 29, (1, 12))
    prompted, prefixed = (adapted_of("seq2seq", method) for method in reversed(BEFORE))
    assert prompted.max_len == prompted.config.max_seq_len == 9
    assert prefixed.max_len == prefixed.config.max_seq_len == 12
    assert prompted(source[:, :9], source[:, :9]).shape == (1, 9, 29)
    assert prefixed(source, source).shape == (1, 12, 29)
    with pytest.raises(ContextLengthError, match="10 tokens with its end.* 9 positions"):
        prompted.encode(source[:, :10])
    assert adapted_of("t5", "prompt-tuning").max_len is None


@pytest.mark.parametrize("method", BEFORE)
@pytest.mark.parametrize("architecture", TEXTS)
@torch.no_grad()
def test_adapters_of_one_base_are_saved_loaded_and_switched(
    architecture: str, method: str, tmp_path: Path
) -> None:
    base, expected = module_of(architecture), {}
    source, ids = padded()
    model = as_model(base, pipeline="text2text-generation")
    for name in ("one", "two"):
        adapted = adapt(share(base), method, num_virtual_tokens=3)
        adapted.prompt_embeddings.normal_()
        expected[name] = adapted(source, ids)
        (tmp_path / name).mkdir()
        options = {"num_virtual_tokens": 3}
        write(tmp_path / name, adapted, method, options, list(trained(adapted)), base="it")
        model.load_adapter(tmp_path / name, name)
    low = adapt(share(base), "lora", rank=2)
    (tmp_path / "low").mkdir()
    write(tmp_path / "low", low, "lora", {"rank": 2}, list(trained(low)), base="it")
    model.load_adapter(tmp_path / "low", "low")
    assert not torch.allclose(expected["one"], expected["two"], atol=1e-2)
    for name in ("one", "two", "one"):
        assert torch.equal(model.set_adapter(name).module(source, ids), expected[name])
    for plain in ("low", None):  # this LoRA changes nothing yet
        torch.testing.assert_close(
            model.set_adapter(plain).module(source, ids), base(source, ids), **CLOSE
        )

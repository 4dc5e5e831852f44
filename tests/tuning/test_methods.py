"""Every way of adapting, on every architecture: what learns, what stays, what it costs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zoo
from zoo.errors import ConfigError, UnknownNameError
from zoo.generation import GenerationOptions, generate
from zoo.nn import record_attention
from zoo.registry import registry
from zoo.tuning import adapt, merge, share, trained

SIZES = {"vocab_size": 29, "max_seq_len": 24, "d_model": 16, "n_layers": 2, "n_heads": 4}
ARCHITECTURES = {
    "decoder": {"d_ff": 20},
    "alibi-decoder": {"d_ff": 20},
    "relative-decoder": {"d_ff": 20},
    "rope-decoder": {"d_ff": 20, "n_kv_heads": 2},
}
METHODS = [name for name in registry().tunings.names() if name not in ("full",)]
CAUSAL = ("prefix-tuning", "prompt-tuning")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def module_of(architecture: str, **changes: object) -> nn.Module:
    """A small module whose biases and norms are not at their start."""
    module = zoo.create(architecture, **{**SIZES, **ARCHITECTURES[architecture], **changes})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def test_the_core_brings_these() -> None:
    assert set(METHODS) | {"full"} == {
        *("full", "linear-probe", "gradual-unfreezing", "houlsby", "pfeiffer", "lora", "ia3"),
        *("prefix-tuning", "prompt-tuning", "bitfit"),
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", [*METHODS, "full"])
def test_a_step_changes_what_learns_and_nothing_else(method: str, architecture: str) -> None:
    module = module_of(architecture)
    base = {name: p.detach().clone() for name, p in module.named_parameters()}
    adapted = adapt(module, method)
    ids = torch.randint(29, (3, 7))
    learning = trained(adapted)
    optimizer = torch.optim.SGD(learning.values(), lr=0.1)
    start = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    for _ in range(2):  # LoRA's A has no gradient while B is zero
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(adapted(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        optimizer.step()
    for name, parameter in adapted.named_parameters():
        assert (name not in learning) == torch.equal(parameter, start[name]), name
        if name in base and name not in learning:
            assert torch.equal(parameter, base[name]), name
    assert loss.isfinite()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", ["lora", "ia3", "bitfit", "linear-probe", "gradual-unfreezing"])
def test_it_starts_as_the_trained_model(method: str, architecture: str) -> None:
    module = module_of(architecture)
    ids = torch.randint(29, (3, 7))
    before = module(ids)
    torch.testing.assert_close(adapt(module, method)(ids), before)


@pytest.mark.parametrize("method", ["lora", "ia3", "bitfit", "linear-probe"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_it_is_a_plain_model_that_computes_the_same(method: str, architecture: str) -> None:
    module = module_of(architecture)
    names = set(module.state_dict())
    adapted = adapt(module, method)
    with torch.no_grad():
        for parameter in trained(adapted).values():
            parameter.add_(0.3 * torch.randn_like(parameter))
    ids = torch.randint(29, (3, 7))
    expected = adapted(ids)
    merged = merge(adapted)
    torch.testing.assert_close(merged(ids), expected, rtol=1e-4, atol=1e-4)
    added = {name for name in merged.state_dict() if name not in names}
    assert not any(word in name for name in added for word in ("lora", "ia3")), added
    assert {type(part) for part in merged.modules() if isinstance(part, nn.Linear)} == {nn.Linear}


@pytest.mark.parametrize("method", ["houlsby", "pfeiffer", *CAUSAL])
def test_what_no_weight_can_hold_is_not_merged(method: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be merged|no weight can hold"):
        merge(adapt(module_of("decoder"), method))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_generation_with_a_cache_is_as_without(method: str, architecture: str) -> None:
    """Prompts of several lengths, so that the batch is padded on the left."""
    adapted = adapt(module_of(architecture), method, **small(method))
    with torch.no_grad():
        for parameter in trained(adapted).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    prompts = [[3, 1, 4, 1, 5], [9, 2], [6]]
    options = GenerationOptions(max_new_tokens=6)
    cached = generate(adapted, prompts, options)
    whole = generate(adapted, prompts, options, use_cache=False)
    alone = [generate(adapted, [prompt], options).ids[0] for prompt in prompts]
    assert cached.ids == whole.ids == alone
    beams = GenerationOptions(max_new_tokens=4, num_beams=3)
    assert (
        generate(adapted, prompts, beams).ids
        == generate(adapted, prompts, beams, use_cache=False).ids
    )


def small(method: str) -> dict[str, object]:
    return {"num_virtual_tokens": 3} if method in CAUSAL else {}


def test_lora_of_rank_2_trains_456_of_12800_weights() -> None:
    layer = nn.Sequential(nn.Linear(128, 100, bias=False))
    assert sum(p.numel() for p in layer.parameters()) == 12_800
    adapted = adapt(layer, "lora", rank=2)
    assert sum(p.numel() for p in trained(adapted).values()) == 456
    assert 1 - 456 / 12_800 == pytest.approx(0.964, abs=5e-4)


def test_lora_is_the_equation() -> None:
    layer = nn.Linear(6, 4)
    weight, bias, x = layer.weight.detach().clone(), layer.bias.detach().clone(), torch.randn(5, 6)
    adapted = adapt(nn.Sequential(layer), "lora", rank=2, alpha=3)
    a, b = torch.randn(2, 6), torch.randn(4, 2)
    with torch.no_grad():
        layer.lora_A.weight.copy_(a)
        layer.lora_B.weight.copy_(b)
    torch.testing.assert_close(adapted(x), x @ (weight + 1.5 * b @ a).T + bias)


def test_target_modules_by_ending_and_by_full_name() -> None:
    adapted = adapt(
        module_of("decoder"), "lora", target_modules=["qkv", "blocks.1.feed_forward.up"]
    )
    assert {name.rsplit(".lora", 1)[0] for name in trained(adapted)} == {
        "blocks.0.attention.qkv",
        "blocks.1.attention.qkv",
        "blocks.1.feed_forward.up",
    }


def test_ia3_takes_keys_values_and_hidden_units() -> None:
    factors = {name: p.shape for name, p in trained(adapt(module_of("decoder"), "ia3")).items()}
    assert factors == {
        "blocks.0.attention.qkv.ia3_l": (48, 1),
        "blocks.0.feed_forward.down.ia3_l": (1, 20),
        "blocks.1.attention.qkv.ia3_l": (48, 1),
        "blocks.1.feed_forward.down.ia3_l": (1, 20),
    }


def test_bottlenecks_stand_where_the_papers_put_them() -> None:
    def places(method: str) -> set[str]:
        names = trained(adapt(module_of("decoder"), method, size=3))
        return {name.rsplit(".adapter", 1)[0] for name in names}

    ends = {"blocks.0.feed_forward", "blocks.1.feed_forward"}
    assert places("pfeiffer") == ends
    assert places("houlsby") == ends | {"blocks.0.attention", "blocks.1.attention"}


def test_a_feed_forward_part_without_a_module_of_its_own_gets_one_adapter() -> None:
    sizes = {**SIZES, "d_ff": 20, "head": "masked-language"}
    names = trained(adapt(zoo.create("encoder", **sizes), "houlsby", size=3))
    assert {name.rsplit(".adapter", 1)[0] for name in names} == {
        *("blocks.0.attention", "blocks.0.down", "blocks.1.attention", "blocks.1.down")
    }


def test_gradual_unfreezing_goes_from_the_output_to_the_input() -> None:
    module = adapt(module_of("decoder"), "gradual-unfreezing")

    def awake(share: float) -> set[str]:
        module.set_progress(share)
        return {name.split(".layer")[0].rsplit(".", 2)[0] for name in trained(module)}

    def tops(share: float) -> set[str]:
        module.set_progress(share)
        return {
            ".".join(name.split(".")[: 2 if "blocks" in name else 1]) for name in trained(module)
        }

    assert tops(0.0) == {"norm"}
    assert tops(0.25) == {"norm", "blocks.1"}
    assert tops(0.5) == {"norm", "blocks.1", "blocks.0"}
    assert tops(0.99) == {"norm", "blocks.1", "blocks.0", "token_embedding", "positions"}
    assert awake(0.99)


def test_bitfit_gives_a_model_without_biases_some() -> None:
    module = module_of("rope-decoder")
    assert not any(name.endswith("bias") for name, _ in module.named_parameters())
    learning = trained(adapt(module, "bitfit"))
    assert len(learning) == 2 * 5
    assert all(name.endswith("bias") for name in learning)


def test_a_prompt_is_read_like_words() -> None:
    """A prompt of the embeddings of three words is those words before the text."""
    module = module_of("alibi-decoder")
    words, ids = torch.tensor([[7, 0, 12]]), torch.randint(29, (1, 6))
    expected = module(torch.cat([words, ids], 1))[:, 3:]
    for method in CAUSAL:
        adapted = adapt(share(module), method, num_virtual_tokens=3)
        numbers = {"prompt-tuning": module.token_embedding.weight[words[0]]}
        if method == "prefix-tuning":
            from zoo.tuning.prefix import record

            pairs = record(module, words)
            flat = torch.stack([part[0] for pair in pairs for part in pair])
            numbers[method] = flat.permute(2, 0, 1, 3).flatten(1)
        with torch.no_grad():
            adapted.prompt_embeddings.copy_(numbers[method])
        torch.testing.assert_close(adapted(ids), expected)


def test_positions_that_end_leave_less_room() -> None:
    adapted = adapt(module_of("decoder"), "prompt-tuning", num_virtual_tokens=5)
    assert adapted.max_len == adapted.config.max_seq_len == 19
    assert adapted(torch.zeros(1, 19, dtype=torch.long)).shape == (1, 19, 29)


def test_shared_modules_take_no_memory_and_do_not_meet() -> None:
    module = module_of("decoder")
    ids = torch.randint(29, (2, 5))
    before = module(ids)
    first, second = (adapt(share(module), "lora", rank=2) for _ in range(2))
    with torch.no_grad():
        for part in (first, second):
            for parameter in trained(part).values():
                parameter.add_(torch.randn_like(parameter))
    assert first.blocks[0].attention.qkv.weight.data_ptr() == (
        module.blocks[0].attention.qkv.weight.data_ptr()
    )
    assert torch.equal(module(ids), before)
    assert not torch.allclose(first(ids), second(ids))


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("lora", {"rank": 0}, "LoRA rank must be a whole number of at least 1, got 0"),
        ("lora", {"rank": 2.5}, "at least 1, got 2.5"),
        ("lora", {"alpha": 0}, "alpha must be a number above 0, got 0"),
        ("lora", {"alpha": float("nan")}, "alpha must be a number above 0, got nan"),
        ("lora", {"dropout": 1.0}, "from 0 to below 1, got 1.0"),
        ("lora", {"rnk": 2}, r"no option rnk=2. Did you mean 'rank'\? Options: rank, alpha"),
        ("full", {"rank": 2}, "The tuning full has no option rank=2. Options: none"),
        ("lora", {"target_modules": ["qk"]}, r"no linear layer 'qk'. Did you mean 'qkv'"),
        ("ia3", {"target_modules": ["upp"]}, "In full: blocks.0.attention.qkv, blocks.0.att"),
        ("lora", {"target_modules": []}, "has no linear layer, so nothing to adapt"),
        ("houlsby", {"size": 0}, "adapter size must be a whole number"),
        ("prefix-tuning", {"num_virtual_tokens": 24}, "leaves no room: this model reads 24"),
        ("prompt-tuning", {"num_virtual_tokens": 0}, "at least 1, got 0"),
    ],
)
def test_bad_options_say_what_and_the_way_out(method: str, options: dict, words: str) -> None:
    module = module_of("decoder")
    with pytest.raises(ConfigError, match=words) as caught:
        adapt(module, method, **options)
    assert "\n" not in str(caught.value)


def test_an_unknown_method() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'lora'"):
        adapt(module_of("decoder"), "lara")


def test_nothing_to_train() -> None:
    with pytest.raises(ConfigError, match="has no linear layer, so nothing to adapt"):
        adapt(nn.Sequential(nn.Embedding(3, 3)), "lora")
    with pytest.raises(ConfigError, match="full leaves nothing to train in Tanh"):
        adapt(nn.Tanh(), "full")


ENCODERS = ("encoder", "alibi-encoder")


def encoder(architecture: str, head: str, **changes: object) -> nn.Module:
    sizes = {**SIZES, "d_ff": 20, "head": head, "pooling": "mean", **changes}
    labels = ("a", "b", "c") if head.endswith("classification") else ()
    return zoo.create(architecture, **sizes, labels=labels).eval()


@pytest.mark.parametrize("head", ["classification", "token-classification", "masked-language"])
@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder_reads_a_prompt_like_words(architecture: str, head: str) -> None:
    module = encoder(architecture, head)
    words, ids = torch.tensor([[7, 4, 12]]), torch.randint(1, 29, (2, 6))
    real = torch.arange(6) < torch.tensor([[6], [2]])
    whole = torch.cat([words.expand(2, -1), ids], 1)
    expected = module(whole, torch.cat([torch.ones(2, 3, dtype=torch.bool), real], 1))
    adapted = adapt(share(module), "prompt-tuning", num_virtual_tokens=3)
    with torch.no_grad():
        adapted.prompt_embeddings.copy_(module.token_embedding.weight[words[0]])
    each = head != "classification"
    torch.testing.assert_close(adapted(ids, real), expected[:, 3:] if each else expected)
    torch.testing.assert_close(module(whole)[:1], expected[:1])  # the base reads no prompt
    if head == "masked-language":
        where = torch.zeros(2, 6, dtype=torch.bool)
        where[0, 4] = where[1, 1] = True
        torch.testing.assert_close(adapted(ids, real, where=where), expected[:, 3:][where])


@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder_reads_a_prefix_like_words_far_from_its_own(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer, whose keys and values at the first positions are those of three words."""
    module = encoder(architecture, "token-classification", n_layers=1)
    words, ids = torch.tensor([[7, 4, 12]]), torch.randint(1, 29, (2, 6))
    adapted = adapt(share(module), "prefix-tuning", num_virtual_tokens=3)
    from zoo.tuning.prefix import record

    pairs = record(module, words)
    flat = torch.stack([part[0] for pair in pairs for part in pair])
    with torch.no_grad():
        adapted.prompt_embeddings.copy_(flat.permute(2, 0, 1, 3).flatten(1))
    if module.position_embedding is not None:  # the words stand at 0 to 2, and the text too
        places = module.position_embedding.weight.data
        places.copy_(torch.cat([places[:3], places[:-3]]))
    if architecture == "alibi-encoder":  # every head sees the words, from no distance
        own, apart = module.mask, torch.zeros(2, module.config.n_heads, 9, 3)
        monkeypatch.setattr(
            module,
            "mask",
            lambda real: torch.cat([apart, F.pad(own(real[:, 3:]), (0, 0, 3, 0))], 3),
        )
    expected = module(torch.cat([words.expand(2, -1), ids], 1))[:, 3:]
    monkeypatch.undo()
    assert adapted.config.max_seq_len == module.config.max_seq_len  # a prefix has no positions
    if module.position_embedding is not None:
        places.copy_(torch.cat([places[3:], places[-3:]]))
    torch.testing.assert_close(adapted(ids), expected)


@pytest.mark.parametrize("method", CAUSAL)
@pytest.mark.parametrize("architecture", ENCODERS)
def test_what_stands_before_an_encoders_text_learns_alone(architecture: str, method: str) -> None:
    module = encoder(architecture, "classification")
    base = {name: p.detach().clone() for name, p in module.named_parameters()}
    adapted = adapt(module, method, num_virtual_tokens=4, fresh=["head"])
    assert set(trained(adapted)) == {"prompt_embeddings", "head.weight", "head.bias"}
    ids, targets = torch.randint(1, 29, (8, 7)), torch.arange(8) % 3
    optimizer = torch.optim.Adam(trained(adapted).values(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(adapted(ids), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for name, before in base.items():
        assert torch.equal(adapted.get_parameter(name), before) == (name not in trained(adapted))


@pytest.mark.parametrize("method", CAUSAL)
def test_a_call_that_fails_leaves_nothing_behind(method: str) -> None:
    adapted = adapt(encoder("encoder", "classification"), method, num_virtual_tokens=4)
    ids = torch.randint(1, 29, (2, 5))
    before = adapted(ids)
    with pytest.raises(RuntimeError, match="size|shape|broadcast"):
        adapted(ids, torch.ones(2, 9, dtype=torch.bool))
    torch.testing.assert_close(adapted(ids), before)
    plain = encoder("encoder", "classification")
    q = torch.randn(1, 4, 5, 4)
    with record_attention() as weights:
        plain(ids)
        nn.functional.scaled_dot_product_attention(q, q, q)
    assert {w.shape[-1] for w in weights} == {5}  # no prefix is read by what comes after


def test_a_prompt_beside_an_argument_that_it_does_not_know_is_refused() -> None:
    class Odd(type(encoder("encoder", "classification"))):  # type: ignore[misc]
        def forward(self, ids: torch.Tensor, real: object = None, ages: object = None) -> object:
            return super().forward(ids, real)

    module = encoder("encoder", "classification")
    module.__class__ = Odd
    adapted = adapt(module, "prompt-tuning", num_virtual_tokens=2)
    ids = torch.randint(1, 29, (2, 5))
    assert adapted(ids).shape == (2, 3)
    with pytest.raises(ConfigError, match="knows no ages of a prompt: Odd may be given ids, real"):
        adapted(ids, ages=torch.zeros(2, 5))


@pytest.mark.parametrize("method", CAUSAL)
def test_a_module_that_reads_no_text_in_a_known_way_is_told_what_works(method: str) -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.words(ids).mean(1)

    with pytest.raises(ConfigError, match="Bag is called neither as.*use lora, ia3"):
        adapt(Bag(), method)

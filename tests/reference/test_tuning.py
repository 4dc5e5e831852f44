"""LoRA, (IA)3, prefix and prompt tuning against PEFT: outputs, gradients and files.

PEFT adapts the checkpoint of `transformers`, we adapt our own module of the same weights; and PEFT
adapts our module, which to it is any module with linear layers.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import as_model
from torch import Tensor, nn

import zoo
from zoo.errors import ConfigError, WeightsError
from zoo.generation import GenerationOptions, generate
from zoo.pipelines.text2text import Given
from zoo.tuning import adapt, share, trained
from zoo.tuning.files import write

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
peft = pytest.importorskip("peft", reason="needs txzoo[hf]")

# PEFT 0.21 asks transformers 5.23 by a name that goes away in its version 6
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
GPT2 = {"vocab_size": 53, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 31}
LLAMA = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 31,
}
PLACES = {  # ours, and what transformers calls the same matrix
    "gpt2": {
        "blocks.0.attention.qkv": "transformer.h.0.attn.c_attn",
        "blocks.1.feed_forward.down": "transformer.h.1.mlp.c_proj",
        "blocks.1.attention.out": "transformer.h.1.attn.c_proj",
    },
    "llama": {
        "blocks.0.attention.out": "model.layers.0.self_attn.o_proj",
        "blocks.1.feed_forward.gate": "model.layers.1.mlp.gate_proj",
        "blocks.1.feed_forward.down": "model.layers.1.mlp.down_proj",
    },
}


@pytest.fixture(params=["gpt2", "llama"])
def pair(request: pytest.FixtureRequest, twins: Any) -> tuple[str, nn.Module, nn.Module]:
    return request.param, *twins(config_of(request.param))


def config_of(kind: str) -> Any:
    if kind == "gpt2":
        return transformers.GPT2Config(**GPT2, bos_token_id=None, eos_token_id=None)
    return transformers.LlamaConfig(**LLAMA, bos_token_id=None, eos_token_id=None)


def assert_same(ours: nn.Module, theirs: nn.Module, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Logits are equal, and the gradients of each pair of parameters."""
    ids = torch.randint(53, (3, 9))
    logits, expected = ours(ids), theirs(input_ids=ids).logits
    torch.testing.assert_close(logits, expected, **CLOSE)
    weight = torch.randn_like(logits)
    (logits * weight).sum().backward()
    (expected * weight).sum().backward()
    assert pairs
    for mine, other in pairs:
        assert mine.grad is not None
        assert mine.grad.abs().max() > 1e-3
        torch.testing.assert_close(mine.grad, other.grad.view_as(mine.grad), rtol=1e-3, atol=2e-4)


def test_lora_is_pefts(pair: tuple[str, nn.Module, nn.Module]) -> None:
    kind, ours, theirs = pair
    places = PLACES[kind]
    config = peft.LoraConfig(
        r=3,
        lora_alpha=7,
        target_modules=list(places.values()),
        init_lora_weights=False,
        fan_in_fan_out=kind == "gpt2",
    )
    theirs = peft.get_peft_model(theirs, config).eval()
    ours = adapt(ours, "lora", rank=3, alpha=7, target_modules=list(places)).eval()
    pairs = []
    for mine, other in places.items():
        layer = theirs.get_submodule(f"base_model.model.{other}")
        for part in ("lora_A", "lora_B"):
            source = getattr(layer, part)["default"].weight
            target = ours.get_parameter(f"{mine}.{part}.weight")
            target.data.copy_(source)
            pairs.append((target, source))
    assert_same(ours, theirs, pairs)


def test_ia3_is_pefts(pair: tuple[str, nn.Module, nn.Module]) -> None:
    kind, ours, theirs = pair
    places = PLACES[kind]
    inputs = [name for name in places if name.endswith("down")]
    config = peft.IA3Config(
        target_modules=list(places.values()),
        feedforward_modules=[places[name] for name in inputs],
        fan_in_fan_out=kind == "gpt2",
    )
    theirs = peft.get_peft_model(theirs, config).eval()
    ours = adapt(ours, "ia3", target_modules=list(places), feedforward_modules=inputs).eval()
    pairs = []
    for mine, other in places.items():
        source = theirs.get_submodule(f"base_model.model.{other}").ia3_l["default"]
        source.data.add_(0.5 * torch.randn_like(source))
        target = ours.get_parameter(f"{mine}.ia3_l")
        assert target.shape == source.shape
        target.data.copy_(source)
        pairs.append((target, source))
    assert_same(ours, theirs, pairs)


def test_prompt_tuning_is_pefts(pair: tuple[str, nn.Module, nn.Module]) -> None:
    _, ours, theirs = pair
    config = peft.PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(theirs, config).eval()
    ours = adapt(ours, "prompt-tuning", num_virtual_tokens=5).eval()
    source = theirs.prompt_encoder["default"].embedding.weight
    ours.prompt_embeddings.data.copy_(source)
    cut = Cut(theirs, 5)  # PEFT gives logits of the prompt too
    assert_same(ours, cut, [(ours.prompt_embeddings, source)])


class Cut(nn.Module):
    """Without the logits of what stands before the text."""

    def __init__(self, model: nn.Module, length: int) -> None:
        super().__init__()
        self.model, self.length = model, length

    def forward(self, input_ids: Tensor) -> Any:
        result = self.model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
        result.logits = result.logits[:, self.length :]
        return result


def test_prefix_tuning_is_pefts(twins: Any) -> None:
    ours, theirs = twins(config_of("gpt2"))
    config = peft.PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")
    theirs = peft.get_peft_model(theirs, config).eval()
    ours = adapt(ours, "prefix-tuning", num_virtual_tokens=5).eval()
    source = theirs.prompt_encoder["default"].embedding.weight
    assert ours.prompt_embeddings.shape == source.shape
    ours.prompt_embeddings.data.copy_(source)
    assert_same(ours, Cut(theirs, 0), [(ours.prompt_embeddings, source)])


BERT = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 31,
}


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_what_stands_before_an_encoders_text_is_pefts(method: str, twins: Any) -> None:
    kind = transformers.AutoModelForSequenceClassification
    ours, theirs = twins(transformers.BertConfig(**BERT), kind)
    if method == "prefix-tuning":  # PEFT's text begins at position 5
        places = theirs.get_parameter("bert.embeddings.position_embeddings.weight")
        ours.position_embedding.weight.data.copy_(places.data.roll(-5, 0))
    of_peft = peft.PrefixTuningConfig if method == "prefix-tuning" else peft.PromptTuningConfig
    options = of_peft(num_virtual_tokens=5, task_type="SEQ_CLS")
    theirs = peft.get_peft_model(theirs, options).eval()
    ours = adapt(ours, method, num_virtual_tokens=5).eval()
    source = theirs.prompt_encoder["default"].embedding.weight
    assert ours.prompt_embeddings.shape == source.shape
    source.data.copy_(torch.randn_like(source))
    ours.prompt_embeddings.data.copy_(source)
    ids = torch.randint(1, 53, (3, 9))
    real = torch.arange(9) < torch.tensor([[9], [4], [1]])
    logits = ours(ids, real)
    expected = theirs(input_ids=ids, attention_mask=real.long()).logits
    torch.testing.assert_close(logits, expected, **CLOSE)
    weight = torch.randn_like(logits)
    (logits * weight).sum().backward()
    (expected * weight).sum().backward()
    assert ours.prompt_embeddings.grad.abs().max() > 1e-3
    torch.testing.assert_close(ours.prompt_embeddings.grad, source.grad, rtol=1e-3, atol=2e-5)


def fresh(kind: str = "decoder") -> nn.Module:
    torch.manual_seed(3)
    sizes = {"vocab_size": 53, "max_seq_len": 20, "d_model": 16, "n_layers": 2, "n_heads": 2}
    return zoo.create(kind, **sizes, d_ff=24).eval()


def random_adapter(method: str, kind: str, **options: Any) -> nn.Module:
    module = adapt(fresh(kind), method, **options).eval()
    for parameter in trained(module).values():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize(("method", "options"), [("lora", {"rank": 2, "alpha": 5}), ("ia3", {})])
def test_our_files_load_in_peft(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    """On our module, where `transformers` has no such model."""
    kind = "relative-decoder"
    ours = random_adapter(method, kind, **options)
    write(tmp_path, ours, method, options, list(trained(ours)), base="somewhere")
    theirs = peft.PeftModel.from_pretrained(fresh(kind), tmp_path).eval()
    ids = torch.randint(53, (2, 7))
    with torch.no_grad():
        expected = ours(ids)
        assert not torch.allclose(expected, fresh(kind)(ids), atol=1e-2)
        torch.testing.assert_close(theirs(ids), expected, **CLOSE)


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_our_prompts_load_in_peft(method: str, twins: Any, tmp_path: Path) -> None:
    ours, theirs = twins(config_of("gpt2"))
    ours = adapt(ours, method, num_virtual_tokens=4).eval()
    folder = tmp_path / "adapter"
    folder.mkdir()
    write(folder, ours, method, {}, list(trained(ours)), base="somewhere")
    theirs = peft.PeftModel.from_pretrained(theirs, folder).eval()
    ids = torch.randint(53, (2, 7))
    with torch.no_grad():
        cut = Cut(theirs, 4 if method == "prompt-tuning" else 0)
        torch.testing.assert_close(ours(ids), cut(input_ids=ids).logits, **CLOSE)


def test_an_encoders_prompt_loads_in_peft(twins: Any, tmp_path: Path) -> None:
    kind = transformers.AutoModelForSequenceClassification
    ours, theirs = twins(transformers.BertConfig(**BERT), kind)
    ours = adapt(ours, "prompt-tuning", num_virtual_tokens=4).eval()
    write(tmp_path, ours, "prompt-tuning", {}, list(trained(ours)), base="somewhere")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    ids = torch.randint(1, 53, (3, 7))
    real = torch.arange(7) < torch.tensor([[7], [4], [1]])
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=real.long()).logits
        torch.testing.assert_close(ours(ids, real), expected, **CLOSE)


@pytest.mark.parametrize("kind", ["encoder", "llama"])
def test_a_prefix_that_peft_would_read_otherwise_is_refused_there_and_read_here(
    kind: str, twins: Any, tmp_path: Path
) -> None:
    if kind == "encoder":
        head = transformers.AutoModelForSequenceClassification
        base, theirs = twins(transformers.BertConfig(**BERT), head)
    else:
        base, theirs = twins(config_of("llama"))
    ours = adapt(share(base), "prefix-tuning", num_virtual_tokens=4).eval()
    ours.prompt_embeddings.data.normal_()
    options = {"num_virtual_tokens": 4}
    write(tmp_path, ours, "prefix-tuning", options, list(trained(ours)), base="somewhere")
    with pytest.raises((KeyError, ValueError), match="TXZOO"):
        peft.PeftModel.from_pretrained(theirs, tmp_path)
    ids = torch.randint(1, 53, (2, 7))
    again = as_model(base).load_adapter(tmp_path).module
    with torch.no_grad():
        torch.testing.assert_close(again(ids), ours(ids), rtol=0, atol=0)
        assert not torch.allclose(again(ids), base(ids), atol=1e-2)


@pytest.mark.parametrize(
    "config",
    [
        peft.LoraConfig(r=3, lora_alpha=4, target_modules=["qkv", "down"], init_lora_weights=False),
        peft.LoraConfig(target_modules=r"blocks\.1\..*\.(up|out)", init_lora_weights=False),
        peft.IA3Config(
            target_modules=["qkv", "down"], feedforward_modules=["down"], init_ia3_weights=False
        ),
    ],
    ids=["lora", "lora-pattern", "ia3"],
)
def test_pefts_files_load_here(config: Any, tmp_path: Path) -> None:
    base = fresh()
    theirs = peft.get_peft_model(copy.deepcopy(base), config).eval()
    theirs.save_pretrained(tmp_path)
    model = as_model(base).load_adapter(tmp_path, "theirs")
    ids = torch.randint(53, (2, 7))
    with torch.no_grad():
        expected = theirs(ids)
        torch.testing.assert_close(model.module(ids), expected, **CLOSE)
        torch.testing.assert_close(model.merge().module(ids), expected, **CLOSE)
        assert not torch.allclose(model.set_adapter(None).module(ids), expected, atol=1e-2)


def test_a_prefix_of_peft_for_rotated_keys_is_refused(twins: Any, tmp_path: Path) -> None:
    ours, theirs = twins(config_of("llama"))
    config = peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    peft.get_peft_model(theirs, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="another order of coordinates"):
        as_model(ours).load_adapter(tmp_path / "adapter")


def test_a_prefix_of_peft_for_an_encoder_is_refused(twins: Any, tmp_path: Path) -> None:
    kind = transformers.AutoModelForSequenceClassification
    ours, theirs = twins(transformers.BertConfig(**BERT), kind)
    config = peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="SEQ_CLS")
    peft.get_peft_model(theirs, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="moves its text up by as many positions"):
        as_model(ours).load_adapter(tmp_path / "adapter")


@pytest.mark.parametrize("config_class", [peft.PrefixTuningConfig, peft.PromptTuningConfig])
def test_pefts_prompts_load_here(config_class: Any, twins: Any, tmp_path: Path) -> None:
    ours, theirs = twins(config_of("gpt2"))
    theirs = peft.get_peft_model(
        theirs, config_class(num_virtual_tokens=4, task_type="CAUSAL_LM")
    ).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    model = as_model(ours).load_adapter(tmp_path / "adapter")
    ids = torch.randint(53, (2, 7))
    with torch.no_grad():
        cut = Cut(theirs, 4 if config_class is peft.PromptTuningConfig else 0)
        torch.testing.assert_close(model.module(ids), cut(input_ids=ids).logits, **CLOSE)


T5 = {
    "vocab_size": 53,
    "d_model": 24,
    "d_kv": 5,
    "d_ff": 36,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "feed_forward_proj": "gated-gelu",
    "decoder_start_token_id": 0,
    "dropout_rate": 0.0,
}
BART = {
    "vocab_size": 53,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 36,
    "decoder_ffn_dim": 36,
    "max_position_embeddings": 31,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
    "decoder_start_token_id": 2,
    "dropout": 0.0,
}
PAIRS = {  # bases that read a source and write a target
    "t5": ("T5Config", T5),
    "bart": ("BartConfig", BART),
    "mbart": ("MBartConfig", {**BART, "scale_embedding": True}),
    "pegasus": ("PegasusConfig", BART),
    "umt5": ("UMT5Config", T5),
}
MARIAN = {**BART, "scale_embedding": True, "decoder_start_token_id": 0}


def text_to_text(kind: str, sizes: dict[str, Any], twins: Any) -> tuple[nn.Module, nn.Module]:
    config = getattr(transformers, kind)(**sizes)
    ours, theirs = twins(config, transformers.AutoModelForSeq2SeqLM)
    return ours, theirs


def texts() -> dict[str, Tensor]:
    """Sources of 9, 4 and 1 tokens, padded on the right, and targets, as PEFT calls them."""
    real = torch.arange(9) < torch.tensor([[9], [4], [1]])
    return {
        "input_ids": torch.randint(3, 53, (3, 9)).where(real, 0),
        "attention_mask": real.long(),
        "decoder_input_ids": torch.randint(3, 53, (3, 6)),
    }


def read_by(ours: nn.Module, given: dict[str, Tensor]) -> Tensor:
    logits: Tensor = ours(given["input_ids"], given["decoder_input_ids"])
    return logits


@pytest.mark.parametrize("submodules", [1, 2])
@pytest.mark.parametrize("kind", PAIRS)
def test_a_prompt_before_a_source_is_pefts(
    kind: str, submodules: int, twins: Any, tmp_path: Path
) -> None:
    """PEFT's files for two texts hold rows for the target too, which it does not read."""
    base, theirs = text_to_text(*PAIRS[kind], twins)
    config = peft.PromptTuningConfig(
        num_virtual_tokens=5, task_type="SEQ_2_SEQ_LM", num_transformer_submodules=submodules
    )
    theirs = peft.get_peft_model(theirs, config).eval()
    source = theirs.prompt_encoder["default"].embedding.weight
    assert len(source) == 5 * submodules
    source.data.normal_()
    ours = adapt(share(base), "prompt-tuning", num_virtual_tokens=5).eval()
    ours.prompt_embeddings.data.copy_(source[:5])
    given = texts()
    logits, expected = read_by(ours, given), theirs(**given).logits
    assert not torch.allclose(logits, read_by(base, given), atol=1e-2)
    torch.testing.assert_close(logits, expected, **CLOSE)
    weight = torch.randn_like(logits)
    (logits * weight).sum().backward()
    (expected * weight).sum().backward()
    assert ours.prompt_embeddings.grad.abs().max() > 1e-3
    torch.testing.assert_close(ours.prompt_embeddings.grad, source.grad[:5], rtol=1e-3, atol=2e-4)
    theirs.save_pretrained(tmp_path / "adapter")
    again = as_model(base).load_adapter(tmp_path / "adapter").module
    torch.testing.assert_close(read_by(again, given), expected, **CLOSE)


@pytest.mark.parametrize("kind", PAIRS)
def test_our_prompt_before_a_source_loads_in_peft(kind: str, twins: Any, tmp_path: Path) -> None:
    base, theirs = text_to_text(*PAIRS[kind], twins)
    ours = adapt(base, "prompt-tuning", num_virtual_tokens=4).eval()
    folder = tmp_path / "adapter"
    folder.mkdir()
    write(folder, ours, "prompt-tuning", {}, list(trained(ours)), base="somewhere")
    theirs = peft.PeftModel.from_pretrained(theirs, folder).eval()
    given = texts()
    theirs.get_base_model().generation_config.eos_token_id = None
    with torch.no_grad():
        torch.testing.assert_close(read_by(ours, given), theirs(**given).logits, **CLOSE)
        written = theirs.generate(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            generation_config=transformers.GenerationConfig(
                do_sample=False,
                max_new_tokens=7,
                eos_token_id=None,
                pad_token_id=0,
                decoder_start_token_id=ours.config.start_id,
            ),
        )
    sources = [row[row != 0].tolist() for row in given["input_ids"]]
    asked = Given(ours, sources)
    found = generate(asked, asked.prompts, GenerationOptions(max_new_tokens=7)).ids
    assert found == written[:, 1:].tolist()


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_what_peft_would_read_otherwise_before_a_source_is_refused_there_and_here(
    method: str, twins: Any, tmp_path: Path
) -> None:
    """A prefix of any such base, and a prompt where the embeddings have a factor."""
    prefix = method == "prefix-tuning"
    kind, sizes = ("T5Config", T5) if prefix else ("MarianConfig", MARIAN)
    base, theirs = text_to_text(kind, sizes, twins)
    ours = adapt(share(base), method, num_virtual_tokens=4).eval()
    ours.prompt_embeddings.data.normal_()
    given, options = texts(), {"num_virtual_tokens": 4}
    write(tmp_path, ours, method, options, list(trained(ours)), base="somewhere")
    with pytest.raises((KeyError, ValueError), match="TXZOO"):
        peft.PeftModel.from_pretrained(theirs, tmp_path)
    again = as_model(base).load_adapter(tmp_path).module
    with torch.no_grad():
        assert torch.equal(read_by(again, given), read_by(ours, given))
    of_peft = peft.PrefixTuningConfig if prefix else peft.PromptTuningConfig
    config = of_peft(num_virtual_tokens=4, task_type="SEQ_2_SEQ_LM")
    theirs = peft.get_peft_model(theirs, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    words = "for the target's to itself alone" if prefix else "leaves it away before a source"
    with pytest.raises(ConfigError, match=words):
        as_model(base).load_adapter(tmp_path / "theirs")


def test_a_marian_prompt_is_read_as_transformers_reads_scaled_vectors(
    twins: Any, tmp_path: Path
) -> None:
    """What PEFT leaves away, done by hand: every vector of the source times sqrt(D)."""
    ours, _ = text_to_text("MarianConfig", MARIAN, twins)
    kind = transformers.AutoModelForSeq2SeqLM
    theirs = kind.from_pretrained(tmp_path / "theirs").eval()  # whose positions are sinusoids again
    ours = adapt(ours, "prompt-tuning", num_virtual_tokens=4).eval()
    prompt = ours.prompt_embeddings.data.normal_()
    given = texts()
    words = torch.cat(
        [prompt.expand(3, -1, -1), theirs.get_input_embeddings()(given["input_ids"])], 1
    )
    real = torch.cat([torch.ones(3, 4, dtype=torch.long), given["attention_mask"]], 1)
    with torch.no_grad():
        expected = theirs(
            inputs_embeds=words * 24**0.5,
            attention_mask=real,
            decoder_input_ids=given["decoder_input_ids"],
        ).logits
        torch.testing.assert_close(read_by(ours, given), expected, **CLOSE)


@pytest.mark.parametrize("length", ["4", True, 0, 6])
def test_a_length_that_a_prompt_does_not_have_is_refused(
    length: object, twins: Any, tmp_path: Path
) -> None:
    ours = adapt(fresh(), "prompt-tuning", num_virtual_tokens=5)
    write(tmp_path, ours, "prompt-tuning", {}, list(trained(ours)), base="somewhere")
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_virtual_tokens": length}))
    with pytest.raises(WeightsError, match=r"num_virtual_tokens=.*prompt_embeddings has 5 rows"):
        as_model(fresh()).load_adapter(tmp_path)


@pytest.mark.parametrize("sizes", [BART, {**BART, "encoder_attention_heads": 3}])
def test_a_prefix_in_every_attention_is_keys_and_values_before_its_own(
    sizes: dict[str, Any], twins: Any
) -> None:
    """Against `transformers`, whose attention is given more keys and values than it computed."""
    ours, theirs = text_to_text("BartConfig", sizes, twins)
    ours = adapt(ours, "prefix-tuning", num_virtual_tokens=4).eval()
    numbers = ours.prompt_embeddings.data.normal_()
    layers = list(numbers.view(4, 14, 24).unbind(1))  # 3 encoder layers, 2 x 2 in the decoder

    def longer(part: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **kw: Any) -> Any:
        heads = q.shape[1]
        key, value = (layers.pop(0).view(4, heads, -1).transpose(0, 1) for _ in range(2))
        k, v = (
            torch.cat([key.expand(3, -1, -1, -1), k], 2),
            torch.cat([value.expand(3, -1, -1, -1), v], 2),
        )
        scores = (q @ k.transpose(2, 3)) * kw["scaling"]
        if mask is not None:
            scores[..., 4:] += mask
        return (scores.softmax(-1) @ v).transpose(1, 2), None

    transformers.AttentionInterface.register("longer", longer)
    transformers.AttentionMaskInterface.register("longer", transformers.masking_utils.eager_mask)
    theirs.set_attn_implementation("longer")
    given = texts()
    with torch.no_grad():
        expected = theirs(**given, use_cache=False).logits
        assert not layers
        torch.testing.assert_close(read_by(ours, given), expected, **CLOSE)

"""Encoder-decoders of the Hub behind our pipelines, against `transformers` itself."""

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_decoders import (
    answers_of,
    attention_of,
    check_pieces,
    check_places,
    logits_of,
    opened,
    pairs,
    word_tokenizer,
)
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, processors
from torch import Tensor, nn

import zoo
from zoo.errors import (
    ConfigError,
    ContextLengthError,
    FolderError,
    InputError,
    MissingExtraError,
    WeightsError,
)
from zoo.nn import SourceCache, record_attention
from zoo.nn.loss import IGNORED
from zoo.tasks.pair_file import PairFile
from zoo.tuning import adapt, share, trained

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

WORDS = ["<s>", "<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
V, PAD, END = len(WORDS), 1, 2
LENGTH = 14
CLOSE = {"rtol": 0, "atol": 1e-5}
TOKENS = {"vocab_size": V, "pad_token_id": PAD, "eos_token_id": END}
BARTS = {  # no two sizes alike
    **TOKENS,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 28,
    "max_position_embeddings": LENGTH,
    "decoder_start_token_id": END,
}
T5S = {
    **TOKENS,
    "d_model": 15,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 5,
    "d_kv": 4,
    "d_ff": 22,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": PAD,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # as the classes are called, and sizes
    "bart": ("Bart", BARTS),
    "mbart": ("MBart", {**BARTS, "scale_embedding": True}),
    "pegasus": ("Pegasus", {**BARTS, "decoder_start_token_id": PAD}),
    "m2m_100": ("M2M100", BARTS),
    "mt5": ("MT5", T5S),
    "umt5": ("UMT5", T5S),
}
BY_CONFIG: dict[str, tuple[str, dict[str, Any]]] = {
    "marian": ("Marian", {**BARTS, "decoder_start_token_id": PAD}),
    "t5": ("T5", T5S),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def theirs_of(kind: str, **changes: Any) -> Any:
    """A random checkpoint, its weights large enough that every part shows."""
    name, sizes = {**KINDS, **BY_CONFIG}[kind]
    config = getattr(transformers, f"{name}Config")(**{**sizes, **changes})
    end = "MTModel" if kind == "marian" else "ForConditionalGeneration"
    module = getattr(transformers, name + end)(config)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:  # sinusoids have none
                parameter.add_(0.2 * torch.randn_like(parameter))
        if "final_logits_bias" in module.state_dict():
            module.final_logits_bias.normal_()
    return module.eval()


def tokenizer() -> Tokenizer:
    """One letter, one token; a text ends with </s>."""
    return word_tokenizer(WORDS, 4, "<unk>", "</s>")


def saved(folder: Path, kind: str, **changes: Any) -> Any:
    """A checkpoint in a folder, with a tokenizer."""
    theirs = theirs_of(kind, **changes)
    theirs.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return theirs


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def change_weights(folder: Path, **changes: Tensor | None) -> None:
    path = folder / "model.safetensors"
    tensors = {k: v for k, v in {**load_file(path), **changes}.items() if v is not None}
    save_file(tensors, path, metadata={"format": "pt"})


def batch(start: int = END) -> tuple[Tensor, Tensor, Tensor]:
    """Sources of 11, 7 and 2 tokens, padded on the right; which are real; targets of 9."""
    return pairs((11, 7, 2), 9, tokens=(4, V), pad=PAD, start=start)


def expected_of(theirs: nn.Module, source: Tensor, real: Tensor, ids: Tensor) -> Tensor:
    return logits_of(theirs, source, ids, real)


def first_of(theirs: Any) -> Any:
    """The embeddings that transformers shares."""
    return theirs.get_input_embeddings().weight


@every_kind
@torch.no_grad()
def test_it_is_what_transformers_computes(kind: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind)
    model = zoo.load(tmp_path)
    assert (model.card.architecture, model.pipeline) == ("hf-seq2seq", "text2text-generation")
    c = model.config
    assert (c.vocab_size, c.pad_id, c.end_id, c.first_id) == (V, PAD, END, None)
    assert c.start_id == KINDS[kind][1]["decoder_start_token_id"]
    sizes = (15, 2, 5, 4, 22) if "t5" in kind else (24, 2, 3, 8, 28)
    assert (c.d_model, c.n_layers, c.n_heads, c.d_head, c.d_ff) == sizes
    source, real, ids = batch(c.start_id)
    expected = expected_of(theirs, source, real, ids)
    assert expected.std() > 0.1, "too tame to tell two apart"
    torch.testing.assert_close(model.module(source, ids), expected, **CLOSE)
    unlike = real.clone()
    unlike[0, 3:5] = False  # what is real need not be told by pad_id
    expected = expected_of(theirs, source, unlike, ids)
    torch.testing.assert_close(model.module(source, ids, unlike), expected, **CLOSE)
    assert (expected - model.module(source, ids)).abs().max() > 1e-3


@every_kind
@torch.inference_mode()
def test_several_targets_share_a_source_and_go_on_from_a_cache(kind: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind)
    module = zoo.load(tmp_path).module
    source, real, ids = batch(module.config.start_id)
    rows = torch.stack([ids, ids.flip(0)], dim=1).flatten(0, 1)  # (6, T), two to a source
    rows[:, 0] = module.config.start_id
    twice = source.repeat_interleave(2, 0), real.repeat_interleave(2, 0)
    expected = expected_of(theirs, *twice, rows)
    memory = module.encode(source, real)
    torch.testing.assert_close(module.decode(rows, memory, real), expected, **CLOSE)
    cache = SourceCache.of(module.config, 6, 9, like=memory)
    pieces = [module.decode(rows[:, a:b], memory, real, cache) for a, b in ((0, 3), (3, 4))]
    torch.testing.assert_close(torch.cat(pieces, 1), expected[:, :4], **CLOSE)
    # the first source has ended, the rows of the others change places
    order = torch.tensor([3, 2, 5, 5])
    cache.reorder(order)
    rows = torch.cat([rows[order, :4], rows[2:, 4:]], dim=1)
    expected = expected_of(theirs, twice[0][2:], twice[1][2:], rows)
    pieces = [module.decode(rows[:, a:b], memory[1:], real[1:], cache) for a, b in ((4, 5), (5, 9))]
    torch.testing.assert_close(torch.cat(pieces, 1), expected[:, 4:], **CLOSE)
    torch.testing.assert_close(
        module.decode(rows[:1], memory[:1], None), module.decode(rows[:1], memory[:1], real[:1])
    )


TEXTS = ["a b c d e f g h i j", "q", "t h e", "z z y"]


def saved_lively(folder: Path, kind: str) -> Any:
    """A checkpoint whose answers differ by source: a tied output repeats the last token."""
    torch.manual_seed(1)  # of seeds 0 to 2 the one by which none writes the same for all texts
    theirs = saved(folder, kind)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.dim() > 1 and parameter.requires_grad and "shared" not in name:
                parameter.mul_(3 if "encoder_attn" in name or "EncDecAttention" in name else 2)
        if "final_logits_bias" in theirs.state_dict():
            theirs.final_logits_bias.zero_()
    theirs.lm_head.weight = nn.Parameter(torch.randn_like(theirs.lm_head.weight))
    theirs.save_pretrained(folder)
    change_weights(folder, **{"lm_head.weight": theirs.lm_head.weight.detach()})
    return theirs


def written(theirs: Any, **options: Any) -> list[str]:
    return answers_of(theirs, tokenizer(), TEXTS, **options)


@every_kind
def test_it_writes_what_transformers_writes(kind: str, tmp_path: Path) -> None:
    theirs = saved_lively(tmp_path, kind)
    model = zoo.load(tmp_path)
    for beams in (1, 4):
        expected = written(theirs, num_beams=beams)
        assert len(set(expected)) > 2
        assert model(TEXTS, max_new_tokens=10, num_beams=beams) == expected
    greedy = written(theirs, num_beams=1)[0]
    assert "".join(model(TEXTS[0], max_new_tokens=10, stream=True)) == greedy


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("<s>", "<pad>", "a", "</s>"), r"\[3\]"),  # another order: the end is another token
        (("a", "b", "c", "d"), "no token"),  # texts that nothing ends
    ],
)
def test_a_tokenizer_of_another_model_is_refused(
    words: tuple[str, ...], found: str, tmp_path: Path
) -> None:
    saved(tmp_path, "bart")
    other = word_tokenizer(words, 0, words[0], words[-1])
    if "</s>" not in words:
        other.post_processor = processors.TemplateProcessing("$A", special_tokens=[])
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        FolderError, match=rf"the end of a text by token {END}, it marks an empty text with {found}"
    ):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("tag", "pipeline"),
    [
        ("summarization", "summarization"),
        ("translation", "translation"),
        ("text-classification", "text2text-generation"),  # which it cannot do
        ("[summarization]", "text2text-generation"),
    ],
)
def test_its_card_says_how_it_is_called(tag: str, pipeline: str, tmp_path: Path) -> None:
    saved(tmp_path, "bart")
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\npipeline_tag: {tag}\n---\nA BART.\n")
    model = zoo.load(tmp_path)
    assert model.pipeline == model.card.pipeline == pipeline  # type: ignore[union-attr]
    assert isinstance(model("a b c", max_new_tokens=3), str)
    if pipeline == "summarization":  # which takes no text apart: its sentences mean little alone
        with pytest.raises(ContextLengthError, match="16 tokens in one piece"):
            model("a b. " + " c" * 13)


def test_something_must_begin_a_target(tmp_path: Path) -> None:
    saved(tmp_path, "bart")
    change_config(tmp_path, decoder_start_token_id=None)
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(ConfigError, match="nothing begins a target"):
        zoo.load(tmp_path)


def test_the_first_token_is_read_where_newer_checkpoints_say_it(tmp_path: Path) -> None:
    theirs = saved_lively(tmp_path, "bart")
    theirs.generation_config.forced_bos_token_id = WORDS.index("k")
    theirs.generation_config.save_pretrained(tmp_path)
    assert "forced_bos_token_id" not in json.loads((tmp_path / "config.json").read_text())
    model = zoo.load(tmp_path)
    expected = written(theirs, num_beams=4)
    assert all(text.startswith("k") for text in expected) and len(set(expected)) > 2
    assert model(TEXTS, max_new_tokens=10, num_beams=4) == expected


def test_the_first_token_may_be_given(tmp_path: Path) -> None:
    theirs = saved_lively(tmp_path, "m2m_100")
    free = zoo.load(tmp_path)
    change_config(tmp_path, forced_bos_token_id=WORDS.index("k"))
    model = zoo.load(tmp_path)
    for beams in (1, 4):
        expected = written(theirs, num_beams=beams, forced_bos_token_id=WORDS.index("k"))
        assert all(text.startswith("k") for text in expected) and len(set(expected)) > 2
        assert model(TEXTS, max_new_tokens=10, num_beams=beams) == expected
    source, _, ids = batch()
    assert torch.equal(model.module(source, ids), free.module(source, ids))
    again = zoo.load(model.save_pretrained(tmp_path / "ours"))
    assert again.config.first_id == WORDS.index("k")


@pytest.mark.parametrize("kind", ["m2m_100", "pegasus", "mt5"])
@torch.no_grad()
def test_as_a_folder_of_ours_it_loads_again(kind: str, tmp_path: Path) -> None:
    saved(tmp_path / "theirs", kind)
    model = zoo.load(tmp_path / "theirs")
    again = zoo.load(model.save_pretrained(tmp_path / "ours"))
    assert again.config == model.config
    source, real, ids = batch()
    assert torch.equal(again.module(source, ids, real), model.module(source, ids, real))


@pytest.mark.parametrize("kind", ["bart", "pegasus", "mt5", *BY_CONFIG])
@torch.no_grad()
def test_a_recipe_makes_one_and_transformers_opens_it(kind: str, tmp_path: Path) -> None:
    name, sizes = {**KINDS, **BY_CONFIG}[kind]
    table = {k: v for k, v in sizes.items() if k not in (*TOKENS, "decoder_start_token_id")}
    module = zoo.create(
        "hf-seq2seq",
        vocab_size=V,
        max_seq_len=LENGTH,
        pad_id=PAD,
        start_id=PAD,
        end_id=END,
        transformers={"model_type": kind, **table},
    ).eval()
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.add_(0.2 * torch.randn_like(parameter))
    theirs = opened(module, tmp_path)
    source, real, ids = batch(PAD)
    expected = expected_of(theirs, source, real, ids)
    torch.testing.assert_close(module(source, ids, real), expected, **CLOSE)


# Checkpoints as they are found on the Hub


def test_a_body_alone_and_what_is_no_weight(tmp_path: Path) -> None:
    """BART itself was saved without its output; tables of sines and a bias of 0 may be absent."""
    theirs = theirs_of("bart")
    theirs.final_logits_bias.zero_()
    theirs.model.save_pretrained(tmp_path / "bart")
    source, real, ids = batch()
    found = zoo.load(tmp_path / "bart").module(source, ids, real)
    torch.testing.assert_close(found, expected_of(theirs, source, real, ids), **CLOSE)

    theirs = saved(tmp_path / "pegasus", "pegasus")
    theirs.final_logits_bias.zero_()
    absent = [f"model.{half}.embed_positions.weight" for half in ("encoder", "decoder")]
    change_weights(tmp_path / "pegasus", **dict.fromkeys([*absent, "final_logits_bias"]))
    found = zoo.load(tmp_path / "pegasus").module(source, ids, real)
    torch.testing.assert_close(found, expected_of(theirs, source, real, ids), **CLOSE)


@pytest.mark.parametrize("kind", ["mt5", "mbart"])
def test_an_output_of_its_own(kind: str, tmp_path: Path) -> None:
    """As mT5 of the Hub has it, whatever the config of transformers says."""
    theirs = saved(tmp_path, kind)
    theirs.lm_head.weight = nn.Parameter(torch.randn_like(theirs.lm_head.weight))
    change_weights(tmp_path, **{"lm_head.weight": theirs.lm_head.weight.detach()})
    model = zoo.load(tmp_path)
    assert not model.config.tie_output
    source, real, ids = batch()
    expected = expected_of(theirs, source, real, ids)
    torch.testing.assert_close(model.module(source, ids, real), expected, **CLOSE)
    again = zoo.load(model.save_pretrained(tmp_path / "ours")).module
    torch.testing.assert_close(again(source, ids, real), expected, **CLOSE)


def test_second_names_of_the_embeddings(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "bart")
    shared, second = first_of(theirs).detach(), "model.encoder.embed_tokens.weight"
    change_weights(tmp_path, **{"model.shared.weight": None, second: shared})
    source, real, ids = batch()
    expected = expected_of(theirs, source, real, ids)
    torch.testing.assert_close(zoo.load(tmp_path).module(source, ids, real), expected, **CLOSE)
    change_weights(tmp_path, **{"model.shared.weight": shared + 1})
    with pytest.raises(WeightsError, match=f"{second} and model.shared.weight must be the same"):
        zoo.load(tmp_path)


def test_positions_end_or_go_on(tmp_path: Path) -> None:
    saved(tmp_path / "bart", "bart")
    module = zoo.load(tmp_path / "bart").module
    assert module.max_len == LENGTH
    longest = torch.full((1, LENGTH), 9)
    assert module(longest, longest).isfinite().all()
    with pytest.raises(ContextLengthError, match="source has 15 tokens .* has 14 positions"):
        module.encode(torch.full((1, LENGTH + 1), 9))
    memory = module.encode(longest)
    with pytest.raises(ContextLengthError, match="target has 15 tokens .* has 14 positions"):
        module.decode(torch.full((1, LENGTH + 1), 9), memory, None)
    cache = SourceCache.of(module.config, 1, 20, like=memory)
    module.decode(longest, memory, None, cache)
    with pytest.raises(ContextLengthError, match="target has 15 tokens"):
        module.decode(longest[:, :1], memory, None, cache)
    with pytest.raises(InputError, match="begin together"):
        padding = torch.tensor([1])
        cache = SourceCache.of(module.config, 1, 20, like=memory, padding=padding)
        module.decode(longest, memory, None, cache)

    theirs = saved(tmp_path / "mt5", "mt5")
    module = zoo.load(tmp_path / "mt5").module
    assert module.max_len is None
    longer = torch.randint(4, V, (2, 40))
    expected = expected_of(theirs, longer, longer != PAD, longer)
    torch.testing.assert_close(module(longer, longer), expected, **CLOSE)


# What does not fit, and who means harm


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BartForCausalLM"]}, "BartForCausalLM is not read; read are BartFor"),
        ({"architectures": ["BartForSequenceClassification"]}, "SequenceClassification is not"),
        ({"quantization_config": {"quant_method": "x"}}, "quantized"),
        ({"eos_token_id": [2, 3]}, r"end_id must be a token, 0 to 29, got \[2, 3\]"),
        ({"eos_token_id": PAD}, "an end is no padding"),
        ({"pad_token_id": 99}, "pad_id must be a token, 0 to 29, got 99"),
        ({"forced_bos_token_id": -1}, "first_id must be a token"),
        ({"activation_function": "no-such-thing"}, "no-such-thing"),
        ({"decoder_attention_heads": 5}, "5"),
        ({"decoder_layers": 10**5}, "decoder_layers=100000 is beyond"),
        ({"d_model": 1 << 40}, "d_model=.* is beyond"),
        ({"vocab_size": 0}, "vocab_size must be above 0"),
        ({"max_position_embeddings": "many"}, "max_seq_len|max_position|'>' not supported"),
    ],
)
def test_a_configuration_that_cannot_be(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path, "bart")
    change_config(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("transformers", "message"),
    [
        ({"model_type": "led"}, "model_type must be one of bart, m2m_100, .* got 'led'"),
        ({"model_type": "bart", "vocab_size": 9}, "'vocab_size' is not read there"),
        ({"model_type": "bart", "auto_map": {}}, "'auto_map' is not read there"),
        ({"model_type": "bart", "_attn_implementation": "a/b"}, "is not read there"),
        ({"model_type": "bart", "max_position_embeddings": 5}, "max_seq_len=14, but .*=5 has"),
        (7, "must be a table"),
    ],
)
def test_a_table_that_cannot_be(transformers: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        zoo.create("hf-seq2seq", vocab_size=V, max_seq_len=LENGTH, transformers=transformers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.decoder.layers.1.fc1.bias": None}, "missing .*model.decoder.layers.1.fc1.bias"),
        ({"extra.weight": torch.ones(2)}, "unexpected .*extra.weight"),
        ({"model.decoder.layers.1.fc1.bias": torch.ones(4)}, r"has shape \(4,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path, "bart")
    change_weights(tmp_path, **changes)
    with pytest.raises(WeightsError, match=message):
        zoo.load(tmp_path)


def test_nothing_of_a_repository_runs(tmp_path: Path) -> None:
    """Code beside the weights, and every key that leads to code, change nothing."""
    theirs = saved(tmp_path, "bart")
    (tmp_path / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    change_config(
        tmp_path,
        auto_map={"AutoModelForSeq2SeqLM": "modeling_evil.EvilModel"},
        trust_remote_code=True,
        attn_implementation="evil/kernel",
        _attn_implementation="evil/kernel",
        _attn_implementation_internal="evil/kernel",
        task_specific_params={"summarization": {"num_beams": 4}},
    )
    source, real, ids = batch()
    expected = expected_of(theirs, source, real, ids)
    torch.testing.assert_close(zoo.load(tmp_path).module(source, ids, real), expected, **CLOSE)
    assert not (tmp_path / "ran").exists()


def test_without_transformers_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, "bart")
    real_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "transformers":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "transformers")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'txzoo\[hf\]'"):
        zoo.load(tmp_path)


# Attention


@pytest.mark.parametrize("kind", ["bart", "m2m_100", "mt5", "umt5"])
@torch.no_grad()
def test_its_attention_is_transformers(kind: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind)
    module = zoo.load(tmp_path).module
    source, real, ids = batch()
    memory = module.encode(source, real)
    with record_attention() as found:
        module.decode(ids, memory, real)
    expected = attention_of(theirs, source, ids)
    assert len(found) == len(expected) == 4
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)


# Tunings: the layers have the names that PEFT finds in transformers' own model

PEFT_LAYERS = {  # of lora; of ia3; those of ia3 whose inputs are scaled
    "bart": (["q_proj", "v_proj"], ["k_proj", "v_proj", "fc2"], ["fc2"]),
    "mt5": (["q", "v"], [], []),
}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize(("kind", "method"), [("bart", "lora"), ("bart", "ia3"), ("mt5", "lora")])
def test_our_tunings_are_pefts_on_transformers_own(kind: str, method: str, tmp_path: Path) -> None:
    """The same outputs and gradients, and PEFT's files load."""
    peft = pytest.importorskip("peft", reason="needs txzoo[hf]")
    theirs = saved(tmp_path / "base", kind)
    model = zoo.load(tmp_path / "base")
    plain, factors, inputs = PEFT_LAYERS[kind]
    if method == "lora":
        config = peft.LoraConfig(r=3, lora_alpha=7, target_modules=plain, init_lora_weights=False)
        ours = adapt(share(model.module), method, rank=3, alpha=7, target_modules=plain)
    else:
        config = peft.IA3Config(target_modules=factors, feedforward_modules=inputs)
        options = {"target_modules": factors, "feedforward_modules": inputs}
        ours = adapt(share(model.module), method, **options)
    wrapped = peft.get_peft_model(theirs, config).eval()
    learned = {
        name.removeprefix("base_model.model.").replace(".default", ""): parameter
        for name, parameter in wrapped.named_parameters()
        if parameter.requires_grad
    }
    assert learned.keys() == trained(ours).keys()
    for name, parameter in trained(ours).items():
        learned[name].data.add_(0.3 * torch.randn_like(parameter))
        parameter.data.copy_(learned[name])

    source, real, ids = batch()
    found = ours.eval()(source, ids, real)
    expected = wrapped(input_ids=source, attention_mask=real.long(), decoder_input_ids=ids).logits
    assert (found - model.module(source, ids, real)).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, **CLOSE)
    for logits in (found, expected):
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    for name, parameter in trained(ours).items():
        assert parameter.grad.abs().max() > 1e-7, name
        torch.testing.assert_close(parameter.grad, learned[name].grad, rtol=1e-3, atol=1e-5)

    wrapped.save_pretrained(tmp_path / "adapter")
    model.load_adapter(tmp_path / "adapter")
    torch.testing.assert_close(model.module(source, ids, real), expected, **CLOSE)
    merged = model.merge().module
    torch.testing.assert_close(merged(source, ids, real), expected, rtol=1e-4, atol=1e-4)


BEFORE = ("prefix-tuning", "prompt-tuning")


@pytest.mark.parametrize("method", ["full", "bitfit", "lora", "ia3", *BEFORE])
def test_by_several_methods_it_learns(method: str, tmp_path: Path) -> None:
    saved(tmp_path, "bart")
    source, real, ids = batch()
    few = {"num_virtual_tokens": 3} if method in BEFORE else {}
    module = adapt(zoo.load(tmp_path).module, method, **few)
    learning = trained(module)
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.Adam(learning.values(), lr=3e-3)
    losses = []
    for _ in range(4):
        logits = module(source, ids, real)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in module.named_parameters():
        # the bias of keys changes no softmax; sinusoids stay as they are
        if "k_proj.bias" not in name and "embed_positions" not in name:
            assert torch.equal(parameter, start[name]) == (name not in learning), name


@pytest.mark.parametrize("method", BEFORE)
@every_kind
def test_with_something_before_its_texts_it_goes_on_from_a_cache(
    kind: str, method: str, tmp_path: Path
) -> None:
    saved(tmp_path, kind)
    base = zoo.load(tmp_path).module
    module = adapt(share(base), method, num_virtual_tokens=3).eval()
    with torch.no_grad():
        module.prompt_embeddings.normal_()
    source, real, ids = batch()
    assert not torch.allclose(module(source, ids, real), base(source, ids, real), atol=1e-2)
    check_pieces(module, source, ids, [1, 5, 3])
    check_places(module, source, (4, V))


def test_a_base_is_tuned_on_pairs_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BART reads its targets behind </s>, not behind the padding that tasks of ours would take."""
    pytest.importorskip("sacrebleu", reason="needs txzoo[hf]")
    saved(tmp_path / "base", "bart")
    letters = WORDS[4:]
    rows = [f"{' '.join(letters[n : n + 3])}\t{letters[n + 3]} {letters[n]}" for n in range(8)]
    for name, part in (("pairs.tsv", rows), ("new.tsv", ["v w\tx"] * 2)):
        (tmp_path / name).write_text("\n".join(["source\ttarget", *part]))
    seen: list[dict[str, Tensor]] = []
    original = PairFile.loss

    def loss(self: PairFile, module: nn.Module, made: dict[str, Tensor]) -> Tensor:
        seen.append(made)
        return original(self, module, made)

    monkeypatch.setattr(PairFile, "loss", loss)
    model = zoo.train(
        "flan-t5-en-de",
        base=str(tmp_path / "base"),
        tuning="lora",
        data=tmp_path / "pairs.tsv",
        test_data=tmp_path / "new.tsv",
        out=tmp_path / "out",
        config={},
        steps=2,
        batch_tokens=8,
        warmup_steps=0,
    )
    ids = model.config.pad_id, model.config.start_id, model.config.end_id
    assert ids == (PAD, END, END)
    for made in seen:
        before, right = made["ids"], made["targets"]
        assert (before[:, 0] == END).all()
        assert torch.equal(before[:, 1:], right[:, :-1].where(right[:, :-1] != IGNORED, PAD))

"""Models of many languages: the one of a source and the one of an answer, as `transformers`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_decoders import answers_of
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

import zoo
from zoo.errors import InputError

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

TEXTS = ["a b c d e f g h i j", "q", "t h e"]
SIZES: dict[str, Any] = {
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 28,
    "max_position_embeddings": 20,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
CODES = {  # tokens of languages, and how a source is marked
    "mbart": (["de_DE", "en_XX", "ro_RO"], "$A </s> {}"),
    "mbart-50": (["de_DE", "en_XX", "ro_RO"], "{} $A </s>"),
    "m2m": (["__de__", "__en__", "__ro__"], "{} $A </s>"),
    "nllb": (["deu_Latn", "eng_Latn", "zho_Hans", "zho_Hant"], "{} $A </s>"),
}


def words_of(kind: str) -> list[str]:
    return ["<s>", "<pad>", "</s>", "<unk>", *CODES[kind][0], *"abcdefghijklmnopqrstuvwxyz"]


def tokenizer_of(kind: str, marked: str | None) -> Tokenizer:
    """A letter, a token; a source is marked as that of a language."""
    words, template = words_of(kind), CODES[kind][1] if marked else "$A </s>{}"
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(words[: 4 + len(CODES[kind][0])])
    signs = ["</s>", *([marked] if marked else [])]
    made.post_processor = processors.TemplateProcessing(
        template.format(marked or ""), special_tokens=[(sign, words.index(sign)) for sign in signs]
    )
    return made


def saved(folder: Path, kind: str, marked: str | None) -> Any:
    """A random checkpoint whose answers differ by source and by what they begin with."""
    torch.manual_seed(1)
    name = "MBart" if "mbart" in kind else "M2M100"
    start = words_of(kind).index("ro_RO") if kind == "mbart" else 2
    config = getattr(transformers, f"{name}Config")(
        **{**SIZES, "decoder_start_token_id": start, "vocab_size": len(words_of(kind))}
    )
    theirs = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for part, parameter in theirs.named_parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
                parameter.mul_(1 if "shared" in part else 3 if "encoder_attn" in part else 2)
    theirs.lm_head.weight = nn.Parameter(torch.randn_like(theirs.lm_head.weight))
    theirs.save_pretrained(folder)
    path = folder / "model.safetensors"  # in which a tied output is left out
    tensors = {**load_file(path), "lm_head.weight": theirs.lm_head.weight.detach()}
    save_file(tensors, path, metadata={"format": "pt"})
    tokenizer_of(kind, marked).save(str(folder / "tokenizer.json"))
    return theirs


@pytest.mark.parametrize("kind", CODES)
def test_answers_are_in_the_language_that_is_asked_for(kind: str, tmp_path: Path) -> None:
    codes = CODES[kind][0]
    theirs = saved(tmp_path, kind, codes[1])
    model, words = zoo.load(tmp_path), words_of(kind)
    begins = "decoder_start_token_id" if kind == "mbart" else "forced_bos_token_id"
    found = []
    for code in codes[:3]:
        names = {code, code.strip("_")} | ({code[:2]} if "mbart" in kind else set())
        for beams in (1, 3):
            asked = {begins: words.index(code), "num_beams": beams}
            expected = answers_of(theirs, tokenizer_of(kind, codes[1]), TEXTS, **asked)
            for name in names:
                options: Any = {"target_language": name, "num_beams": beams, "max_new_tokens": 10}
                assert model(TEXTS, **options) == expected
        one = model(TEXTS[0], target_language=code, max_new_tokens=10)
        pieces = model(TEXTS[0], target_language=code, max_new_tokens=10, stream=True)
        assert "".join(pieces) == one
        found.append(one)
    assert len(set(found)) > 1  # the language matters


@pytest.mark.parametrize("kind", CODES)
def test_a_source_is_in_the_language_that_is_said(kind: str, tmp_path: Path) -> None:
    first, second, third = CODES[kind][0][:3]
    theirs = saved(tmp_path, kind, second)
    model = zoo.load(tmp_path)
    found = []
    for code in (first, second, third):
        expected = answers_of(theirs, tokenizer_of(kind, code), TEXTS, num_beams=1)
        assert model(TEXTS, source_language=code, max_new_tokens=10) == expected
        found.append(tuple(expected))
    assert model(TEXTS, max_new_tokens=10) == list(found[1])  # as its tokenizer marks it
    assert len(set(found)) > 1


def test_the_language_of_its_config_may_be_another(tmp_path: Path) -> None:
    words = words_of("mbart-50")
    theirs = saved(tmp_path, "mbart-50", "en_XX")
    config = json.loads((tmp_path / "config.json").read_text())
    config["forced_bos_token_id"] = words.index("ro_RO")  # as checkpoints of the Hub have it
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = zoo.load(tmp_path)
    own = {"forced_bos_token_id": words.index("ro_RO"), "num_beams": 1}
    tokenizer = tokenizer_of("mbart-50", "en_XX")
    assert model(TEXTS, max_new_tokens=10) == answers_of(theirs, tokenizer, TEXTS, **own)
    other = {**own, "forced_bos_token_id": words.index("de_DE")}
    expected = answers_of(theirs, tokenizer, TEXTS, **other)
    assert model(TEXTS, max_new_tokens=10, target_language="de") == expected


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("mbart-50", {"target_language": "fr"}, r"no language 'fr'. It has: de_DE, en_XX, ro_RO"),
        ("mbart-50", {"source_language": ""}, r"no language ''. It has: de_DE, en_XX, ro_RO"),
        ("m2m", {"target_language": "d"}, r"no language 'd'. It has: de, en, ro"),
        ("nllb", {"target_language": "zho"}, r"several 'zho': zho_Hans or zho_Hant"),
    ],
)
def test_a_language_that_it_has_not(
    kind: str, options: dict[str, str], message: str, tmp_path: Path
) -> None:
    saved(tmp_path, kind, CODES[kind][0][1])
    model = zoo.load(tmp_path)
    for stream in (True, False):
        with pytest.raises(InputError, match=message):
            model("a b", stream=stream, **options)


def test_where_there_is_nothing_to_choose(tmp_path: Path, translator: Path) -> None:
    for name in ("source_language", "target_language"):
        with pytest.raises(InputError, match=f"no languages to choose from: .* Leave out .*{name}"):
            zoo.load(translator)("two", **{name: "de"})
    saved(tmp_path, "mbart-50", None)
    model = zoo.load(tmp_path)
    assert model("a b", target_language="de", max_new_tokens=5)
    with pytest.raises(InputError, match="does not mark the language of a source: leave out"):
        model("a b", source_language="de")

"""Encoders of the Hub behind our pipelines, against `transformers` itself; and hostile folders."""

import builtins
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

import zoo
from zoo.errors import (
    ConfigError,
    ContextLengthError,
    FolderError,
    InputError,
    MissingExtraError,
    UnsafeFileError,
    WeightsError,
    ZooError,
)
from zoo.tuning import adapt, share, trained
from zoo.tuning.files import write
from zoo.tuning.heads import refit

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

WORDS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"abcdefghijklmnopqrstuvwxyz"]
V, LENGTH = len(WORDS), 14
CLOSE = {"rtol": 0, "atol": 1e-6}
USUAL = {
    "vocab_size": V,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 36,
    "max_position_embeddings": LENGTH,
    "pad_token_id": 1,
}
FREE = {**USUAL, "max_position_embeddings": LENGTH + 2}  # the first two positions stay unused
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {  # as the classes are called, and sizes
    "roberta": ("Roberta", FREE),
    "xlm-roberta": ("XLMRoberta", FREE),
    "camembert": ("Camembert", FREE),
    "mpnet": ("MPNet", FREE),
    "electra": ("Electra", {**USUAL, "embedding_size": 12}),
    "albert": ("Albert", {**USUAL, "embedding_size": 12}),
    "deberta": ("Deberta", {**USUAL, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "deberta-v2": ("DebertaV2", {**USUAL, **RELATIVE, "share_att_key": True}),
    "modernbert": ("ModernBert", {**USUAL, "local_attention": 6, "global_rope_theta": 1234.0}),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": V,
            "dim": 24,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 36,
            "max_position_embeddings": LENGTH,
            "pad_token_id": 1,
        },
    ),
}
HEADS = {
    "none": "Model",
    "classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "masked-language": "ForMaskedLM",
}
LABELS = {"classification": ("sad", "glad", "mad"), "token-classification": ("O", "B", "I", "E")}
PIPELINES = {
    "none": "feature-extraction",
    "classification": "text-classification",
    "token-classification": "token-classification",
    "masked-language": "fill-mask",
}
EVERY = [(kind, head) for kind in KINDS for head in HEADS]


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def theirs_of(kind: str, head: str, **changes: Any) -> nn.Module:
    """A random checkpoint, its weights large enough that every part shows."""
    name, sizes = KINDS[kind]
    labels = dict(enumerate(LABELS.get(head, ())))
    changes |= {"id2label": labels, "label2id": {v: k for k, v in labels.items()}} if labels else {}
    config = getattr(transformers, f"{name}Config")(**{**sizes, **changes})
    module: nn.Module = getattr(transformers, name + HEADS[head])(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def tokenizer() -> Tokenizer:
    """One letter, one token; texts stand between <s> and </s>."""
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(WORDS[:5])
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return made


def saved(folder: Path, kind: str, head: str, **changes: Any) -> nn.Module:
    """A checkpoint in a folder, with a tokenizer."""
    theirs = theirs_of(kind, head, **changes)
    theirs.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return theirs


def batch() -> tuple[Tensor, Tensor]:
    """Three rows of 11, 7 and 2 tokens, padded on the right, and which are real."""
    real = torch.arange(11) < torch.tensor([11, 7, 2])[:, None]
    return torch.where(real, torch.randint(5, V, (3, 11)), 1), real


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def change_weights(folder: Path, **changes: Tensor | None) -> None:
    path = folder / "model.safetensors"
    tensors = {k: v for k, v in {**load_file(path), **changes}.items() if v is not None}
    save_file(tensors, path, metadata={"format": "pt"})


@torch.no_grad()
def expected_of(theirs: nn.Module, head: str, ids: Tensor, real: Tensor) -> Tensor:
    out = theirs(input_ids=ids, attention_mask=real.long())
    if head != "none":
        return out.logits
    if "pooler_output" in out:
        return out.pooler_output
    rows = zip(out.last_hidden_state, real, strict=True)
    return torch.stack([row[keep].mean(0) for row, keep in rows])


@pytest.mark.parametrize(("kind", "head"), EVERY)
@torch.no_grad()
def test_it_is_what_transformers_computes(kind: str, head: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind, head)
    model = zoo.load(tmp_path)
    assert (model.card.architecture, model.pipeline) == ("hf-encoder", PIPELINES[head])
    assert (model.config.head, model.config.max_seq_len) == (head, LENGTH)
    assert model.config.labels == LABELS.get(head, ())
    assert (model.config.vocab_size, model.config.pad_id) == (V, 1)
    ids, real = batch()
    expected, found = expected_of(theirs, head, ids, real), model.module(ids, real)
    assert expected.std() > 0.02, "too tame to tell two apart"
    if found.dim() == 3:  # what stands at padding means nothing
        expected, found = expected[real], found[real]
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(model.module(ids), model.module(ids, real))  # told by pad_id
    hidden = theirs.base_model(input_ids=ids, attention_mask=real.long()).last_hidden_state
    torch.testing.assert_close(model.module.hidden(ids, real)[real], hidden[real], **CLOSE)
    longest = torch.randint(5, V, (2, LENGTH))
    expected = expected_of(theirs, head, longest, torch.ones_like(longest).bool())
    torch.testing.assert_close(model.module(longest), expected, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_asked_at_some_tokens_it_gives_their_logits(kind: str, tmp_path: Path) -> None:
    saved(tmp_path, kind, "masked-language")
    module = zoo.load(tmp_path).module
    ids, real = batch()
    where = real & (torch.rand(ids.shape) < 0.4)
    found = module(ids, real, where=where)
    assert found.shape == (int(where.sum()), V)
    torch.testing.assert_close(found, module(ids, real)[where], rtol=0, atol=1e-5)
    torch.testing.assert_close(module(ids, real, where=where), found)  # no hook stayed


@pytest.mark.parametrize(("kind", "head"), EVERY)
@torch.no_grad()
def test_as_a_folder_of_ours_it_loads_again(kind: str, head: str, tmp_path: Path) -> None:
    saved(tmp_path / "theirs", kind, head)
    model = zoo.load(tmp_path / "theirs")
    again = zoo.load(model.save_pretrained(tmp_path / "ours"))
    assert again.config == model.config
    assert (again.pipeline, again.card.architecture) == (PIPELINES[head], "hf-encoder")
    ids, real = batch()
    assert torch.equal(again.module(ids, real), model.module(ids, real))
    made = zoo.create("hf-encoder", **model.config.to_dict())
    shapes = {name: tensor.shape for name, tensor in made.state_dict().items()}
    assert shapes == {name: t.shape for name, t in model.module.state_dict().items()}


@pytest.mark.parametrize(("kind", "head"), EVERY)
def test_what_it_writes_transformers_opens(kind: str, head: str, tmp_path: Path) -> None:
    saved(tmp_path / "theirs", kind, head)
    module = zoo.load(tmp_path / "theirs").module
    config, tensors = module.to_transformers()
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    opened, report = getattr(transformers, KINDS[kind][0] + HEADS[head]).from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values()), report
    ids, real = batch()
    expected = expected_of(opened.eval(), head, ids, real)
    with torch.no_grad():
        found = module(ids, real)
    if found.dim() == 3:
        expected, found = expected[real], found[real]
    torch.testing.assert_close(found, expected, **CLOSE)


TEXTS = ["a b c", "the", "q u i e t l y", "z z"]


@pytest.mark.parametrize("kind", KINDS)
def test_its_texts_are_classified_as_transformers_does(kind: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path, kind, "classification")
    found = zoo.load(tmp_path)(TEXTS, top_k=None)
    for text, answers in zip(TEXTS, found, strict=True):
        ids = torch.tensor([tokenizer().encode(text).ids])
        with torch.no_grad():
            scores = theirs(input_ids=ids).logits[0].softmax(-1)
        assert len(answers) == 3
        for answer in answers:
            place = LABELS["classification"].index(answer["label"])
            assert answer["score"] == pytest.approx(scores[place].item(), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_its_tokens_are_labelled_filled_in_and_embedded(kind: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path / "tags", kind, "token-classification")
    ids = torch.tensor([tokenizer().encode("a b c").ids])
    with torch.no_grad():
        best = theirs(input_ids=ids).logits[0].argmax(-1).tolist()
    found = zoo.load(tmp_path / "tags")(["a b c", "d"])[0]
    assert [entry["word"] for entry in found] == ["a", "b", "c"]
    labels = LABELS["token-classification"]
    assert [entry["entity"] for entry in found] == [labels[place] for place in best[1:-1]]

    theirs = saved(tmp_path / "masks", kind, "masked-language")
    text = "a b <mask> d"
    ids = torch.tensor([tokenizer().encode(text).ids])
    with torch.no_grad():
        scores = theirs(input_ids=ids).logits[0, 3].softmax(-1)
    answers = zoo.load(tmp_path / "masks")([text, "<mask>"], top_k=3)[0]
    assert [answer["token"] for answer in answers] == scores.topk(3).indices.tolist()
    assert answers[0]["score"] == pytest.approx(scores.max().item(), abs=1e-5)

    theirs = saved(tmp_path / "body", kind, "none")
    ids = torch.tensor([tokenizer().encode("x y").ids])
    with torch.no_grad():
        mean = theirs(input_ids=ids).last_hidden_state[0].mean(0)
    vector = zoo.load(tmp_path / "body")(["x y", "a b c d"])[0]
    torch.testing.assert_close(vector, mean / mean.norm(), rtol=0, atol=1e-5)


# Checkpoints as they are found on the Hub


def test_roberta_counts_positions_from_its_padding(tmp_path: Path) -> None:
    saved(tmp_path, "roberta", "none", max_position_embeddings=12, pad_token_id=4)
    model = zoo.load(tmp_path)
    assert (model.config.max_seq_len, model.module.max_len) == (7, 7)
    model.module(torch.full((1, 7), 9))
    with pytest.raises(ContextLengthError, match="has 8 tokens, this model has 7 positions"):
        model.module(torch.full((1, 8), 9))
    with pytest.raises(ContextLengthError):
        model.module.hidden(torch.full((1, 8), 9))


@pytest.mark.parametrize("kind", ["roberta", "deberta-v2", "distilbert"])
def test_one_half_precision_and_what_stands_nowhere_in_its_config(
    kind: str, tmp_path: Path
) -> None:
    """What is not said has the value that transformers gives it."""
    name = KINDS[kind][0]
    small = {k: v for k, v in KINDS[kind][1].items() if k not in ("vocab_size", "pad_token_id")}
    theirs = getattr(transformers, f"{name}Model")(
        getattr(transformers, f"{name}Config")(**{**small, "max_position_embeddings": 600})
    )
    theirs.half().save_pretrained(tmp_path)
    change_config(tmp_path, vocab_size=..., pad_token_id=..., layer_norm_eps=...)
    model = zoo.load(tmp_path)
    assert (model.config.vocab_size, model.config.pad_id) == (
        theirs.config.vocab_size,
        theirs.config.pad_token_id,
    )
    assert next(model.module.parameters()).dtype == torch.float32


def test_old_names_and_buffers_and_tied_copies(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "roberta", "masked-language")
    tensors = load_file(tmp_path / "model.safetensors")
    norm = "roberta.embeddings.LayerNorm"
    change_weights(
        tmp_path,
        **{
            f"{norm}.weight": None,
            f"{norm}.bias": None,
            f"{norm}.gamma": tensors[f"{norm}.weight"],
            f"{norm}.beta": tensors[f"{norm}.bias"],
            "roberta.embeddings.position_ids": torch.arange(LENGTH)[None],
            "roberta.pooler.dense.weight": torch.randn(
                24, 24
            ),  # a masked language model reads none
            "lm_head.decoder.weight": tensors["roberta.embeddings.word_embeddings.weight"].clone(),
        },
    )
    ids, real = batch()
    expected = expected_of(theirs, "masked-language", ids, real)[real]
    torch.testing.assert_close(zoo.load(tmp_path).module(ids, real)[real], expected, **CLOSE)
    change_weights(tmp_path, **{"lm_head.decoder.weight": torch.randn(V, 24)})
    with pytest.raises(WeightsError, match=r"lm_head.decoder.weight and roberta.*must be the same"):
        zoo.load(tmp_path)


def test_untied_output_embeddings_are_read(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "roberta", "masked-language", tie_word_embeddings=False)
    ids, real = batch()
    expected = expected_of(theirs, "masked-language", ids, real)[real]
    module = zoo.load(tmp_path).module
    torch.testing.assert_close(module(ids, real)[real], expected, **CLOSE)
    assert "lm_head.decoder.weight" in module.state_dict()


def test_electras_discriminator_is_read_without_its_head(tmp_path: Path) -> None:
    theirs = transformers.ElectraForPreTraining(transformers.ElectraConfig(**KINDS["electra"][1]))
    theirs.eval().save_pretrained(tmp_path)
    model = zoo.load(tmp_path)
    assert (model.pipeline, model.config.head) == ("feature-extraction", "none")
    ids, real = batch()
    expected = theirs.electra(input_ids=ids, attention_mask=real.long()).last_hidden_state
    torch.testing.assert_close(model.module.hidden(ids, real)[real], expected[real], **CLOSE)


def test_a_body_without_a_pooling_layer_gives_the_mean(tmp_path: Path) -> None:
    name = "roberta.pooler.dense"
    theirs = saved(tmp_path, "roberta", "none")
    change_weights(tmp_path, **{f"{name[8:]}.weight": None, f"{name[8:]}.bias": None})
    model = zoo.load(tmp_path)
    assert not model.config.pooler
    ids, real = batch()
    hidden = theirs(input_ids=ids, attention_mask=real.long()).last_hidden_state
    expected = torch.stack([row[keep].mean(0) for row, keep in zip(hidden, real, strict=True)])
    torch.testing.assert_close(model.module(ids, real), expected, **CLOSE)


def test_segments(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "electra", "none")
    ids, real = batch()
    segments = (torch.arange(11) > 4).long().expand(3, 11)
    out = theirs(input_ids=ids, attention_mask=real.long(), token_type_ids=segments)
    module = zoo.load(tmp_path).module
    found = module.hidden(ids, real, segments)
    torch.testing.assert_close(found[real], out.last_hidden_state[real], **CLOSE)
    saved(tmp_path / "mpnet", "mpnet", "none")
    module = zoo.load(tmp_path / "mpnet").module
    assert torch.equal(module(ids, real, segments * 0), module(ids, real))
    with pytest.raises(InputError, match="MPNetModel knows no second segment"):
        module(ids, real, segments)


# What does not fit, and who means harm


@pytest.mark.parametrize(
    ("head", "changes", "message"),
    [
        ("classification", {"classifier.out_proj.weight": None}, "missing classifier.out_proj"),
        ("classification", {"extra.weight": torch.ones(2)}, "unexpected extra.weight"),
        ("classification", {"classifier.out_proj.bias": torch.ones(4)}, r"has shape \(4,\)"),
        ("masked-language", {"lm_head.dense.bias": None}, "missing lm_head.dense.bias"),
        (
            "token-classification",
            {"roberta.encoder.layer.1.output.dense.weight": None},
            "missing roberta.encoder.layer.1.output.dense.weight",
        ),
        (
            "token-classification",
            {"roberta.embeddings.word_embeddings.weight": torch.ones(V + 1, 24)},
            "word_embeddings",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    head: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path, "roberta", head)
    change_weights(tmp_path, **changes)
    with pytest.raises(WeightsError, match=message):
        zoo.load(tmp_path)


@pytest.mark.parametrize("head", [head for head in HEADS if head != "none"])
def test_no_head_is_ever_random(head: str, tmp_path: Path) -> None:
    """A body alone whose config claims a head: transformers itself would only warn."""
    saved(tmp_path, "roberta", "none")
    name = f"Roberta{HEADS[head]}"
    change_config(tmp_path, architectures=[name], id2label={"0": "x", "1": "y"})
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {f"roberta.{k}": v for k, v in tensors.items() if "pooler" not in k},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(WeightsError, match=f"{name} does not fit HfEncoder: missing"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["RobertaForQuestionAnswering"]}, "QuestionAnswering is not read; read"),
        ({"architectures": ["BertForSequenceClassification"]}, "BertForSequenceClassification is"),
        ({"architectures": 7}, "7 is not read"),
        ({"is_decoder": True}, "only encoders are read"),
        ({"problem_type": "multi_label_classification"}, "'multi_label_classification' is not"),
        ({"id2label": {"0": "the only one"}}, "needs two labels or more"),
        ({"id2label": {"zero": "x", "one": "y"}}, "invalid literal"),
        ({"hidden_act": "no-such-thing"}, "no-such-thing"),
        ({"num_attention_heads": 5}, "5"),
        ({"max_position_embeddings": 2}, "max_seq_len must be above 0, got 0"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings|str"),
        ({"max_position_embeddings": 1 << 40}, "max_position_embeddings=.* is beyond"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 is beyond"),
        ({"num_labels": 10**9, "id2label": ...}, "num_labels=1000000000 is beyond"),
        ({"hidden_size": 1 << 20}, "."),
        ({"pad_token_id": 99}, "pad_id=99 is none of 31 tokens"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "weights are quantized"),
        ({"vocab_size": -3}, "vocab_size must be above 0"),
    ],
)
def test_a_configuration_that_cannot_be(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(tmp_path, "roberta", "classification")
    change_config(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message):
        zoo.load(tmp_path)


def test_nothing_of_a_repository_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code beside the weights, and every key that leads to code, change nothing."""
    theirs = saved(tmp_path, "roberta", "classification")
    trap = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    for name in ("modeling_evil.py", "configuration_evil.py", "tokenization_evil.py"):
        (tmp_path / name).write_text(trap)
    change_config(
        tmp_path,
        auto_map={
            "AutoConfig": "configuration_evil.EvilConfig",
            "AutoModelForSequenceClassification": "modeling_evil.EvilModel",
            "AutoTokenizer": ["tokenization_evil.EvilTokenizer", None],
        },
        trust_remote_code=True,
        custom_pipelines={"text-classification": {"impl": "modeling_evil.EvilPipeline"}},
        attn_implementation="evil/kernel",
        _attn_implementation="evil/kernel",
        _attn_implementation_internal="evil/kernel",
        experts_implementation="evil/kernel",
        reference_compile=True,
        chunk_size_feed_forward=3,
        use_kernels=True,
        torch_dtype="bfloat16",
        return_dict=False,
        output_hidden_states=True,
    )

    def no_network(*args: Any, **options: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", no_network)
    before = set(sys.modules)
    model = zoo.load(tmp_path)
    ids, real = batch()
    expected = expected_of(theirs, "classification", ids, real)
    torch.testing.assert_close(model.module(ids, real), expected, **CLOSE)
    assert not (tmp_path / "ran").exists()
    assert not [name for name in set(sys.modules) - before if "evil" in name]


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "auto_map"])
def test_nor_by_a_folder_in_our_own_layout(key: str, tmp_path: Path) -> None:
    saved(tmp_path / "theirs", "roberta", "none")
    values = zoo.load(tmp_path / "theirs").config.to_dict()
    values["transformers"][key] = "evil/kernel"
    with pytest.raises(ConfigError, match=f"{key}' is not read there"):
        zoo.create("hf-encoder", **values)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "roberta", "none")
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsafeFileError, match="can run code"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "regression"}, "head must be one of none, classification"),
        ({"head": "classification", "labels": ["one"]}, "needs two labels or more"),
        ({"labels": "yes"}, "labels must be a list of names, got 'yes'"),
        ({"transformers": "roberta"}, "transformers must be a table, got 'roberta'"),
        ({"transformers": {"model_type": "t5"}}, "model_type must be one of albert.*got 't5'"),
        ({"transformers": {}}, "got None"),
        ({"transformers": {"model_type": "roberta", "vocab_size": 3}}, "'vocab_size' is not read"),
        ({"transformers": {"model_type": "roberta", "id2label": {}}}, "'id2label' is not read"),
        ({"transformers": {"model_type": "roberta", "x": object()}}, "is no plain value"),
        ({"max_seq_len": 600}, "takes 601 positions, max_position_embeddings=50 has fewer"),
        ({"pad_id": 40}, "pad_id=40 is none of 31"),
        ({"vocab": 3}, "has no key 'vocab'. Did you mean 'vocab_size'"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], message: str) -> None:
    small = {k: v for k, v in FREE.items() if k not in ("vocab_size", "pad_token_id")}
    values = {
        "vocab_size": V,
        "max_seq_len": 20,
        "transformers": {**small, "model_type": "roberta", "max_position_embeddings": 50},
    }
    zoo.create("hf-encoder", **values)
    with pytest.raises(ConfigError, match=message):
        zoo.create("hf-encoder", **{**values, **changes})


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, "roberta", "none")
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "transformers":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'txzoo\[hf\]'"):
        zoo.load(tmp_path)
    assert zoo.info(tmp_path).architecture == "hf-encoder"


def test_a_folder_of_ours_is_checked_as_any_other(tmp_path: Path) -> None:
    saved(tmp_path / "theirs", "distilbert", "masked-language")
    folder = zoo.load(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    shutil.copy(tmp_path / "theirs" / "model.safetensors", folder)
    change_weights(folder, **{"vocab_transform.bias": torch.zeros(24)})
    with pytest.raises(ZooError, match="sha256|bytes"):
        zoo.load(folder)


# Tokenizers of folders without tokenizer.json


def roberta_vocabulary(folder: Path) -> None:
    """Bytes and three merges, as OpenAI and Facebook wrote them down."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", *signs, "th", "the", "Ġthe", "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\nĠ the\n")


def piece_vocabulary(folder: Path, marks: tuple[str, ...]) -> None:
    words = [*marks, "the", "end", "##less", ",", "é", "e"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


BERTS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARIES = {
    "roberta": ("RobertaTokenizer", roberta_vocabulary),
    "deberta": (
        "DebertaTokenizer",
        lambda folder: (
            roberta_vocabulary(folder),
            (folder / "vocab.json").write_text(
                (folder / "vocab.json")
                .read_text()
                .replace("<s>", "[CLS]")
                .replace("</s>", "[SEP]")
                .replace("<pad>", "[PAD]")
                .replace("<unk>", "[UNK]")
                .replace("<mask>", "[MASK]")
            ),
        ),
    ),
    "distilbert": ("DistilBertTokenizer", lambda folder: piece_vocabulary(folder, BERTS)),
    "electra": ("ElectraTokenizer", lambda folder: piece_vocabulary(folder, BERTS)),
    "mpnet": (
        "MPNetTokenizer",
        lambda folder: piece_vocabulary(folder, ("<s>", "<pad>", "</s>", "[UNK]", "<mask>")),
    ),
}


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("kind", VOCABULARIES)
def test_a_vocabulary_is_read_as_transformers_reads_it(
    kind: str, lower: bool, tmp_path: Path
) -> None:
    saved(tmp_path, kind, "none", vocab_size=300)
    (tmp_path / "tokenizer.json").unlink()
    name, write = VOCABULARIES[kind]
    write(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": lower, "auto_map": {"AutoTokenizer": ["evil.Evil", None]}})
    )
    model = zoo.load(tmp_path)
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    for text in ("the end", "The endless, the é", "nothing<mask> of [MASK] it"):
        assert model.tokenizer.encode(text).ids == theirs(text)["input_ids"]
    assert len(model("The end")) == 24
    again = zoo.load(model.save_pretrained(tmp_path / "ours"))
    assert torch.equal(again("The end"), model("The end"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("vocab.json", "{"), ("vocab.json", "[1, 2]"), ("tokenizer_config.json", "[]")],
)
def test_a_vocabulary_that_does_not_parse(name: str, text: str, tmp_path: Path) -> None:
    saved(tmp_path, "roberta", "none", vocab_size=300)
    (tmp_path / "tokenizer.json").unlink()
    roberta_vocabulary(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(FolderError, match=name):
        zoo.load(tmp_path)


def test_a_vocabulary_elsewhere_is_not_followed(tmp_path: Path) -> None:
    saved(tmp_path / "model", "roberta", "none", vocab_size=300)
    (tmp_path / "model" / "tokenizer.json").unlink()
    roberta_vocabulary(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "model" / name).symlink_to(tmp_path / name)
    with pytest.raises(FolderError, match="links to a place outside"):
        zoo.load(tmp_path / "model")


def test_without_any_vocabulary_it_still_computes(tmp_path: Path) -> None:
    saved(tmp_path, "xlm-roberta", "none")
    (tmp_path / "tokenizer.json").unlink()
    model = zoo.load(tmp_path)
    assert model.tokenizer is None
    model.module(torch.full((1, 3), 7))
    with pytest.raises(InputError, match="has no tokenizer"):
        model("a")


# Attention


def test_its_attention_is_transformers(tmp_path: Path) -> None:
    for kind in KINDS:
        theirs = saved(tmp_path / kind, kind, "classification")
        theirs.set_attn_implementation("eager")
        ids = torch.tensor([tokenizer().encode("a b c").ids])
        expected = theirs(input_ids=ids, output_attentions=True).attentions
        model = zoo.load(tmp_path / kind)
        if kind in ("deberta", "deberta-v2", "mpnet"):  # of their own kind, not to be replaced
            with pytest.raises(InputError, match="computes its attention elsewhere"):
                model.attention("a b c")
            continue
        found = model.attention("a b c")
        assert len(found) == len(expected) == 2
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other[0], **CLOSE)


# Tunings: the layers have the names that PEFT finds in transformers' own model

PEFT_LAYERS = {
    "roberta": (["query", "value"], ["key", "value", "output.dense"], "output.dense"),
    "distilbert": (["q_lin", "v_lin"], ["k_lin", "v_lin", "lin2"], "lin2"),
    "deberta-v2": (["query_proj", "value_proj"], ["key_proj", "value_proj"], None),
    "modernbert": (["Wqkv", "mlp.Wo"], ["Wqkv", "mlp.Wo"], "mlp.Wo"),
}
# PEFT 0.21 asks transformers 5.23 by a name that goes away in its version 6
old_name = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


def adapted(kind: str, method: str, module: nn.Module) -> tuple[dict[str, Any], Any, nn.Module]:
    """Our options for a method, PEFT's, and the module adapted by ours."""
    peft = pytest.importorskip("peft", reason="needs txzoo[hf]")
    plain, factors, inner = PEFT_LAYERS[kind]
    if method == "lora":
        options: dict[str, Any] = {"rank": 3, "alpha": 7, "target_modules": plain}
        theirs = peft.LoraConfig(r=3, lora_alpha=7, target_modules=plain, init_lora_weights=False)
    else:
        inputs = {"feedforward_modules": [inner]} if inner else {}
        options = {"target_modules": factors, **inputs}
        theirs = peft.IA3Config(
            target_modules=factors, feedforward_modules=[inner] if inner else []
        )
    return options, theirs, adapt(share(module), method, **options)


@old_name
@pytest.mark.parametrize("method", ["lora", "ia3"])
@pytest.mark.parametrize("kind", PEFT_LAYERS)
def test_our_tunings_are_pefts_on_transformers_own(kind: str, method: str, tmp_path: Path) -> None:
    """The same outputs and gradients, and files that go both ways."""
    peft = pytest.importorskip("peft", reason="needs txzoo[hf]")
    theirs = saved(tmp_path / "base", kind, "classification")
    model = zoo.load(tmp_path / "base")
    options, config, ours = adapted(kind, method, model.module)
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

    ids, real = batch()
    found = ours.eval()(ids, real)
    expected = wrapped(input_ids=ids, attention_mask=real.long()).logits
    assert (found - model.module(ids, real)).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, **CLOSE)
    for logits in (found, expected):
        nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    for name, parameter in trained(ours).items():
        assert parameter.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(parameter.grad, learned[name].grad, rtol=1e-4, atol=1e-6)

    wrapped.save_pretrained(tmp_path / "theirs")
    model.load_adapter(tmp_path / "theirs")
    torch.testing.assert_close(model.module(ids, real), expected, **CLOSE)
    merged = model.merge().module
    torch.testing.assert_close(merged(ids, real), expected, rtol=0, atol=1e-5)

    (tmp_path / "ours").mkdir()
    names = list(trained(ours))
    write(tmp_path / "ours", ours, method, options, names, base="somewhere")
    again = getattr(transformers, type(theirs).__name__).from_pretrained(tmp_path / "base")
    opened = peft.PeftModel.from_pretrained(again, tmp_path / "ours").eval()
    logits = opened(input_ids=ids, attention_mask=real.long()).logits
    torch.testing.assert_close(logits, expected, **CLOSE)


METHODS = ("full", "linear-probe", "gradual-unfreezing", "bitfit", "lora", "ia3")
MORE_METHODS = ("houlsby", "pfeiffer", "prompt-tuning", "prefix-tuning")
OWN_ATTENTION = ("mpnet", "deberta", "deberta-v2")  # not torch's


@pytest.mark.parametrize("method", [*METHODS, *MORE_METHODS])
@pytest.mark.parametrize("kind", KINDS)
def test_by_any_method_it_learns(kind: str, method: str, tmp_path: Path) -> None:
    if method == "prefix-tuning" and kind in OWN_ATTENTION:
        return  # refused: the test below
    saved(tmp_path, kind, "classification")
    base = zoo.load(tmp_path).module
    ids, real = batch()
    few = {"num_virtual_tokens": 3} if method in MORE_METHODS[2:] else {}
    module = adapt(base, method, **few)
    learning, before = trained(module), module(ids, real)
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = torch.optim.Adam(learning.values(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(module(ids, real), torch.tensor([0, 1, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert not torch.equal(module(ids, real), before)
    for name, parameter in module.named_parameters():
        # what all keys have in common changes no softmax: the gradient of their bias is noise
        if "key.bias" in name or ".k.bias" in name or "k_lin.bias" in name:
            continue
        assert torch.equal(parameter, start[name]) == (name not in learning), name
    if method not in ("full", "gradual-unfreezing"):  # these leave whole models
        (tmp_path / "adapter").mkdir()
        write(tmp_path / "adapter", module, method, few, list(learning), base="somewhere")
        again = zoo.load(tmp_path).load_adapter(tmp_path / "adapter").module
        torch.testing.assert_close(again(ids, real), module.eval()(ids, real), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", OWN_ATTENTION)
def test_a_prefix_needs_the_attention_of_torch(kind: str, tmp_path: Path) -> None:
    saved(tmp_path, kind, "classification")
    with pytest.raises(ConfigError, match="scaled_dot_product_attention, so nothing can stand"):
        adapt(zoo.load(tmp_path).module, "prefix-tuning", num_virtual_tokens=3)


@pytest.mark.parametrize("head", ["none", "masked-language"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_takes_another_head(kind: str, head: str, tmp_path: Path) -> None:
    """The body's numbers stay, what stands behind it is new, and learns."""
    saved(tmp_path, kind, head)
    old = zoo.load(tmp_path).module
    module, fresh = refit(old, {"head": "classification", "labels": ["a", "b"], "max_seq_len": 9})
    assert module.config.labels == ("a", "b") and module.max_len == 9
    assert fresh and not set(fresh) & {module.body}
    parts = {name: module.head_part(name) for name in dict(module.named_parameters())}
    assert set(parts.values()) - {None} == set(fresh)
    for name, parameter in module.named_parameters():
        if parts[name] is None:
            assert parameter is old.get_parameter(name), name
    adapted = adapt(module, "lora", fresh=fresh)
    assert {name for name in trained(adapted) if ".lora_" not in name} == {
        name for name, part in parts.items() if part is not None
    }


@old_name
def test_pefts_adapters_with_a_head_of_their_own_load(tmp_path: Path) -> None:
    """PEFT saves the head whole, and names one besides that this model does not have."""
    peft = pytest.importorskip("peft", reason="needs txzoo[hf]")
    theirs = saved(tmp_path / "base", "roberta", "classification")
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False)
    wrapped = peft.get_peft_model(theirs, config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.5)
    wrapped.save_pretrained(tmp_path / "adapter")
    model = zoo.load(tmp_path / "base")
    ids, real = batch()
    plain = model.module(ids, real)
    expected = wrapped(input_ids=ids, attention_mask=real.long()).logits
    model.load_adapter(tmp_path / "adapter")
    torch.testing.assert_close(model.module(ids, real), expected, **CLOSE)
    torch.testing.assert_close(model.set_adapter(None).module(ids, real), plain, **CLOSE)
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    settings["modules_to_save"].append("roberta")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match="names roberta, which is no head"):
        model.load_adapter(tmp_path / "adapter")

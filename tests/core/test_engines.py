"""`engine=`: the same answers, whoever computes them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from models import as_model
from torch import nn

import zoo
from zoo.attribution import attributions
from zoo.chat import Chat
from zoo.cli import main
from zoo.drawings import drawing
from zoo.engines import FOLDER
from zoo.errors import (
    ContextLengthError,
    FolderError,
    InputError,
    MissingExtraError,
    ZooError,
)
from zoo.export import export
from zoo.export import onnx as onnx_format
from zoo.model import Model
from zoo.nn import Cache
from zoo.tokenization import build_tokenizer

TEXT = "The cat sat on the mat .\n" + 'They don\'t, "do they"? café <unk> <unk> 12 345\n' * 3
PROMPTS = ["The cat sat", "They don't, \"do they", "12 345\n\n  mat <unk> .<unk>"]
SIZES = {"max_seq_len": 200, "d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 24}
DECODERS: dict[str, dict[str, Any]] = {
    "decoder": {},
    "rope-decoder": {"n_kv_heads": 2, "tie_embeddings": False},
    "relative-decoder": {"n_buckets": 8, "max_distance": 20},
}
Engines = Callable[[str, str], tuple[Model, Model, Path]]
EACH = [("onnx", "decoder"), ("onnx", "relative-decoder"), ("llama.cpp", "rope-decoder")]
# of the engine's own destructors
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


def require(engine: str) -> None:
    if engine == "llama.cpp":
        pytest.importorskip("llama_cpp", reason="needs txzoo[llama-cpp]")
        pytest.importorskip("gguf", reason="needs txzoo[gguf]")
    else:
        pytest.importorskip("onnxruntime", reason="needs txzoo[onnx]")
        pytest.importorskip("onnxscript", reason="needs txzoo[onnx]")


def make(architecture: str) -> Model:
    """A model with weights so wide that they do not write one token for ever."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(TEXT, {"kind": "byte-pair", "vocab_size": 290})
    sizes = SIZES | DECODERS[architecture]
    module = zoo.create(architecture, vocab_size=tokenizer.get_vocab_size(), **sizes).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.25)
        else:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return as_model(module, tokenizer)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """A model, and its export opened by an engine; each is made once."""
    made: dict[tuple[str, str], tuple[Model, Model, Path]] = {}

    def pair(engine: str, architecture: str) -> tuple[Model, Model, Path]:
        require(engine)
        if (engine, architecture) not in made:
            model = make(architecture)
            folder = tmp_path_factory.mktemp("exported") / "out"
            export(model, folder, {"llama.cpp": "gguf"}.get(engine, engine))
            made[engine, architecture] = model, zoo.load(folder, engine=engine), folder
        return made[engine, architecture]

    return pair


@pytest.mark.parametrize(("engine", "architecture"), EACH)
def test_texts_are_the_same(both: Engines, engine: str, architecture: str) -> None:
    ours, theirs, _ = both(engine, architecture)
    assert (theirs.name, theirs.config) == (ours.name, ours.config)
    for options in (
        {},
        {"num_beams": 3, "num_return_sequences": 2},
        {"temperature": 0.9, "top_k": 20, "seed": 3, "num_return_sequences": 2},
        {"repetition_penalty": 1.4},
    ):
        written = ours(PROMPTS, max_new_tokens=24, **options)
        assert theirs(PROMPTS, max_new_tokens=24, **options) == written, options
    text: Any = ours(PROMPTS[0], max_new_tokens=24)
    assert "".join(theirs(PROMPTS[0], max_new_tokens=24, stream=True)) == text
    stop = text[-6:-3]
    assert theirs(PROMPTS[0], max_new_tokens=24, stop=stop) == ours(
        PROMPTS[0], max_new_tokens=24, stop=stop
    )
    # a draft takes columns back, a chat goes on from what was read
    assert theirs(PROMPTS[0], max_new_tokens=24, draft=ours) == text
    chats = [Chat(model, max_new_tokens=6) for model in (ours, theirs)]
    for said in ("cat", "mat"):
        assert len({chat.say(said) for chat in chats}) == 1
    assert chats[0].read == chats[1].read


@pytest.mark.parametrize(("engine", "architecture"), EACH)
def test_a_cache_may_be_changed_in_any_way(both: Engines, engine: str, architecture: str) -> None:
    """Rows that are copied, exchanged and left out, columns taken back: logits stay the same."""
    ours, theirs, _ = both(engine, architecture)
    chance = Random(0)
    for _ in range(4):
        rows, padding = 3, torch.tensor([2, 0, 3])
        caches = [Cache.of(ours.config, rows, 64, padding=padding) for _ in range(2)]
        other = torch.randint(290, (2, 5))
        for step in range(8):
            T = 5 if step == 0 else chance.choice([1, 1, 2])
            ids = torch.randint(290, (rows, T))
            with torch.no_grad():
                expected = ours.module(ids, caches[0])
            found = theirs.module(ids, caches[1])
            assert found.shape == expected.shape
            start = 3 if step == 0 else 0  # what stands on padding nobody reads
            torch.testing.assert_close(found[:, start:], expected[:, start:], rtol=1e-3, atol=2e-4)
            kept = torch.tensor(
                chance.choices(range(rows), k=chance.randint(max(1, rows - 1), rows))
            )
            back = chance.choice([0, 0, 1])
            for cache in caches:
                cache.reorder(kept)
                cache.length -= back
            rows = len(kept)
            if step == 4:  # somebody else's text in between
                with torch.no_grad():
                    expected = ours.module(other)
                torch.testing.assert_close(theirs.module(other), expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("engine", ["onnx", "llama.cpp"])
def test_too_long_a_text_is_an_error(both: Engines, engine: str) -> None:
    _, theirs, _ = both(engine, "decoder")
    assert theirs.module.max_len == 200
    with pytest.raises(ContextLengthError, match="201 tokens, but this model has 200 positions"):
        theirs.module(torch.zeros(1, 201, dtype=torch.long))
    with pytest.raises(ContextLengthError, match="200 positions"):
        theirs(PROMPTS[0], max_new_tokens=200)


def test_what_needs_the_weights_says_who_has_them(both: Engines, tmp_path: Path) -> None:
    _, theirs, _ = both("onnx", "decoder")
    for needs in (lambda: theirs.to("bfloat16"), lambda: theirs.to("cpu")):
        with pytest.raises(InputError, match="ONNX Runtime computes on the processor"):
            needs()
    with pytest.raises(InputError, match="load the model without engine"):
        theirs.module.state_dict()
    with pytest.raises(InputError, match="shows none of it"):
        theirs.attention("The cat")
    with pytest.raises(ZooError):
        export(theirs, tmp_path / "again", "onnx")
    assert list(tmp_path.iterdir()) == []


# what is kept


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    require("onnx")
    monkeypatch.setenv("TXZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / FOLDER


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_weights_are_written_once_for_an_engine(
    cache: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    theirs = zoo.load(tiny_model, engine="onnx")
    assert theirs.card == zoo.info(tiny_model)
    assert len(folders(cache)) == 1
    ours = zoo.load(tiny_model)
    prompt = ours.tokenizer.decode([5, 6, 7])
    told = []
    with monkeypatch.context() as patched:
        patched.setattr("zoo.export.export", None)  # not called again
        for more in ([], ["--engine", "onnx"]):
            assert main(["run", str(tiny_model), prompt, "--max-new-tokens", "8", *more]) == 0
            told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert len(folders(cache)) == 1

    ours.module.token_embedding.weight.mul_(1.5)
    ours.save_pretrained(tmp_path / "other")
    theirs = zoo.load(tmp_path / "other", engine="onnx")
    assert len(folders(cache)) == 2
    ids = torch.arange(6)[None]
    with torch.no_grad():
        expected = ours.module(ids)
    torch.testing.assert_close(theirs.module(ids), expected, rtol=1e-4, atol=1e-4)


def test_what_was_not_written_to_its_end_is_never_found(
    cache: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: Model, folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"the first half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(onnx_format.Onnx, "write", lambda self, *given: full(*given))
        with pytest.raises(FolderError, match="No space left on device. Nothing of it is left"):
            zoo.load(tiny_model, engine="onnx")
    assert folders(cache) == []


def test_int8_says_so(tmp_path: Path) -> None:
    require("onnx-int8")
    model = make("decoder")
    folder = export(model, tmp_path / "int8", "onnx-int8")
    theirs = zoo.load(str(folder), engine="onnx-int8")
    ids = torch.randint(290, (2, 9))
    far = (theirs.module(ids) - model.module(ids)).abs().max()
    assert 0 < far < model.module(ids).std()
    with pytest.raises(InputError, match="holds onnx-int8: take engine='onnx-int8'"):
        zoo.load(folder, engine="onnx")


# what reads texts and looks at pictures


@pytest.mark.parametrize(
    ("ref", "given"),
    [
        ("emotion-encoder", ["i feel so happy today", "it makes me angry that nobody came " * 9]),
        ("mlm-encoder", ["the movie was <mask> ."]),
        ("vit-cifar10", [drawing("ship"), drawing("cat")]),
    ],
)
def test_models_that_read_say_the_same(cache: Path, ref: str, given: list[Any]) -> None:
    require("onnx")
    ours, theirs = zoo.load(ref), zoo.load(ref, engine="onnx")
    assert (theirs.name, theirs.pipeline, theirs.config) == (ours.name, ours.pipeline, ours.config)
    said = [list(map(flat, model(given, top_k=3))) for model in (ours, theirs)]
    for our, their in zip(*said, strict=True):
        assert [label for label, _ in our] == [label for label, _ in their]
        assert [p for _, p in our] == pytest.approx([p for _, p in their], abs=1e-5)


def test_an_encoder_decoder_answers_the_same(cache: Path) -> None:
    require("onnx")
    ours, theirs = zoo.load("seq2seq-en-de"), zoo.load("seq2seq-en-de", engine="onnx")
    sources = [
        "A man walks his dog .",
        "Two children are playing in the snow near a house .",
        "Why ?",
    ]
    for options in (
        {},
        {"num_beams": 4, "num_return_sequences": 2},  # rows that share a source, and leave early
        {"temperature": 0.8, "seed": 1},
    ):
        written = ours(sources, max_new_tokens=16, **options)
        assert theirs(sources, max_new_tokens=16, **options) == written, options
    text: Any = ours(sources[0])
    assert "".join(theirs(sources[0], stream=True)) == text
    with pytest.raises(InputError, match="ONNX Runtime holds these weights"):
        theirs.save_pretrained(cache / "copy")


def flat(labels: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """What a model says, with its probabilities."""
    return [(str(one.get("label", one.get("token"))), one["score"]) for one in labels]


def test_a_classifier_is_measured_and_not_explained_in_an_engine(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require("onnx")
    assert main(["run", "emotion-encoder", "i feel so happy", "--engine", "onnx-int8"]) == 0
    assert "joy" in capsys.readouterr().out
    model = zoo.load("emotion-encoder", engine="onnx")
    with pytest.raises(InputError, match="no table of token vectors"):
        attributions(model, "i feel so happy", method="gradient")


# the verbs


def test_verbs_take_an_engine(
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require("onnx")
    data = tmp_path / "own.csv"
    data.write_text("text,label\nI feel so happy,joy\nso sad today,sadness\nI am here,fear\n")
    said = {}
    for way in ([], ["--engine", "onnx"], ["--device", "cpu"]):
        monkeypatch.setattr("sys.stdin", io.StringIO("The river\n"))
        assert main(["chat", "alibi-lm", "--max-new-tokens", "8", *way]) == 0
        talked = capsys.readouterr().out
        assert main(["eval", "emotion-encoder", "--data", str(data), "--json", *way]) == 0
        metrics = json.loads(capsys.readouterr().out)["metrics"]
        score = round(metrics["expected_calibration_error"], 4)  # of the chances themselves
        said[tuple(way)] = talked, score
    assert len(set(said.values())) == 1 and cache.exists()
    words = ["bench", "alibi-lm", "--engine", "onnx", "--rounds", "1", "--tokens", "4", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["weights"], told["parameters"]) == ("onnx", zoo.info("alibi-lm").parameters)
    assert {"write, batch 1", "write, batch 8"} < {one["what"] for one in told["figures"]}


@pytest.mark.parametrize("verb", ["run", "chat", "eval"])
@pytest.mark.parametrize(
    ("way", "words"),
    [
        (["--device", "moon"], "Cannot move alibi-lm to moon: Expected one of cpu, "),
        (["--engine", "onx"], "Unknown engine 'onx'. There is: onnx, onnx-int8, llama.cpp"),
        (["--engine", "onnx", "--device", "cpu"], "leave out device and dtype"),
    ],
)
def test_errors_of_engines_and_devices(
    verb: str, way: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["A"] if verb == "run" else []
    assert main([verb, "alibi-lm", *more, *way]) == 2
    assert words in capsys.readouterr().err


# refusals


@pytest.mark.parametrize(
    ("ref", "engine", "words"),
    [
        ("rope-lm", "onx", "Unknown engine 'onx'. There is: onnx, onnx-int8, llama.cpp"),
        ("imdb-encoder", "llama.cpp", "imdb-encoder is for text-classification"),
        ("seq2seq-en-de", "llama.cpp", "seq2seq-en-de is for translation"),
        ("tiny-captioner", "onnx", "tiny-captioner is for image-to-text"),
        ("tiny-clip", "onnx", "tiny-clip is for zero-shot-image-classification"),
        ("relative-lm", "llama.cpp", "architecture of relative-lm, RelativeDecoder"),
        (
            "shakespeare-char",
            "llama.cpp",
            "shakespeare-char: its tokenizer is of the kind",
        ),
    ],
)
def test_what_an_engine_cannot_compute_is_said_before_any_work(
    cache: Path, monkeypatch: pytest.MonkeyPatch, ref: str, engine: str, words: str
) -> None:
    if engine in ("onnx", "llama.cpp"):
        require(engine)
    monkeypatch.setattr("zoo.engines.load", None)  # no weights are read
    with pytest.raises(InputError, match=words):
        zoo.load(ref, engine=engine)
    assert not cache.exists()


@pytest.mark.parametrize(
    ("config", "engine", "words"),
    [
        ({"model_type": "opt"}, "onnx", "transformers computes ours, and how it masks"),
        ({"model_type": "bart"}, "onnx-int8", "transformers computes ours, and how it masks"),
        ({"model_type": "opt"}, "llama.cpp", "ours is of the model_type 'opt'"),
        (
            {"model_type": "gpt2", "activation_function": "relu"},
            "llama.cpp",
            "ours is a GPT-2 with activation_function='relu'",
        ),
    ],
)
def test_what_a_folder_says_is_read_before_its_weights(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    engine: str,
    words: str,
) -> None:
    require(engine)
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("zoo.engines.load", None)
    monkeypatch.setattr("zoo.export.load", None)
    with pytest.raises(InputError, match=words):
        zoo.load(folder, engine=engine)
    with pytest.raises(InputError, match=words):
        export(folder, tmp_path / "out", {"llama.cpp": "gguf"}.get(engine, engine))
    assert {path.name for path in tmp_path.iterdir()} == {"ours"}


def test_an_engine_has_no_device(cache: Path) -> None:
    with pytest.raises(InputError, match="leave out device and dtype"):
        zoo.load("rope-lm", engine="onnx", dtype="bfloat16")


@pytest.mark.parametrize(("engine", "extra"), [("onnx", "onnx"), ("llama.cpp", "llama-cpp")])
def test_an_engine_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, engine: str, extra: str
) -> None:
    monkeypatch.setattr("zoo.engines.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'txzoo\[{extra}\]'"):
        zoo.load("rope-lm", engine=engine)


@pytest.mark.parametrize(("engine", "file"), [("onnx", "model.onnx"), ("llama.cpp", "model.gguf")])
def test_a_damaged_export_is_named(tmp_path: Path, engine: str, file: str) -> None:
    require(engine)
    (tmp_path / file).write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(FolderError, match=file):
        zoo.load(tmp_path, engine=engine)


def test_a_graph_of_others_is_refused(both: Engines, tmp_path: Path) -> None:
    require("onnx")
    import onnx

    *_, folder = both("onnx", "decoder")
    graph = onnx.load(folder / "model.onnx")
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(FolderError, match="does not say what model it is of"):
        zoo.load(tmp_path, engine="onnx")
    with pytest.raises(FolderError, match="config.json"):
        zoo.load(tmp_path)

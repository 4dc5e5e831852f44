"""Embeddings of a model on the Hub: two tensors by range requests, never the whole file."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

D, POSITIONS, OTHER = 16, 40, 300_000  # numbers of the tensor that nobody asks for
RECIPE = """
architecture = "decoder"
task = "synthetic"
[tokenizer]
kind = "source"
[config]
max_seq_len = 32
d_model = 16
n_layers = 1
n_heads = 2
d_ff = 16
[embeddings]
source = "hf://REPO"
position = "wpe.weight"
frozen_epochs = 9
[training]
steps = 3
batch_tokens = 256
learning_rate = 1e-2
storage = "float32"
"""
TRAIN = """
from unittest.mock import patch  # the process is that of other tests too
import torch
import zoo_synthetic.task
from zoo.training import train
torch.set_num_threads(1)
few = {"train": 40, "validation": 4, "test": 6}
zoo_synthetic.task.generate.cache_clear()
with patch.object(zoo_synthetic.task, "LINES", few):
    model = train(recipe, out=out)
zoo_synthetic.task.generate.cache_clear()
text = model("count 1", max_new_tokens=4)
result = model.card.training["embeddings"]
"""
READ = """
from safetensors.torch import save_file
from zoo.training.embeddings import open_source
source = open_source("hf://" + ref)
save_file({name: source.read(name) for name in names}, out)
"""
NAMES = ["wte.weight", "wpe.weight"]


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A folder of GPT-2's layout with random numbers, most of them not embeddings."""
    folder = tmp_path / "gpt2"
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["count fibonacci zigzag 1 2 3\n" * 9], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(4)
    tensors = {
        "h.0.mlp.c_fc.weight": torch.randn(OTHER),
        "wpe.weight": torch.randn(POSITIONS, D),
        "wte.weight": torch.randn(tokenizer.get_vocab_size(), D),
        "z.after": torch.randn(OTHER),
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def asked_for(hub: Any) -> int:
    """How many bytes of weights were asked for; a request for a whole file fails the test."""
    stored = [line for line in hub.log if line.startswith("GET /storage")]
    assert 2 * len(stored) == len(hub.ranges)  # of the interface, which leads to storage
    ends = [value.removeprefix("bytes=").split("-") for value in hub.ranges[::2]]
    return sum(int(end) - int(begin) + 1 for begin, end in ends)


@pytest.fixture(autouse=True)
def _no_ranges(hub: Any) -> None:
    if hub is not None:
        hub.ranges.clear()


def test_a_model_begins_with_two_tensors_of_the_hub(
    run: Any, hub: Any, repo: str, gpt2: Path, tmp_path: Path
) -> None:
    run.upload(gpt2, repo)
    commit = run.commits(repo)[0]
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("REPO", f"{repo}@{commit}"))
    hub.ranges.clear()
    hub.log.clear()
    paths = {"recipe": str(tmp_path / "tiny.toml"), "out": str(tmp_path / "out")}
    answer = run(TRAIN, **paths)
    assert answer.error is None, answer.message
    theirs = load_file(gpt2 / "model.safetensors")
    ours = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(ours["token_embedding.weight"], theirs["wte.weight"])
    assert torch.equal(ours["positions.weight"], theirs["wpe.weight"][:32])
    assert answer.result["source"] == f"hf://{repo}@{commit}"
    needed = sum(theirs[name].numel() * 4 for name in NAMES)
    size = (gpt2 / "model.safetensors").stat().st_size
    assert needed < asked_for(hub) <= needed + (64 << 10) < size / 10


def read(run: Any, gpt2: Path, ref: str, tmp_path: Path, **options: Any) -> Any:
    """The two tables as the client's process reads them; compared where it does."""
    out = tmp_path / "read.safetensors"
    answer = run(READ, ref=ref, names=NAMES, out=str(out), **options)
    if answer.error is None:
        theirs = load_file(gpt2 / "model.safetensors")
        for name, tensor in load_file(out).items():
            assert torch.equal(tensor, theirs[name]) and tensor.dtype == theirs[name].dtype
    return answer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_numbers(
    run: Any, repo: str, gpt2: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    theirs = load_file(gpt2 / "model.safetensors")
    save_file({n: t.to(dtype) for n, t in theirs.items()}, gpt2 / "model.safetensors")
    run.upload(gpt2, repo)
    assert read(run, gpt2, repo, tmp_path).error is None


def test_a_header_longer_than_the_first_request(
    run: Any, hub: Any, repo: str, gpt2: Path, tmp_path: Path
) -> None:
    theirs = load_file(gpt2 / "model.safetensors")
    more = {f"a.tensor.with.a.long.name.number.{n}": torch.zeros(1) for n in range(1500)}
    save_file(theirs | more, gpt2 / "model.safetensors")
    run.upload(gpt2, repo)
    hub.ranges.clear()
    assert read(run, gpt2, repo, tmp_path).error is None
    assert len(hub.ranges) == 2 * 4  # the header in two, each led on to storage


def test_what_the_cache_holds_is_not_asked_for(
    run: Any, run_offline: Any, hub: Any, repo: str, gpt2: Path, tmp_path: Path
) -> None:
    (gpt2 / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    run.upload(gpt2, repo)
    answer = read(run_offline, gpt2, repo, tmp_path)
    assert answer.error == "HubError"
    assert f"this is offline; with a network, 'txzoo pull hf://{repo}'" in answer.message
    assert run("from zoo.hub import fetch\nfetch(repo, None)", repo=repo).error is None
    hub.log.clear()
    assert read(run, gpt2, repo, tmp_path).error is None
    assert not hub.log
    assert read(run_offline, gpt2, repo, tmp_path).error is None


@pytest.mark.parametrize("kind", ["truncate", "drop", "shorter"])
def test_answers_that_are_cut_off(
    run: Any, hub: Any, repo: str, gpt2: Path, tmp_path: Path, kind: str
) -> None:
    run.upload(gpt2, repo)
    hub.fail("GET /storage", kind, times=9, value=20)
    answer = read(run, gpt2, repo, tmp_path)
    assert answer.error in ("HubError", "WeightsError"), answer.message
    assert f"hf://{repo}" in answer.message or "try again" in answer.message
    hub.faults.clear()
    assert read(run, gpt2, repo, tmp_path).error is None


def test_numbers_that_are_not_finite(run: Any, repo: str, gpt2: Path, tmp_path: Path) -> None:
    theirs = load_file(gpt2 / "model.safetensors")
    theirs["wpe.weight"][3, 5] = torch.nan
    save_file(theirs, gpt2 / "model.safetensors")
    run.upload(gpt2, repo)
    answer = read(run, gpt2, repo, tmp_path)
    assert answer.error == "WeightsError" and "wpe.weight holds NaN" in answer.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header["wpe.weight"].update(shape=[POSITIONS, D + 1]), "wpe.weight' has"),
        (lambda header: header["wte.weight"].update(data_offsets=[0, 1 << 40]), "cannot lie in"),
        (lambda header: header["wte.weight"].update(data_offsets=[8, 4]), "cannot lie in"),
        (lambda header: header["wte.weight"].pop("shape"), "does not parse"),
        (lambda header: header.update(x=3), "does not parse"),
        (None, "is no safetensors file"),
    ],
)
def test_headers_that_lie(
    run: Any, repo: str, gpt2: Path, tmp_path: Path, change: Any, message: str
) -> None:
    file = gpt2 / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if change is None:
        file.write_bytes(b"PK\x03\x04" + data)
    else:
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    run.upload(gpt2, repo)
    answer = read(run, gpt2, repo, tmp_path)
    assert answer.error == "WeightsError" and message in answer.message


def test_what_is_not_there_or_not_allowed(
    run: Any, hub: Any, repo: str, gpt2: Path, tmp_path: Path
) -> None:
    answer = read(run, gpt2, repo, tmp_path)
    assert answer.error == "HubError" and "no model repository" in answer.message
    run.upload(gpt2, repo)
    answer = read(run, gpt2, f"{repo}@none", tmp_path)
    assert answer.error == "HubError" and "has no revision 'none'" in answer.message
    hub.set(repo, gated=True)
    answer = read(run, gpt2, repo, tmp_path, role="other")
    assert answer.error == "HubError" and "has to be asked for" in answer.message
    assert read(run, gpt2, repo, tmp_path).error is None

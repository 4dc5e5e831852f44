"""What the benchmarks count, and what they leave out; no timing is asserted."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from models import as_model
from safetensors.torch import load_file, save_file

import zoo
from zoo.tokenization import build_tokenizer

ROOT = Path(__file__).parents[2]
CHILD = """
import sys
sys.path.insert(0, {folder!r})
from turns import serve
shares = iter([0.01, 0.5, 0.02])
def prepare():
    print("not an answer")
    return {{"ids": [[1, 2]]}}, lambda: {{"seconds": 2.0, "waited": next(shares)}}
serve(prepare)
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of benchmarks/ or of docs/_build/."""
    for folder in ("benchmarks", "docs/_build"):
        monkeypatch.syspath_prepend(ROOT / folder)

    def load(name: str) -> ModuleType:
        import importlib

        return importlib.import_module(name)

    return load


def test_starved_rounds_are_taken_again(bench: Any, capfd: pytest.CaptureFixture[str]) -> None:
    turns = bench("turns")
    code = CHILD.format(folder=str(ROOT / "benchmarks"))
    peer = turns.Peer([sys.executable, "-c", code])
    assert peer.facts == {"ids": [[1, 2]]}
    turns.take_turns({"one": peer}, 2, 6)
    assert [sample["waited"] for sample in peer.samples] == [0.01, 0.5, 0.02]
    assert [sample["waited"] for sample in peer.fed] == [0.01, 0.02]
    assert all(sample["peak_bytes"] > 1 << 20 for sample in peer.samples)
    assert "not an answer" in capfd.readouterr().err
    ended = turns.Peer([sys.executable, "-c", "raise SystemExit(3)"])
    assert ended.facts is None
    ended.round()
    ended.end()
    assert ended.samples == []


def test_the_middle_and_its_quartiles(bench: Any) -> None:
    turns = bench("turns")
    assert turns.spread([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)
    assert turns.spread([7.0]) == (7.0, 7.0, 7.0)


def test_rates_and_equal_tokens(bench: Any) -> None:
    table = bench("table")
    row = table.all_rows()["decode-small-8"]
    spec = {**row.spec, "peer": "zoo"}
    assert table.value_of(row, spec, 2.0) == 8 * 100 / 2.0

    def peer(ids: list[list[int]], *seconds: float) -> Any:
        samples = [{"seconds": s, "waited": 0.0, "peak_bytes": 5} for s in seconds]
        facts = {"ids": ids, "threads": 1}
        return type("P", (), {"facts": facts, "samples": samples, "fed": samples})

    peers = {
        "zoo": peer([[1, 2, 9], [4, 5, 6]], 2.0, 4.0, 1.0),
        "transformers": peer([[1, 2, 3], [4, 5, 6]]),
    }
    found = table.numbers(row, spec, peers["zoo"], peers)
    assert found["same"] == [5, 6]
    assert found["value"] == 400.0
    assert found["distinct"] == 6
    starved = table.numbers(row, spec, peers["transformers"], peers)
    assert "value" not in starved and "same" not in starved
    assert not table.is_done({"peers": {"zoo": found, "transformers": starved}, "left_out": {}})
    assert not table.is_done({"peers": {"zoo": found}, "left_out": {"litgpt": table.FAILED}})
    assert table.is_done({"peers": {"zoo": found}, "left_out": {"litgpt": "not given"}})
    assert not table.is_done(None)
    few = peer([[1, 2, 9], [4, 5, 6]], 2.0, 4.0)
    found = table.numbers(row, spec, few, {"zoo": few})
    assert found["rounds"] == 2 and "value" not in found
    assert not table.is_done({"peers": {"zoo": found}, "left_out": {}})
    # the row of positions has a twin for each
    peers = {"ALiBi": peer([[1, 2, 3]]), "RoPE": peer([[1, 2, 3]])}
    peers |= {"ALiBi, transformers": peer([[1, 2, 9]]), "RoPE, transformers": peer([[1, 2, 3]])}
    same = {name: table.numbers(row, spec, one, peers).get("same") for name, one in peers.items()}
    assert same == {
        "ALiBi": [2, 3],
        "RoPE": [3, 3],
        "ALiBi, transformers": None,
        "RoPE, transformers": None,
    }


def test_what_is_written_after_a_prompt_is_timed_in_one_call(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = bench("peers")
    now = [0.0]
    module = torch.nn.Identity()

    def write(new: int) -> list[list[int]]:
        """4 s for the prompt, half a second for each token after the first, 1 s at the end."""
        for seconds in (4.0, *[0.5] * (new - 1)):
            now[0] += seconds
            module(torch.zeros(1))
        now[0] += 1.0
        return [[7] * new]

    monkeypatch.setattr(peers, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(peers, "WRITERS", {"zoo": lambda spec: (write, module)})
    facts, work = peers.context({"peer": "zoo onnx", "new": 33})
    assert facts["ids"] == [[7] * 33]
    for _ in range(2):
        assert work() == {"first": 4.0, "seconds": 16.0}


def test_a_row_names_what_it_leaves_out(bench: Any) -> None:
    table = bench("table")
    assert table.missing("litgpt", {}) == "no --peer litgpt=PYTHON"
    assert table.missing("litgpt bfloat16", {"litgpt": "python"}) is None
    assert table.missing("zoo", {}) is None


def test_every_row_of_the_issue_is_there(bench: Any) -> None:
    rows = bench("table").all_rows()
    for shape in ("tiny", "small", "gpt2"):
        assert {f"decode-{shape}-1", f"decode-{shape}-8"} <= rows.keys()
    positions = ("learned", "sinusoidal", "ALiBi", "RoPE", "relative")
    twins = (f"{name}, transformers" for name in positions if name != "relative")
    assert rows["positions"].peers.keys() == {*positions, *twins}
    assert {f"context-{n}" for n in (128, 512, 2048, 8192)} <= rows.keys()
    assert rows["decode-gpt2-1"].spec["sizes"]["vocab_size"] == 50257


def test_the_page_is_drawn_from_the_newest_results(bench: Any, tmp_path: Path) -> None:
    measured = bench("measured")
    assert "Nothing has been measured" in measured.markdown(measured.kept(tmp_path))
    facts = {
        "value": 300.0,
        "low": 290.0,
        "high": 310.0,
        "rounds": 3,
        "turns": 3,
        "peak_bytes": 2e6,
    }
    row = {
        "what": "decoding, small",
        "unit": "tokens/s",
        "peers": {
            "zoo": {**facts, "same": [9, 10]},
            "transformers": {**facts, "value": 150.0},
            "litgpt": {"rounds": 0, "turns": 9},
            "zoo int8": {**facts, "rounds": 2, "turns": 9},
        },
        "left_out": {"x-transformers": "no --peer"},
    }
    tiny = {**row, "what": "decoding, tiny"}
    for day, more in (("2026-01-01", {"decode-tiny-1": tiny}), ("2026-02-01", {})):
        rows = {"decode-small-1": row, **more}
        results = {
            "date": day,
            "hardware": "a CPU",
            "processor": "X",
            "versions": {"torch": "2"},
            "rows": rows,
        }
        (tmp_path / f"cpu-{day}.json").write_text(json.dumps(results))
    page = measured.markdown(measured.kept(tmp_path))
    new, old = page.split("## 2026-01-01\n")
    assert new.startswith("## 2026-02-01\n\na CPU, X; torch 2.")
    assert "Decoding, small" in new and "Decoding, tiny" in old
    assert "Decoding, small" not in old  # it was measured again
    assert "| zoo | 300 | 290 to 310, 3 rounds | 2.00x | 9 of 10 | 2 |" in page
    assert "| litgpt | – | starved in 9 of 9 turns | – | – | 0 |" in page
    assert "| zoo int8 | – | starved in 7 of 9 turns | – | – | 2 |" in page
    assert "Left out: x-transformers (no --peer)." in page


def test_the_export_table(
    bench: Any,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("transformers", reason="needs txzoo[hf]")
    pytest.importorskip("gguf", reason="needs txzoo[gguf]")
    monkeypatch.setattr("zoo.quantization.LEAST", 16)  # its matrices are small
    exports = bench("exports")
    files = tmp_path / "table.json", tmp_path / "table.md"
    formats = ("transformers", "gguf", "safetensors-int8")
    words = ["exports.py", str(tiny_model), "--formats", *formats]
    words += [word for file in files for word in ("--save", str(file))]
    monkeypatch.setattr(sys, "argv", words)
    exports.main()
    assert capsys.readouterr().out == files[1].read_text()
    rows = json.loads(files[0].read_text())["rows"]
    assert [row["format"] for row in rows] == list(formats)
    twin, refused, coarse = rows
    assert twin["opened_by"] == "transformers.BloomForCausalLM.from_pretrained"
    assert twin["ok"] and twin["same"] == twin["tokens"] > 0 and twin["texts"] == 3
    assert 0 < twin["difference"] < 1e-3 < twin["largest"]
    weights = (tiny_model / "model.safetensors").stat().st_size
    assert twin["safetensors_bytes"] == coarse["safetensors_bytes"] == weights
    assert coarse["bytes"] < weights and coarse["difference"] > twin["difference"]
    assert exports.line_of(refused).endswith(
        "of byte-level byte pairs alone llama.cpp has the like | | | | |"
    )
    assert "bytes" not in refused
    (line,) = exports.lines(rows, True)
    assert line.count("|") == exports.head(formats, True)[0].count("|") and " | – | " in line

    def spoiled(name: str, folder: Path, format: str) -> None:
        export(name, folder, format)
        tensors = load_file(folder / "model.safetensors")
        tensors["transformer.h.0.mlp.dense_h_to_4h.bias"] += 5
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    export = exports.export
    monkeypatch.setattr(exports, "export", spoiled)
    (row,) = exports.measured(str(tiny_model), ("transformers",))
    assert not row["ok"] and "**not the same**" in exports.line_of(row)


@pytest.mark.parametrize("architecture", ["decoder", "alibi-decoder", "rope-decoder"])
def test_a_gguf_is_read_by_transformers_where_llama_cpp_is_missing(
    bench: Any, tmp_path: Path, architecture: str
) -> None:
    pytest.importorskip("transformers", reason="needs txzoo[hf]")
    pytest.importorskip("gguf", reason="needs txzoo[gguf]")
    exports = bench("exports")
    tokenizer = build_tokenizer(
        "The cat sat on the mat.\n", {"kind": "byte-pair", "vocab_size": 270}
    )
    sizes = {"max_seq_len": 48, "d_model": 16, "n_layers": 2, "n_heads": 4, "d_ff": 64}
    if architecture == "rope-decoder":
        sizes["n_kv_heads"] = 2
    module = zoo.create(architecture, vocab_size=tokenizer.get_vocab_size(), **sizes)
    model = as_model(module.eval(), tokenizer)
    folder = exports.export(model, tmp_path / "out", "gguf")
    found = exports.compare(model, folder, exports.ReadByTransformers(), ["The cat", "on the mat"])
    assert found.engine.startswith("transformers ")
    assert found.difference < 1e-5 and found.same == found.tokens > 0 and not found.misread

"""What `txzoo bench` times: that the work is the work it says, and what it makes of the times."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from models import as_model

import zoo
from zoo.cli import main
from zoo.errors import InputError, ZooError
from zoo.evaluation import speed
from zoo.model import Model

SIZES = {"vocab_size": 40, "max_seq_len": 24, "d_model": 8, "n_layers": 1, "n_heads": 2, "d_ff": 8}


def model_of(architecture: str, **sizes: Any) -> Model:
    torch.manual_seed(0)
    module = zoo.create(architecture, **sizes).eval().requires_grad_(False)
    return as_model(module)


def calls(model: Model, work: speed.Work) -> list[tuple[int, ...]]:
    """The shapes of what a module is called with when a work is done."""
    seen: list[tuple[int, ...]] = []
    hook = model.module.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    work.run()
    hook.remove()
    return seen


def test_a_decoder_writes_what_is_counted() -> None:
    model = model_of("decoder", **SIZES)
    whole, one, three = speed.works(model, batches=(1, 3), tokens=5)
    assert (whole.unit, whole.count) == ("tokens", 24)
    assert calls(model, whole) == [(1, 24)]
    assert (one.count, three.count) == (5, 15)
    # half of the positions are read, then a token at a time, the last of which is not read
    assert calls(model, one) == [(1, 12), *[(1, 1)] * 4]
    assert calls(model, three) == [(3, 12), *[(3, 1)] * 4]


def test_no_more_is_written_than_there_are_positions() -> None:
    model = model_of("decoder", **SIZES)
    (work,) = speed.works(model, batches=(1,), tokens=1000)[1:]
    assert work.count == 13
    assert len(calls(model, work)) == 13


def test_a_decoder_without_an_end() -> None:
    model = model_of("rope-decoder", **SIZES, n_kv_heads=1)
    assert [work.count for work in speed.works(model, batches=(2,), tokens=3)] == [24, 6]


def test_an_encoder_decoder_answers() -> None:
    model = model_of("seq2seq", **SIZES, n_encoder_layers=1)
    work, both = speed.works(model, batches=(1, 4), tokens=6)
    assert work.what == "answer, batch 1" and (work.count, both.count) == (6, 24)
    assert [len(row) for row in work.run().ids] == [6]  # type: ignore[attr-defined]
    assert [len(row) for row in both.run().ids] == [6] * 4  # type: ignore[attr-defined]


def test_an_encoder_reads_texts_and_others_pictures() -> None:
    encoder = zoo.load("speech-encoder")
    (work,) = speed.works(encoder, batches=(3,))
    assert (work.unit, work.count) == ("texts", 3)
    ((rows, length),) = calls(encoder, work)
    assert rows == 3 and f"texts of {length} tokens" in work.what
    sizes = {key: SIZES[key] for key in ("d_model", "n_layers", "n_heads", "d_ff")}
    vit = model_of("vit", **sizes, image_size=8, patch_size=4, labels=("a", "b"))
    (work,) = speed.works(vit, batches=(2,))
    assert (work.unit, work.count) == ("pictures", 2)
    assert calls(vit, work) == [(2, 3, 8, 8)]


def test_what_is_not_timed() -> None:
    with pytest.raises(InputError, match="tiny-captioner puts pictures into words, which is not"):
        speed.works(zoo.load("tiny-captioner"))

    class Odd(torch.nn.Module):
        config = None

        def forward(self, waves: torch.Tensor) -> torch.Tensor:
            return waves

    odd = Model(name="odd", module=Odd(), config=None, tokenizer=None, pipeline="x", card=None)
    with pytest.raises(InputError, match="odd takes waves, which is not timed"):
        speed.works(odd)


@pytest.mark.parametrize("sizes", [{"tokens": 0}, {"batches": (0,)}, {"batches": (1, -2)}])
def test_sizes_below_one(sizes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"(tokens|batch) must be at least 1, got (0|-2)"):
        speed.works(model_of("decoder", **SIZES), **sizes)


def test_works_take_turns_and_the_first_round_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, order = [0.0], []
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(speed, "_waited", lambda: 0)

    def work(name: str, times: list[float]) -> speed.Work:
        left = iter(times)

        def run() -> None:
            order.append(name)
            clock[0] += next(left)

        return speed.Work(name, "tokens", 12, run)

    a, b = speed.measured([work("a", [99, 1, 3, 2]), work("b", [99, 4, 4, 6])], 3)
    assert order == ["a", "b"] * 4
    assert (a.median, a.low, a.high, a.unit, a.rounds) == (6.0, 4.0, 12.0, "tokens/s", 3)
    assert (b.median, b.low, b.high) == (3.0, 2.0, 3.0)
    with pytest.raises(InputError, match="rounds must be at least 1, got 0"):
        speed.measured([], 0)


def test_rounds_that_waited_are_left_out_if_there_are_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, waited = [0.0], [0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(speed, "_waited", lambda: waited[0])

    def measured(waits: list[float]) -> speed.Figure:
        left = iter([0.0, *waits])

        def run() -> None:
            share = next(left)
            clock[0] += 1 + share
            waited[0] += int(share * 1e9)

        (figure,) = speed.measured([speed.Work("a", "texts", 6, run)], len(waits))
        return figure

    calm = measured([0.0, 0.5, 0.01])  # the second waited a third of its time
    assert (calm.rounds, calm.undisturbed, calm.low) == (3, 2, pytest.approx(6 / 1.01))
    none = measured([0.5, 1.0])
    assert (none.undisturbed, none.median) == (0, pytest.approx((6 / 1.5 + 6 / 2) / 2))


def test_the_kernel_counts_what_a_thread_waits() -> None:
    if not speed.SCHEDULE.exists():
        assert speed._waited() == 0
    else:
        first = speed._waited()
        assert first >= 0 and speed._waited() >= first


def test_figures_of_a_model(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(tiny_model), "--rounds", "1", "--tokens", "3", "--batch", "2"]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == "tiny" and told["weights"] == "float32"
    assert told["parameters"] == zoo.info(tiny_model).parameters
    assert set(told["machine"]) == {"hardware", "system", "python", "torch", "txzoo"}
    figures = {figure["what"]: figure for figure in told["figures"]}
    cold, load, peak, read, write = figures.values()
    assert cold["what"] == "cold process to the first token" and cold["unit"] == "s"
    assert 0 < load["median"] < cold["median"] < 600
    assert peak["unit"] == "bytes" and peak["median"] > 50e6  # torch alone takes as much
    assert read["what"].startswith("read ") and write["what"] == "write, batch 2"
    assert all(f["low"] <= f["median"] <= f["high"] and f["low"] > 0 for f in figures.values())


def test_the_table(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [speed.Figure("its peak memory", "bytes", 3e8, 3e8, 3e8, 1, 1)]
    monkeypatch.setattr(speed, "_cold", lambda *_: found)
    assert main(["bench", str(tiny_model), "--rounds", "2", "--tokens", "2"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["what", "unit", "median"]
    assert re.search(r"its peak memory +300.0 MB +300.0 MB +300.0 MB +-$", rows[0])
    assert re.search(r"write, batch 8 +tokens/s .* of 2$", rows[3])
    assert "tiny: " in rows[5] and "float32 weights" in rows[5]
    assert "thread" in rows[6] and "txzoo" in rows[6]


def test_a_process_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setattr(speed, "COLD", "raise SystemExit('no room')")
    with pytest.raises(ZooError, match="A process that loads tiny failed: no room"):
        speed._cold(str(tiny_model), zoo.load(tiny_model), 1)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--rounds", "0"], "rounds must be at least 1, got 0"),
        (["--batch", "0"], "batch must be at least 1, got 0"),
        (["--tokens", "-1"], "tokens must be at least 1, got -1"),
    ],
)
def test_wrong_options(
    options: list[str], words: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_model), *options]) == 2
    assert words in capsys.readouterr().err


def test_an_unknown_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "alibi"]) == 2
    assert "Did you mean 'alibi-lm'" in capsys.readouterr().err

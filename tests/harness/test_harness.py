"""The model `txzoo` of lm-evaluation-harness, beside the harness's own `hf` on an exported twin."""

import json
import logging
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.cli import main
from zoo.errors import ContextLengthError, InputError
from zoo.export import export

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from zoo.harness import ZooLM  # noqa: E402

LONG = "The river rises in the north and flows to the south . " * 6
WINDOW = 48
TASK = """
task: toy_{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
"""
CHOICE = """
doc_to_text: "{{text}}"
doc_to_choice: [" the city", " xylophone zebra"]
doc_to_target: 0
metric_list: [{metric: acc}]
"""
ROLLING = """
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
"""
DOCUMENTS = ["The museum was built in", "He was born in", "It is " + "very " * 60 + "near"]


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness changes the process that it runs in: logging, and a variable."""
    monkeypatch.setattr(logging.root, "handlers", [*logging.root.handlers])
    monkeypatch.setattr(logging.root, "level", logging.root.level)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture
def own_tasks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the thousands that the harness brings takes longer than all else here."""
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


@pytest.fixture(scope="module", params=["alibi-lm", "learned-lm"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Ours in batches of three, and the harness's own on the twin one by one."""
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(1)
    ours = ZooLM(request.param, batch_size=3, max_length=WINDOW)
    twin = export(request.param, tmp_path_factory.mktemp("twins") / request.param)
    theirs = HFLM(
        pretrained=str(twin),
        device="cpu",
        batch_size=1,
        max_length=WINDOW,
        prefix_token_id=ours.prefix_token_id,
        softmax_dtype="float32",
    )
    theirs.tokenizer.add_special_tokens({"eos_token": "<|never|>"})  # it cannot do without
    return ours, theirs


@pytest.mark.reference
def test_log_likelihoods_are_those_of_hf(pair: Any) -> None:
    ours, theirs = pair
    asked = requests(
        "loglikelihood",
        ("The museum was built in", " 1914 ."),
        ("The museum was built in ", " the"),  # a space at the end
        ("", "The president"),
        (LONG, " It ends here ."),  # the window loses its beginning
        ("In the United", " States"),
    )
    found, expected = ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True)
    torch.testing.assert_close([a for a, _ in found], [b for b, _ in expected], atol=2e-4, rtol=0)
    greedy = [is_greedy for _, is_greedy in found]
    assert greedy == [is_greedy for _, is_greedy in expected]
    assert True in greedy and False in greedy


@pytest.mark.reference
def test_rolling_log_likelihoods_are_those_of_hf(pair: Any) -> None:
    ours, theirs = pair
    asked = requests("loglikelihood_rolling", (LONG,), ("A short text .",))
    assert len(ours.tok_encode(LONG)) > 1.5 * WINDOW
    torch.testing.assert_close(
        ours.loglikelihood_rolling(asked),
        theirs.loglikelihood_rolling(asked, disable_tqdm=True),
        atol=1e-3,
        rtol=0,
    )


@pytest.mark.reference
def test_what_is_written_is_what_hf_writes(pair: Any) -> None:
    ours, theirs = pair
    asked = requests(
        "generate_until",
        ("The museum was built in", {"until": ["."], "max_gen_toks": 16}),
        ("In 1914 ,", {"until": ["\n"], "max_gen_toks": 12}),
        (LONG, {"until": [" the"], "max_gen_toks": 16}),
        ("The museum", {"until": ["."], "max_gen_toks": 16}),
    )
    found = ours.generate_until(asked)
    # its rows of other lengths in one batch differ, so it gets them one by one
    assert found == theirs.generate_until(asked, disable_tqdm=True)
    assert all(found)
    assert not any("." in text for text in (found[0], found[3]))


@pytest.fixture(scope="module")
def lm() -> ZooLM:
    torch.set_num_threads(1)
    return ZooLM("alibi-lm", batch_size=2, max_length=WINDOW)


def by_hand(lm: ZooLM, ids: list[int], last: int) -> float:
    """The log-likelihood of the last ids, one step at a time."""
    total = 0.0
    for place in range(len(ids) - last, len(ids)):
        logits = lm.model.module(torch.tensor([ids[:place]]))[0, -1]
        total += (logits[ids[place]] - logits.logsumexp(0)).item()
    return total


def test_two_that_are_one_token_are_read_apart(lm: ZooLM) -> None:
    assert len(lm.tok_encode("in the")) == len(lm.tok_encode("in th"))
    [(found, _)] = lm.loglikelihood(requests("loglikelihood", ("in th", "e")))
    expected = by_hand(lm, lm.tok_encode("in th") + lm.tok_encode("e"), 1)
    assert found == pytest.approx(expected, abs=1e-4)


def test_no_token_is_certain(lm: ZooLM) -> None:
    assert lm._loglikelihood_tokens([(None, [5], [])]) == [(0.0, True)]
    assert lm.loglikelihood_rolling(requests("loglikelihood_rolling", ("",))) == [0.0]


def test_a_continuation_longer_than_the_window_is_refused(lm: ZooLM) -> None:
    with pytest.raises(ContextLengthError, match=f"tokens, alibi-lm reads {WINDOW} at once"):
        lm.loglikelihood(requests("loglikelihood", ("A", LONG)))


def test_more_new_tokens_than_the_window_are_fewer(
    lm: ZooLM, caplog: pytest.LogCaptureFixture
) -> None:
    [text] = lm.generate_until(
        requests("generate_until", (LONG, {"until": [], "max_gen_toks": 1000}))
    )
    assert 0 < len(lm.tok_encode(text)) <= WINDOW // 2 + 1
    assert "of 1000 that the task lets it write it writes 24" in caplog.text


def test_sampling_is_taken_from_the_task(lm: ZooLM) -> None:
    way = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.5, "top_k": 50}
    texts = set()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        texts.add(lm.generate_until(requests("generate_until", ("The", way)))[0])
    assert len(texts) == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": "speech-encoder"}, InputError, "speech-encoder is a text-classification model"),
        ({"name": "speech-decoder", "max_length": 9999}, ContextLengthError, "max_length=9999"),
    ],
)
def test_what_it_cannot_measure(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ZooLM(**options)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two tasks of files on the disk."""
    folder = tmp_path_factory.mktemp("tasks")
    file = folder / "texts.json"
    file.write_text("\n".join(json.dumps({"text": text}) for text in DOCUMENTS))
    for kind, rest in {"multiple_choice": CHOICE, "loglikelihood_rolling": ROLLING}.items():
        (folder / f"{kind}.yaml").write_text(TASK.format(kind=kind, file=file) + rest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        yield folder


def test_tasks_on_files(tasks: Path, lm: ZooLM) -> None:
    """Scores as they follow from the module's own outputs."""
    found = lm_eval.simple_evaluate(
        model="txzoo",
        model_args=f"name=alibi-lm,max_length={WINDOW}",
        tasks=["toy_multiple_choice", "toy_loglikelihood_rolling"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )["results"]

    def score(text: str, choice: str) -> float:
        ids, before = lm.tok_encode(text + choice), lm.tok_encode(text)
        return by_hand(lm, ids[-WINDOW - 1 :], len(ids) - len(before))

    right = [score(text, " the city") > score(text, " xylophone zebra") for text in DOCUMENTS]
    assert found["toy_multiple_choice"]["acc,none"] == pytest.approx(sum(right) / len(right))
    nats = 0.0
    for text in DOCUMENTS:
        ids = [lm.prefix_token_id, *lm.tok_encode(text)]
        nats += by_hand(lm, ids[: WINDOW + 1], min(WINDOW, len(ids) - 1))
        rest = len(ids) - 1 - WINDOW
        if rest > 0:
            nats += by_hand(lm, ids[-WINDOW - 1 :], rest)
    size = sum(len(text.encode()) for text in DOCUMENTS)
    expected = -nats / size / math.log(2)
    assert found["toy_loglikelihood_rolling"]["bits_per_byte,none"] == pytest.approx(
        expected, rel=1e-4
    )


def test_the_verb_hands_over(
    tasks: Path, own_tasks_only: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "txzoo", "--model_args", "name=alibi-lm", "--include_path", str(tasks)]
    assert main(["lm-eval", *words, "--tasks", "toy_multiple_choice", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert "txzoo ({'name': 'alibi-lm'})" in out
    assert "|toy_multiple_choice|" in out


def test_an_unknown_model_is_the_zoos_error(
    tasks: Path, own_tasks_only: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "txzoo", "--model_args", "name=alibi", "--include_path", str(tasks)]
    assert main(["lm-eval", *words, "--tasks", "toy_multiple_choice"]) == 2
    assert "Unknown model 'alibi'. Did you mean 'alibi-lm'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["alibi-lm", "rope-lm", "shakespeare-char", "synthetic-decoder"])
def test_any_language_model_is_measured_on_any_such_task(name: str) -> None:
    """`txzoo eval --task`: tokenizers of other texts read the synthetic one."""
    found = zoo.evaluate(name, "synthetic", limit=100)
    assert math.isfinite(found["perplexity_per_token"])

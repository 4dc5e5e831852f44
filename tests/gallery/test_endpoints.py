"""The gallery as programs meet it: stable names, and the answers that the library gives."""

import ast
import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from zoo_gallery.snippets import PICTURE, example_labels, http_snippet
from zoo_gallery.state import Limits
from zoo_gallery.views.bars import reader
from zoo_gallery.views.text_classification import labels

import zoo
from zoo.attention import token_labels
from zoo.conversation import asked
from zoo.data import PAIRED
from zoo.drawings import drawing

BUNDLED = zoo.list_models(bundled=True)
OPTIONS: dict[str, Any] = {"temperature": 0.7, "top_p": 0.95, "top_k": 50, "seed": 3}


@pytest.fixture(scope="module")
def client(app: Any) -> Iterator[Client]:
    connected = Client(app.url, verbose=False)
    yield connected
    connected.close()


def test_names_are_the_models_and_what_they_do(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    for name in BUNDLED:
        assert {f"/{name}_run", f"/{name}_attention"} <= set(named)
    arguments = [entry["parameter_name"] for entry in named["/alibi-lm_run"]["parameters"]]
    assert arguments == ["prompt", "temperature", "top_p", "top_k", "max_new_tokens", "seed"]


@pytest.mark.parametrize("name", zoo.list_models(bundled=True, pipeline="text-generation"))
def test_a_model_answers_as_the_library_does(client: Client, name: str) -> None:
    prompt = zoo.info(name).example
    options = {**OPTIONS, "max_new_tokens": 12}
    answer = client.predict(prompt, api_name=f"/{name}_run", **options)
    model = zoo.load(name)
    assert answer == model(asked(model, prompt), **options) != prompt
    assert answer.startswith(prompt) is (model.template is None)


def test_a_hidden_word_is_guessed_as_by_the_library(client: Client) -> None:
    text = zoo.info("mlm-encoder").example
    answer = client.predict(text, api_name="/mlm-encoder_run")
    found = {entry["label"]: entry["confidence"] for entry in answer["confidences"]}
    expected = {e["token_str"]: e["score"] for e in zoo.load("mlm-encoder")(text, top_k=8)}
    assert found == pytest.approx(expected) and len(found) == 8
    with pytest.raises(AppError, match="The text must have .*mask.* once, it has 0"):
        client.predict("nothing is hidden", api_name="/mlm-encoder_run")


def test_a_classifier_gives_every_label_with_its_probability(client: Client) -> None:
    text = "We must keep faith with our troops."
    answer = client.predict(text, api_name="/speech-encoder_run")
    found = {entry["label"]: entry["confidence"] for entry in answer["confidences"]}
    expected = {e["label"]: e["score"] for e in zoo.load("speech-encoder")(text, top_k=None)}
    assert found == pytest.approx(expected) and answer["label"] == max(expected, key=expected.get)  # type: ignore[arg-type]


def test_an_answer_arrives_while_it_is_written(slow_app: Any) -> None:
    client = Client(slow_app.url, verbose=False)
    texts = list(client.submit("In 1914 ,", api_name="/rope-lm_run", max_new_tokens=100, **OPTIONS))
    assert len(texts) > 5
    assert all(
        later.startswith(text) and later != text
        for text, later in zip(texts, texts[1:], strict=False)
    )
    assert texts[-1] == zoo.load("rope-lm")("In 1914 ,", max_new_tokens=100, **OPTIONS)


def test_a_model_with_few_positions_writes_as_much_as_they_hold(client: Client) -> None:
    answer = client.predict("We must", api_name="/speech-decoder_run", max_new_tokens=200)
    model = zoo.load("speech-decoder")
    room = model.config.max_seq_len - len(model.tokenizer.encode("We must").ids) + 1
    wanted = {"max_new_tokens": room, "temperature": 0.8, "top_p": 0.9, "seed": 1}
    assert answer == model("We must", **wanted)


def test_attention_is_the_model_s_own(client: Client) -> None:
    text, layer, head = "The river flows north", 2, 3
    answer = client.predict(text, layer, head, api_name="/alibi-lm_attention")
    model = zoo.load("alibi-lm")
    assert answer["tokens"] == token_labels(model.tokenizer, text)
    expected = model.attention(text)[layer - 1][head - 1]
    assert len(answer["weights"]) == len(answer["tokens"])
    for row, line in zip(answer["weights"], expected.tolist(), strict=True):
        assert row == pytest.approx(line, abs=1e-6)
        assert sum(row) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("layer", "head"), [(0, 1), (5, 1), (1, 0), (1, 99), (-1, 1)])
def test_a_head_that_is_not_there_is_refused(client: Client, layer: int, head: int) -> None:
    with pytest.raises(AppError, match=rf"no layer {layer}, head {head}: alibi-lm has 4 layers"):
        client.predict("The river", layer, head, api_name="/alibi-lm_attention")


@pytest.mark.parametrize(
    ("option", "value"),
    [("temperature", 9), ("temperature", -1), ("top_p", 0), ("max_new_tokens", 10**9)],
)
def test_an_option_out_of_range_is_refused(client: Client, option: str, value: float) -> None:
    with pytest.raises(AppError, match=f"Value {value} is"):
        client.predict("The", api_name="/alibi-lm_run", **{option: value})


def test_many_at_once_each_get_their_own(client: Client) -> None:
    asked = [(name, f"In {year} ,") for name in ("alibi-lm", "rope-lm") for year in (1912, 1943)]
    options = {**OPTIONS, "max_new_tokens": 10}

    def ask(name: str, prompt: str) -> str:
        return client.submit(prompt, api_name=f"/{name}_run", **options).result()

    with ThreadPoolExecutor(len(asked)) as threads:
        answers = list(threads.map(lambda each: ask(*each), asked))
    assert answers == [zoo.load(name)(prompt, **options) for name, prompt in asked]


@pytest.mark.parametrize("name", BUNDLED)
def test_the_snippet_runs(
    app: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    drawing("ship").save(PICTURE)  # what models of pictures are shown
    code = http_snippet(zoo.info(name), app.url)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(code, "snippet", "exec"), space := {})
    space["client"].close()
    if zoo.info(name).pipeline in ("image-classification", "zero-shot-image-classification"):
        card = zoo.info(name)
        told = {"labels": example_labels(card)} if name == "tiny-clip" else {"top_k": 3}
        best = zoo.load(name)(PICTURE, **told)[0]
        assert f"'label': {best['label']!r}" in shown.getvalue()
        return
    if zoo.info(name).pipeline == "image-to-text":
        assert shown.getvalue().splitlines()[-1] == zoo.load(name)(PICTURE, num_beams=4)
        return
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    (prompt,) = [ast.literal_eval(c.args[0]) for c in calls if "predict" in ast.unparse(c.func)]
    defaults = {"temperature": 0.8, "top_p": 0.9, "seed": 1, "max_new_tokens": 60}
    model = zoo.load(name)
    if model.pipeline == "text-classification":
        assert f"'label': {model(prompt)['label']!r}" in shown.getvalue()
        return
    if model.pipeline == "fill-mask":
        assert f"'label': {model(prompt)[0]['token_str']!r}" in shown.getvalue()
        return
    if model.pipeline in PAIRED:
        assert model(prompt, num_beams=4) in shown.getvalue().splitlines()
        return
    if (positions := getattr(model.module, "max_len", None)) is not None:
        room = positions - len(model.tokenizer.encode(prompt).ids) + 1
        defaults["max_new_tokens"] = min(60, room)
    assert model(asked(model, prompt), **defaults) in shown.getvalue()


def test_the_example_of_the_docs_runs(app: Any, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "gallery.md").read_text("utf-8")
    (code,) = re.findall(r"^```py\n(.*?)^```$", page, re.M | re.S)
    exec(compile(code.replace("http://127.0.0.1:7860", app.url), "docs", "exec"), space := {})
    space["client"].close()
    assert "The museum was built in" in capsys.readouterr().out
    assert set(space["weights"]) == {"tokens", "weights"}


def test_only_what_the_model_warns_of_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(gr, "Warning", shown.append)

    def model(text: str, top_k: int | None) -> list[dict[str, Any]]:
        warnings.warn("a library's own business", DeprecationWarning, stacklevel=1)
        warnings.warn("the text did not fit", stacklevel=1)
        return [{"label": "joy", "score": 1.0}]

    models = SimpleNamespace(get=lambda name, tell=None: model)
    gallery: Any = SimpleNamespace(limits=Limits(), models=models)
    assert reader(gallery, zoo.info("emotion-encoder"), labels)("a text") == {"joy": 1.0}
    assert shown == ["the text did not fit"]

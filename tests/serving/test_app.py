"""The server, as OpenAI's own client and as clients that mean no good meet it."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from openai import OpenAI

import zoo
from zoo.chat import Chat
from zoo.cli import main
from zoo.pipelines.feature_extraction import FeatureExtraction
from zoo.serving.app import Limits, listen, server

NAMES = ("alibi-lm", "learned-lm", "emotion-encoder")
GREEDY: dict[str, Any] = {"model": "alibi-lm", "temperature": 0, "max_tokens": 12}
KEY = "not-a-secret"


@contextmanager
def running(
    limits: Limits | None = None, key: str | None = None, engine: str | None = None
) -> Iterator[str]:
    """A server in a thread of its own: its address."""
    torch.set_num_threads(1)
    made = server(NAMES, limits=limits, key=key, engine=engine)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            made.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(key=KEY) as found:
        yield found


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def model() -> zoo.Model:
    return zoo.load("alibi-lm")


def test_no_answer_waits_for_an_acknowledgement() -> None:
    with listen("127.0.0.1", 0) as listening:
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def post(url: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {KEY}", **headers}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]


def test_models(client: OpenAI) -> None:
    assert [one.id for one in client.models.list()] == list(NAMES)
    assert client.models.retrieve("alibi-lm").owned_by == "txzoo"


def test_completions_are_what_the_model_writes(client: OpenAI, model: zoo.Model) -> None:
    prompts = ["The river", "In 1914 , the British army"]
    found = client.completions.create(prompt=prompts, **GREEDY)
    expected = model(prompts, max_new_tokens=12, return_full_text=False)
    assert [choice.text for choice in found.choices] == expected
    assert [choice.index for choice in found.choices] == [0, 1]
    assert {choice.finish_reason for choice in found.choices} == {"length"}
    read = sum(len(model.tokenizer.encode(text).ids) for text in prompts)  # type: ignore[union-attr]
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (read, 24)
    ids = model.tokenizer.encode(prompts[0]).ids  # type: ignore[union-attr]
    assert client.completions.create(prompt=ids, **GREEDY).choices[0].text == expected[0]
    stopped = client.completions.create(prompt="The river", stop=[" ,"], **GREEDY).choices[0]
    assert stopped.finish_reason == "stop" and stopped.text == expected[0].partition(" ,")[0]


def test_answers_by_chance_repeat_with_their_seed(client: OpenAI, model: zoo.Model) -> None:
    values: dict[str, Any] = {"model": "alibi-lm", "max_tokens": 10, "seed": 7, "n": 3}
    found = client.completions.create(prompt="The river", temperature=0.9, top_p=0.9, **values)
    texts = [choice.text for choice in found.choices]
    assert texts == model(
        "The river",
        max_new_tokens=10,
        temperature=0.9,
        top_p=0.9,
        seed=7,
        num_return_sequences=3,
        return_full_text=False,
    )
    assert len(set(texts)) > 1


def test_pieces_joined_are_the_whole(client: OpenAI, model: zoo.Model) -> None:
    events = list(
        client.completions.create(
            prompt="The river", stream=True, stream_options={"include_usage": True}, **GREEDY
        )
    )
    text = "".join(event.choices[0].text for event in events if event.choices)
    assert text == model("The river", max_new_tokens=12, return_full_text=False)
    assert len(events) > 5
    assert events[-1].usage is not None and events[-1].usage.completion_tokens == 12
    assert events[-2].choices[0].finish_reason == "length"


def test_a_conversation_is_answered_as_by_chat(client: OpenAI, model: zoo.Model) -> None:
    expected = Chat(model, system="Be brief.", max_new_tokens=12).say("Who was it ?")
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Who was it ?"}]},
    ]
    found = client.chat.completions.create(messages=messages, **GREEDY).choices[0]
    assert (found.message.role, found.message.content) == ("assistant", expected)
    pieces = client.chat.completions.create(messages=messages, stream=True, **GREEDY)
    deltas = [event.choices[0].delta for event in pieces]
    assert deltas[0].role == "assistant" and deltas[1].role is None
    assert "".join(delta.content or "" for delta in deltas).strip() == expected


def test_embeddings_are_those_of_the_pipeline(client: OpenAI) -> None:
    texts = ["A joy from start to end.", "so sad"]
    expected = [v.numpy() for v in FeatureExtraction(zoo.load("emotion-encoder"))(texts)]
    for form in ("float", "base64"):
        found = client.embeddings.create(
            model="emotion-encoder",
            input=texts,
            encoding_format=form,  # type: ignore[arg-type]
        )
        for row, vector in zip(found.data, expected, strict=True):
            given: Any = row.embedding
            if form == "base64":
                given = np.frombuffer(base64.b64decode(given), "<f4")
            np.testing.assert_allclose(given, vector, atol=1e-6)


def test_thirty_two_clients_at_once(client: OpenAI, model: zoo.Model, url: str) -> None:
    """None is lost, mixed up, or other than it would be alone."""
    prompts = [f"In {1900 + n} , the" if n % 2 else f"The {n}" for n in range(32)]
    lengths = [5 + (7 * n) % 40 for n in range(32)]

    def ask(n: int) -> str:
        values = {**GREEDY, "max_tokens": lengths[n]}
        return client.completions.create(prompt=prompts[n], **values).choices[0].text

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, range(32)))
    expected = [
        model(prompt, max_new_tokens=length, return_full_text=False)
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    assert found == expected
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        told = answer.read().decode()
    assert 'txzoo_requests_total{route="/v1/completions",status="200"}' in told
    assert 'txzoo_running{model="alibi-lm"} 0.0' in told
    with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
        assert json.load(answer) == {"status": "ok"}


BAD: list[tuple[str, Any, int, str]] = [
    ("completions", {"model": "alibi", "prompt": "a"}, 404, "There is no model 'alibi' here"),
    ("completions", {"prompt": "a"}, 404, "There is no model None here; there are: alibi-lm"),
    ("completions", {**GREEDY, "prompt": ""}, 400, "The text '' is empty"),
    ("completions", {**GREEDY, "prompt": [["a"]]}, 400, "prompt must be a text"),
    ("completions", {**GREEDY, "prompt": [10**9]}, 400, "tokens must lie from 0 to"),
    ("completions", {**GREEDY, "prompt": "a", "max_tokens": -1}, 400, "max_tokens must be a whole"),
    ("completions", {**GREEDY, "prompt": "a", "max_tokens": 0}, 400, "from 1 to 2048, got 0"),
    ("completions", {**GREEDY, "prompt": "a", "max_tokens": 10**6}, 400, "from 1 to 2048, got"),
    ("completions", {**GREEDY, "prompt": "a", "stop": 5}, 400, "stop must be a text or a list"),
    ("completions", {**GREEDY, "prompt": "a", "temperature": -1}, 400, "temperature must be 0"),
    ("completions", {**GREEDY, "prompt": "a", "n": 99}, 400, "must be from 1 to 16, got n=99"),
    ("completions", {**GREEDY, "prompt": "a", "logprobs": 5}, 400, "logprobs is not supported"),
    *(
        ("completions", {**GREEDY, "prompt": "a", key: value}, 400, f"{key} is not supported")
        for key, value in (
            *(("echo", True), ("logprobs", 1), ("logprobs", True), ("best_of", 2), ("cats", 0)),
            *(("presence_penalty", 1), ("frequency_penalty", 1.0), ("top_logprobs", 1)),
        )
    ),
    ("completions", {**GREEDY, "prompt": "word " * 9000}, 400, "which is the most that this"),
    ("completions", {**GREEDY, "model": "learned-lm", "prompt": "a " * 400}, 400, "256 positions"),
    ("completions", {**GREEDY, "model": "emotion-encoder", "prompt": "a"}, 400, "writes no text"),
    ("chat/completions", {**GREEDY, "messages": []}, 400, "one message at least"),
    ("chat/completions", {**GREEDY, "messages": [{"role": "cat", "content": "a"}]}, 400, "'cat'"),
    ("chat/completions", {**GREEDY, "messages": "hello"}, 400, "messages must be a list"),
    ("embeddings", {"model": "emotion-encoder", "input": []}, 400, "none of them empty"),
    ("embeddings", {"model": "emotion-encoder", "input": ["a"] * 3000}, 400, "at most 2,048"),
    ("embeddings", {"model": "alibi-lm", "input": "a"}, 400, "gives no embeddings"),
]


@pytest.mark.parametrize(("path", "values", "status", "message"), BAD)
def test_what_makes_no_sense_is_said(
    url: str, path: str, values: Any, status: int, message: str
) -> None:
    got, error = post(f"{url}/v1/{path}", json.dumps(values).encode())
    assert got == status
    assert message in error["message"] and "\n" not in error["message"]


def test_what_asks_for_nothing_is_answered(url: str) -> None:
    neutral = {"echo": False, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}
    neutral |= {"logprobs": None, "best_of": 1, "suffix": ""}
    body = json.dumps({**GREEDY, "prompt": "a", "max_tokens": 1, **neutral}).encode()
    status, answer = post(f"{url}/v1/completions", body)
    assert status == 200, answer


def test_a_stream_takes_until_its_last_piece(client: OpenAI, url: str) -> None:
    def seconds() -> float:
        name = 'txzoo_request_seconds_sum{route="/v1/completions"}'
        return next(float(r.split()[-1]) for r in told(url).splitlines() if r.startswith(name))

    client.completions.create(prompt="A", **GREEDY)
    before, began = seconds(), time.monotonic()
    first = 0.0
    for _ in client.completions.create(prompt="A", stream=True, **{**GREEDY, "max_tokens": 300}):
        first = first or time.monotonic() - began
    whole = time.monotonic() - began
    until(lambda: seconds() > before)
    assert 0.5 * whole < seconds() - before < 1.5 * whole and first < 0.5 * whole


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_bodies_that_are_no_json(url: str, body: bytes) -> None:
    status, error = post(f"{url}/v1/completions", body)
    assert status == 400 and "JSON" in error["message"]


def test_a_body_without_end_is_not_held(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(f"{head}Content-Length: {(1 << 20) + 1}\r\n\r\n".encode())
        said = b"".join(iter(lambda: raw.recv(1 << 16), b""))  # to the end: it hangs up
        assert said.startswith(b"HTTP/1.1 413 ") and b"more than 1,048,576 bytes" in said
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        with pytest.raises(OSError):  # noqa: PT011  it hangs up in the middle
            for _ in range(200):
                raw.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                time.sleep(0.001)


def test_no_key_no_answer(url: str, client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError, match="A key is needed"):
        client.with_options(api_key="guess").models.list()
    status, _ = post(f"{url}/v1/completions", b"{}", Authorization="")
    assert status == 401


def test_whoever_hangs_up_frees_the_row() -> None:
    limits = Limits(rows=1, waiting=1, new_tokens=10**6, context=2 * 10**6)
    with running(limits) as url, OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        long: dict[str, Any] = {**GREEDY, "max_tokens": 10**6, "prompt": "The river"}
        stream = client.completions.create(stream=True, **long)
        next(iter(stream))  # it has the only row
        with ThreadPoolExecutor(2) as pool:
            short = pool.submit(client.completions.create, prompt="A", **GREEDY)
            until(lambda: "txzoo_waiting{" in told(url) and waiting(url) == 1)
            with pytest.raises(openai.InternalServerError, match="1 texts wait; ask again later"):
                client.completions.create(prompt="B", **GREEDY)
            stream.close()
            assert short.result(timeout=60).choices[0].finish_reason == "length"
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.3).completions.create(**long)
        assert client.completions.create(prompt="A", **GREEDY).choices


def told(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        return str(answer.read().decode())


def waiting(url: str) -> float:
    [line] = [line for line in told(url).splitlines() if line.startswith("txzoo_waiting{")]
    return float(line.split()[-1])


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_answers_that_take_too_long() -> None:
    limits = Limits(seconds=2.0, new_tokens=10**6, context=2 * 10**6)
    with running(limits) as url, OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        client.completions.create(prompt="A", **{**GREEDY, "max_tokens": 1})  # it is loaded
        with pytest.raises(openai.APIStatusError, match="took too long") as caught:
            client.completions.create(prompt="A", **{**GREEDY, "max_tokens": 10**6})
        assert caught.value.status_code == 504


def test_slow_headers_and_too_many_connections() -> None:
    with running(Limits(header_seconds=0.3, connections=4)) as url:
        host, port = url.removeprefix("http://").split(":")
        slow = [socket.create_connection((host, int(port)), timeout=60) for _ in range(10)]
        for raw in slow[:2]:
            raw.sendall(b"GET /health HTTP/1.1\r\nHost:")
        began = time.monotonic()
        for raw in slow:
            with raw:
                try:
                    assert raw.recv(1) == b""
                except ConnectionResetError:
                    pass
        assert time.monotonic() - began < 30
        with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
            assert answer.status == 200


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of open files")
def test_more_connections_than_files_may_be_open() -> None:
    """They are refused, and the server goes on; it would have no file left for anybody."""
    command = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400)); "
    command += "from zoo.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "serve", "alibi-lm", "--port", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    slow: list[socket.socket] = []
    try:
        address = process.stderr.readline().decode().split()[0]
        host, port = address.removeprefix("http://").removesuffix("/v1").split(":")
        for _ in range(600):
            slow.append(socket.create_connection((host, int(port)), timeout=60))
            with suppress(OSError):  # refused already
                slow[-1].sendall(b"GET /health HTTP/1.1\r\nHost:")
        began = time.monotonic()
        until(lambda: answers(f"http://{host}:{port}/health"))
        assert time.monotonic() - began < 30
    finally:
        for raw in slow:
            raw.close()
        process.terminate()
        rest = process.communicate(timeout=60)[1]
    assert b"Too many open files" not in rest and len(rest) < 100_000


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_an_engine_answers_the_same(
    model: zoo.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="needs txzoo[onnx]")
    pytest.importorskip("onnxscript", reason="needs txzoo[onnx]")
    monkeypatch.setenv("TXZOO_HOME", str(tmp_path))
    prompts = ["The river", "In 1914 , the British army was", "A", "The " * 30]
    with running(engine="onnx") as url:
        with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:

            def ask(prompt: str) -> str:
                return client.completions.create(prompt=prompt, **GREEDY).choices[0].text

            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(ask, prompts))
    assert found == [model(text, max_new_tokens=12, return_full_text=False) for text in prompts]
    assert list(tmp_path.rglob("model.onnx"))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_a_stop_ends_what_has_begun(model: zoo.Model) -> None:
    command = "import sys; from zoo.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", command, "serve", "alibi-lm", "--port", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    address, _, said = process.stderr.readline().decode().partition(" ")
    try:
        assert said == "serves alibi-lm\n"
        with OpenAI(base_url=address, api_key=KEY, max_retries=0) as client:
            stream = client.completions.create(
                prompt="The river", stream=True, **{**GREEDY, "max_tokens": 300}
            )
            events = iter(stream)
            text = next(events).choices[0].text
            process.send_signal(signal.SIGTERM)
            text += "".join(event.choices[0].text for event in events)
            assert text == model("The river", max_new_tokens=300, return_full_text=False)
        process.wait(60)
    finally:
        process.kill()
        _, err = process.communicate()
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["alibi-lm", "--port", "TAKEN"], "Cannot listen on 127.0.0.1, port "),
        (["alibi-lm", "--port", "70000"], "70000 is not in the range"),
        (["--rows", "0"], "--rows must be above 0, got 0"),
        (["--seconds", "-1"], "--seconds must be above 0, got -1"),
        (["--body", "0"], "--body must be above 0, got 0"),
        (["--connections", "-5"], "--connections must be above 0, got -5"),
        (["no-such-model"], "no-such-model"),
        (["--engine", "onx"], "Unknown engine 'onx'"),
        (["--engine", "llama.cpp"], "llama-server"),
        (["emotion-encoder", "--engine", "onnx"], "served by onnx are text-generation"),
        (["vit-cifar10"], "vit-cifar10 has the pipeline image-classification; served are"),
    ],
)
def test_errors_of_the_verb(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", *(port if word == "TAKEN" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "zoo.serving.app", None)
    assert main(["serve"]) == 1
    assert "pip install 'txzoo[serve]'" in capsys.readouterr().err

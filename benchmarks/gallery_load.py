"""Many visitors at once: is every answer complete and its own, and how long do they wait?

    python benchmarks/gallery_load.py --users 40 --generations 200

Starts a gallery on a free port of 127.0.0.1, has each user ask for one text after another over HTTP
as a browser does, and compares every answer with what the model writes by itself from the same
prompt, settings and seed. A user who is told that the page is busy asks again a little later.
"""

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

import zoo

PROMPTS = ("The museum was built in", "In 1914 ,", "The river flows", "She wrote that", "The song")
AGAIN_SECONDS = 0.5  # before a user who was told to come back does so
GENERATED = "event: generating"
COMPLETE = "event: complete"


@dataclass(frozen=True)
class Answer:
    """One generation as a user met it; times in seconds.

    Attributes:
        text: all of it.
        busy: how often the page said to come back.
        first: from the first try to the first piece of text.
        whole: from the first try to the end.
    """

    text: str
    busy: int
    first: float
    whole: float


def ask(url: str, model: str, values: list[Any]) -> Answer:
    """Ask once, as often as it takes to be let in."""
    began, busy = time.perf_counter(), 0
    address = f"{url}/gradio_api/call/{model}_run"
    request = urllib.request.Request(
        address, json.dumps({"data": values}).encode(), {"Content-Type": "application/json"}
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                event = json.load(reply)["event_id"]
            break
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            busy += 1
            time.sleep(AGAIN_SECONDS)
    first, text, kind = 0.0, None, ""
    with urllib.request.urlopen(f"{address}/{event}", timeout=600) as stream:
        for line in map(bytes.decode, stream):
            if line.startswith("event:"):
                kind = line.strip()
                if kind == GENERATED and not first:
                    first = time.perf_counter() - began
            elif line.startswith("data:") and kind == COMPLETE:
                (text,) = json.loads(line.removeprefix("data:"))
    if text is None:
        raise RuntimeError(f"No answer to {values}: the last thing said was {kind!r}")
    return Answer(text, busy, first, time.perf_counter() - began)


def memory(pid: int) -> float:
    """MiB of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def start(port: int) -> "subprocess.Popen[bytes]":
    """A gallery on a port, once it answers."""
    code = "import sys; from zoo.cli import main; sys.exit(main(['gallery', '--no-open']))"
    settings = {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **settings}, stdout=subprocess.DEVNULL
    )
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/config", timeout=5).close()
            return process
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.2)
    process.kill()
    raise SystemExit("The gallery does not start: txzoo gallery says why")


@click.command()
@click.option("--users", default=40, type=click.IntRange(1, 200))
@click.option(
    "--generations", default=200, type=click.IntRange(1, 5000), help="Of all users together."
)
@click.option("--tokens", default=30, type=click.IntRange(1, 200), help="Of one generation.")
@click.option("--model", default="alibi-lm")
def main(users: int, generations: int, tokens: int, model: str) -> None:
    """Measure, and fail when an answer is wrong."""
    asked = [
        [PROMPTS[number % len(PROMPTS)], 0.8, 0.9, 0, tokens, number]  # each has a seed of its own
        for number in range(generations)
    ]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    url, process = f"http://127.0.0.1:{port}", start(port)
    try:
        ask(url, model, asked[0])  # loads the weights
        held = [memory(process.pid)]
        began = time.perf_counter()
        answers: list[Answer] = []
        with ThreadPoolExecutor(users) as pool:
            for answer in pool.map(lambda values: ask(url, model, values), asked):
                answers.append(answer)
                if len(answers) % max(1, generations // 4) == 0:
                    held.append(memory(process.pid))
        seconds = time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()
    lm = zoo.load(model)
    wrong = 0
    for values, answer in zip(asked, answers, strict=True):
        text = lm(values[0], temperature=0.8, top_p=0.9, max_new_tokens=tokens, seed=values[-1])
        wrong += answer.text != text
    firsts = sorted(answer.first for answer in answers)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {model}")
    print(f"{users} users, {generations} generations of {tokens} tokens in {seconds:.1f} s")
    print(
        f"{generations / seconds:.1f} generations/s, {generations * tokens / seconds:.0f} tokens/s"
    )
    print(
        f"first text after {statistics.median(firsts):.1f} s (median), "
        f"{firsts[int(len(firsts) * 0.95)]:.1f} s (95 of 100), {firsts[-1]:.1f} s (worst); "
        f"{sum(answer.busy for answer in answers)} times told to come back"
    )
    print("memory, MiB: " + ", ".join(f"{size:.0f}" for size in held))
    print(f"{generations - wrong} answers complete and their own, {wrong} not")
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()

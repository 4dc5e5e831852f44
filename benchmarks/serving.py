"""`txzoo serve` beside `transformers serve` on the exported twin, under the same load.

    python benchmarks/serving.py --clients 1 8 32 --rounds 5

Both servers run all the time and take turns. In a round each client sends one prompt after another
and waits for the answer, greedy, of 64 tokens at most; every answer is held against what the model
writes for that prompt alone. `transformers batching` is its server with --continuous-batching. A
round in which other programs took more than 3 % of the processors does not count. Results go where
those of `table.py` go.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from table import HERE, file_of, is_done, lines, read, rounded, stamp, write
from turns import WAITED, spread

import zoo
from zoo.export import export

NEW = 64
STARTED = 300.0  # seconds that a server may take to begin
PATIENCE = 600.0  # seconds that an answer may take
PEERS = ("zoo", "transformers", "transformers batching")


class Server:
    """A server's process.

    Args:
        command: that starts it; a port is put behind it.
        model: what it calls the model.
    """

    def __init__(self, command: list[str], model: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.model = model
        self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=sys.stderr)

    def wait(self) -> bool:
        """Until it answers; False if it ends before."""
        until = time.monotonic() + STARTED
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(OSError, HTTPException):
                connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return True
            time.sleep(0.2)
        return False

    def ask(self, connection: HTTPConnection, prompt: str) -> tuple[str, int] | None:
        """An answer and its tokens; None if there is none."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": NEW, "temperature": 0}
        try:
            connection.request(
                "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            told = json.loads(answer.read())
            return told["choices"][0]["text"], told["usage"]["completion_tokens"]
        except (OSError, HTTPException, ValueError, LookupError, TypeError):
            connection.close()  # the next request opens it anew
            return None

    def round(self, prompts: list[str], clients: int) -> list[tuple[str, int] | None]:
        """The answers to prompts, sent by so many clients."""
        found: list[tuple[str, int] | None] = [None] * len(prompts)
        left = iter(range(len(prompts)))
        lock = threading.Lock()

        def client() -> None:
            connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            while True:
                with lock:
                    number = next(left, None)
                if number is None:
                    return connection.close()
                found[number] = self.ask(connection, prompts[number])

        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def seconds(self) -> float:
        """Processor time that it has taken."""
        ticks = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        """The most memory that it has had."""
        told = Path(f"/proc/{self.process.pid}/status").read_text().partition("VmHWM:")[2]
        return int(told.split()[0]) * 1024

    def end(self) -> None:
        """Stop it."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def busy() -> float:
    """Processor time that the whole machine has taken, in seconds."""
    told = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = map(int, told)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def own() -> float:
    """Processor time that this process has taken."""
    return sum(os.times()[:2])


@contextmanager
def servers(model: str, wanted: list[str]) -> Iterator[tuple[dict[str, Server], dict[str, str]]]:
    """The servers that begin, and why others do not."""
    with tempfile.TemporaryDirectory() as temporary:
        twin = str(export(model, Path(temporary, "twin")))
        theirs = [str(Path(sys.executable).with_name("transformers")), "serve", twin]
        theirs += ["--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
        commands = {
            "zoo": ([sys.executable, "-m", "zoo", "serve", model], model),
            "transformers": (theirs, twin),
            "transformers batching": ([*theirs, "--continuous-batching"], twin),
        }
        found = {name: Server(*commands[name]) for name in wanted}
        left_out: dict[str, str] = {}
        try:
            for name, server in list(found.items()):
                connection = HTTPConnection("127.0.0.1", server.port, timeout=STARTED)
                if not server.wait() or server.ask(connection, "The") is None:
                    left_out[name] = "it does not answer, see above"
                    found.pop(name).end()
            yield found, left_out
        finally:
            for server in found.values():
                server.end()


def prompts_of(model: Any, count: int) -> list[str]:
    """Texts of words that the model knows, of 2 to 20, always the same."""
    chance = random.Random(0)
    words = [word[1:] for word in sorted(model.tokenizer.get_vocab()) if word[1:].isalpha()]
    return [" ".join(chance.choices(words, k=chance.randint(2, 20))) for _ in range(count)]


def measure(
    found: dict[str, Server], prompts: list[str], alone: list[str], clients: int, rounds: int
) -> dict[str, Any]:
    """Let the servers take turns under the load of so many clients."""
    peers: dict[str, Any] = {name: {"wrong": 0, "turns": 0, "values": []} for name in found}
    for turn in range(3 * rounds):
        if turn >= rounds and all(len(facts["values"]) >= rounds for facts in peers.values()):
            break
        for name, server in found.items():
            facts = peers[name]
            before = busy(), own() + server.seconds()
            start = time.perf_counter()
            answers = server.round(prompts, clients)
            seconds = time.perf_counter() - start
            others = (busy() - before[0]) - (own() + server.seconds() - before[1])
            facts["turns"] += 1
            texts = [answer and answer[0] for answer in answers]
            facts["wrong"] += sum(a != b for a, b in zip(texts, alone, strict=True))
            if others <= WAITED * seconds * (os.cpu_count() or 1):
                written = sum(answer[1] for answer in answers if answer)
                facts["values"].append(written / seconds)
    for name, server in found.items():
        facts = peers[name]
        facts["peak_bytes"] = server.peak_bytes()
        values = facts.pop("values")
        facts["rounds"] = len(values)
        if values:
            facts["value"], facts["low"], facts["high"] = map(rounded, spread(values))
    return peers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rope-lm")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=64, help="in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--again", action="store_true", help="measure what is there already")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER")
    options = parser.parse_args()
    path = file_of(options.results)
    results = stamp(read(path), {})
    named = {f"serving-{clients}": clients for clients in options.clients}
    left = {
        name: clients
        for name, clients in named.items()
        if options.again or not is_done(results["rows"].get(name))
    }
    if not left:
        return print(f"all of it is in {path} already")
    model = zoo.load(options.model)
    prompts = prompts_of(model, options.requests)
    alone = [
        model(prompt, max_new_tokens=NEW, return_full_text=False, do_sample=False)
        for prompt in prompts
    ]
    del model
    with servers(options.model, options.peers) as (found, left_out):
        for name, clients in left.items():
            row = {
                "what": f"{options.model} over HTTP, {clients} at once, {NEW} tokens an answer",
                "unit": "tokens/s",
                "peers": measure(found, prompts, alone, clients, options.rounds),
                "left_out": left_out,
            }
            results["rows"][name] = row
            write(path, results)
            print("\n".join(lines(row)), flush=True)
    print(path)


if __name__ == "__main__":
    main()

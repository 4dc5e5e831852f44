"""The server, processes with the unmodified client, and a model to send around.

With `TXZOO_TEST_HUB=namespace` the same tests speak to the public Hub, in repositories below that
namespace that are deleted at the end; the token is the one that the client finds. Tests that need
faults, other users or settings that only our own server has are skipped then, and say so.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import load_file

from zoo.card import Card

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PUBLIC = os.environ.get("TXZOO_TEST_HUB")
NAMESPACE = PUBLIC or "me"
TOKENS = {role: f"hf_{role * 8}" for role in ("owner", "reader", "other", "wrong")}
SETTINGS = ("HF_", "HUGGING_FACE_", "TXZOO_", "TRANSFORMERS_")
PROSE = """\
# {name}

Five steps on patterns of numbers: enough to have weights, too few to be of use.

## How to use it

```python
import zoo

model = zoo.load("hf://{repo}")
```

## Intended use

For trying whether a model goes to the Hub and comes back the same. Not for anything else.

## Limits, risks and bias

It has learned nothing: what it writes is chance. There is nothing about people in it.

## Data

Lines of numbers made by the task `synthetic` from a seed, CC0.

## How it was trained

Five steps on one processor core, less than a second and less than a joule of energy a step.
"""


LOAD = """
import zoo
from safetensors.torch import save_file
model = zoo.load(ref, **options)
save_file({n: t.contiguous() for n, t in model.module.state_dict().items()}, out)
result = model.name
"""


def load_server() -> ModuleType:
    spec = spec_from_file_location("hub_server", HERE / "server.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["hub_server"] = module
    spec.loader.exec_module(module)
    return module


server = load_server()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Against the public Hub, mark what cannot run there, saying why."""
    for item in items:
        if HERE not in item.path.parents:
            continue
        if PUBLIC and item.path.name != "test_hub.py":
            item.add_marker(pytest.mark.skip(reason="needs our own server: TXZOO_TEST_HUB is set"))
        elif PUBLIC:
            item.add_marker(pytest.mark.network)


@dataclass
class Answer:
    """What became of an order; `error` is None or the name of the error's class."""

    result: Any
    error: str | None
    message: str
    printed: str


class Client:
    """A process with the Hub's client."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, HERE / "worker.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def send(self, code: str, environment: dict[str, str | None], **values: Any) -> None:
        order = {"code": dedent(code), "environment": environment, "values": values}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def receive(self, seconds: float = 120) -> Answer:
        assert self.process.stdout is not None
        watchdog = threading.Timer(seconds, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, f"the client ended, or hung for {seconds:g} s and was killed"
        answer = Answer(**json.loads(line))
        self.said += [answer.printed, answer.message]
        assert answer.error != "not a ZooError", answer.message
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=10)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Our server, with four tokens; None for the public Hub."""
    if PUBLIC:
        yield None
        return
    with server.Hub.running(tmp_path_factory.mktemp("hub")) as running:
        running.tokens = {
            TOKENS["owner"]: server.User("me", write=True),
            TOKENS["reader"]: server.User("me", write=False),
            TOKENS["other"]: server.User("other", write=True),
        }
        yield running


@pytest.fixture(autouse=True)
def no_faults(hub: Any) -> Iterator[None]:
    """Every test starts and ends with a server that works, and no token has gone astray."""
    if hub is not None:
        hub.faults.clear()
        hub.log.clear()
    yield
    if hub is not None:
        hub.faults.clear()
        assert hub.leaks == 0, "a token was sent to storage"


@pytest.fixture(scope="session")
def start(hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Client]]:
    """Start a process whose client has certain settings."""
    clients: list[Client] = []

    def make(**settings: str) -> Client:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
        environment |= {"OMP_NUM_THREADS": "1"}
        environment["TXZOO_DATA"] = os.environ.get("TXZOO_DATA", "")
        if PUBLIC:
            environment |= {k: v for k, v in os.environ.items() if k.startswith("HF_")}
        else:
            environment["HF_HOME"] = str(tmp_path_factory.mktemp("home"))
            environment["HF_ENDPOINT"] = hub.endpoint
            environment["HF_HUB_DISABLE_XET"] = "1"  # our server stores by git-LFS only
        client = Client(environment | settings)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture(scope="session")
def online(start: Callable[..., Client]) -> Client:
    """The process that most tests share; it gives up on a silent server after 2 seconds."""
    return start(HF_HUB_DOWNLOAD_TIMEOUT="2")


@pytest.fixture(scope="session")
def offline(start: Callable[..., Client]) -> Client:
    """A process with HF_HUB_OFFLINE=1."""
    return start(HF_HUB_OFFLINE="1")


class Runner:
    """Runs code in a client's process, with a cache that belongs to the test."""

    LOAD = LOAD

    def __init__(self, client: Client, cache: Path) -> None:
        self.client = client
        self.cache = cache

    def environment(self, role: str | None, cache: Path | None) -> dict[str, str | None]:
        settings: dict[str, str | None] = {"TXZOO_HOME": str(cache or self.cache)}
        if not PUBLIC:
            settings["HF_TOKEN"] = TOKENS[role] if role else None
        return settings

    def __call__(
        self, code: str, *, role: str | None = "owner", cache: Path | None = None, **values: Any
    ) -> Answer:
        """Run code; what it leaves in `result` comes back. A `ZooError` is an answer too."""
        self.client.send(code, self.environment(role, cache), **values)
        return self.client.receive()

    def publish(
        self, folder: Path, repo: str, *, role: str | None = "owner", **options: Any
    ) -> Answer:
        """`zoo.publish`, without measuring again unless `verify=True`."""
        options.setdefault("verify", False)
        code = "import zoo\nresult = zoo.publish(folder, repo, **options)"
        return self(code, folder=str(folder), repo=repo, options=options, role=role)

    def load(
        self,
        ref: str,
        *,
        role: str | None = "owner",
        cache: Path | None = None,
        **options: Any,
    ) -> Answer:
        """`zoo.load`; the answer's result is the tensors of the model, by name."""
        out = self.cache.with_name("loaded.safetensors")
        answer = self(LOAD, ref=ref, out=str(out), options=options, role=role, cache=cache)
        answer.result = load_file(out) if answer.error is None else None
        return answer

    def txzoo(self, *arguments: str, **options: Any) -> Answer:
        """The command; the answer's result is its exit status."""
        code = "from zoo.cli import main\nresult = main(arguments)"
        return self(code, arguments=list(arguments), **options)

    def commits(self, repo: str) -> list[str]:
        """The commits of the main branch."""
        code = """
        from huggingface_hub import HfApi
        result = [commit.commit_id for commit in HfApi().list_repo_commits(repo)]
        """
        return list(self(code, repo=repo).result)

    def upload(self, folder: Path, repo: str, tag: str | None = None) -> None:
        """Upload a folder past all of our checks, as anybody can."""
        code = """
        from huggingface_hub import HfApi
        hub = HfApi()
        hub.create_repo(repo, exist_ok=True)
        hub.upload_folder(repo_id=repo, folder_path=folder)
        if tag:
            hub.create_tag(repo, tag=tag)
        """
        assert self(code, repo=repo, folder=str(folder), tag=tag).error is None


@pytest.fixture
def run(online: Client, tmp_path: Path) -> Runner:
    """Run code with the network."""
    return Runner(online, tmp_path / "cache")


@pytest.fixture
def run_offline(offline: Client, tmp_path: Path) -> Runner:
    """Run code with HF_HUB_OFFLINE=1 and the cache of `run`."""
    return Runner(offline, tmp_path / "cache")


@pytest.fixture
def repo(run: Runner) -> Iterator[str]:
    """The name of a repository that does not exist yet; it is deleted afterwards."""
    name = f"{NAMESPACE}/txzoo-test-{uuid.uuid4().hex[:12]}"
    yield name
    run(
        "from huggingface_hub import HfApi\nHfApi().delete_repo(name, missing_ok=True)",
        name=name,
    )


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, repo: str) -> Path:
    """A model folder that is fit to be published."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_model, folder)
    card = Card.read(folder)
    data = {**card.data, "library_name": "txzoo", "tags": ["txzoo", "alibi-decoder"]}
    Card(data, PROSE.format(name="tiny", repo=repo), card.path).write(folder)
    return folder

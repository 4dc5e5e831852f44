"""What goes wrong on the way: each fault ends in a correct model, or in one clear error.

And never in a bad file that a later load accepts: after every fault the server works again, and a
load with the same cache must give the model.
"""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo.card import Card
from zoo.folder import WEIGHTS, save_folder

PUBLISH = "import zoo\nzoo.publish(folder, repo, verify=False, tag='v1')"


def load_is_right(run: Any, folder: Path, repo: str) -> Any:
    """Load; when it gives a model, that is the one that was published. Returns the answer."""
    answer = run.load(f"hf://{repo}@v1")
    if answer.error is None:
        stored = load_file(folder / WEIGHTS)
        for name, tensor in answer.result.items():
            torch.testing.assert_close(tensor, stored[name].to(tensor.dtype), rtol=0, atol=0)
    else:
        assert "\n" not in answer.message
    return answer


FETCHES = {
    "weights": r"GET /storage/",
    "card": r"GET .*/resolve/.*/README\.md",
    "configuration": r"GET .*/resolve/.*/config\.json",
    "tokenizer": r"GET .*/resolve/.*/tokenizer\.json",
}
DOWNLOADS = [
    # kind, value, how often, what must come of it
    ("alter", 0, 1, "error"),
    ("truncate", 100, 1, "error"),
    ("truncate", 0, 1, "error"),
    ("longer", 0, 1, "model or error"),  # the client asks for the rest, and sees that none is left
    ("shorter", 0, 1, "error"),
    ("drop", 0, 1, "model"),
    ("drop", 50, 2, "model"),
    ("status", 404, 1, "error"),
    ("status", 403, 1, "error"),
    ("slow", 0.5, 1, "model"),
]


@pytest.mark.parametrize("file", FETCHES)
@pytest.mark.parametrize(("kind", "value", "times", "outcome"), DOWNLOADS)
def test_download(
    run: Any,
    hub: Any,
    repo: str,
    model: Path,
    file: str,
    kind: str,
    value: float,
    times: int,
    outcome: str,
) -> None:
    run.publish(model, repo, tag="v1")
    hub.fail(FETCHES[file], kind, value=value, times=times)
    answer = load_is_right(run, model, repo)
    assert hub.faults[0].times == 0, "the fault did not happen"
    if outcome == "model":
        assert answer.error is None, answer.message
    elif outcome == "error":
        assert answer.error in ("HubError", "HashMismatchError"), answer
    hub.faults.clear()
    again = load_is_right(run, model, repo)
    assert again.error is None, again.message


@pytest.mark.parametrize("what", [r"GET /api/models/[^/]+/[^/]+/revision", r"GET .*/tree/"])
@pytest.mark.parametrize(
    ("kind", "value"), [("truncate", 20), ("truncate", 0), ("alter", 0), ("status", 418)]
)
def test_listing(
    run: Any, hub: Any, repo: str, model: Path, what: str, kind: str, value: float
) -> None:
    run.publish(model, repo, tag="v1")
    hub.fail(what, kind, value=value)
    answer = load_is_right(run, model, repo)
    assert answer.error == "HubError", answer
    assert load_is_right(run, model, repo).error is None


def test_a_drop_is_resumed_where_it_happened(run: Any, hub: Any, repo: str, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    module = zoo.create(
        "alibi-decoder",
        vocab_size=50_000, max_seq_len=8, d_model=128, n_layers=1, n_heads=2, d_ff=16,
    )  # fmt: skip
    config = module.config.to_dict()
    records = save_folder(folder, module=module, architecture="alibi-decoder", config=config)
    files = {name: {"sha256": r.sha256, "bytes": r.bytes} for name, r in records.items()}
    ours = {"architecture": "alibi-decoder", "files": files}
    data = {"license": "mit", "pipeline_tag": "text-generation", "txzoo": ours}
    Card(data, "", folder / "README.md").write(folder)
    chunk = 10 << 20
    assert records[WEIGHTS].bytes > 2 * chunk
    run.upload(folder, repo, tag="v1")
    hub.fail(r"GET /storage/", "drop", value=chunk + 1000)
    assert load_is_right(run, folder, repo).error is None
    assert hub.faults[0].times == 0
    assert hub.ranges[-1] == f"bytes={chunk}-", "it began anew"


@pytest.mark.slow
@pytest.mark.parametrize("what", [FETCHES["weights"], r"GET /api/models/"])
def test_a_server_that_stays_down(run: Any, hub: Any, repo: str, model: Path, what: str) -> None:
    run.publish(model, repo, tag="v1")
    hub.fail(what, "status", value=503, times=100)
    answer = load_is_right(run, model, repo)
    assert answer.error == "HubError" and "answers 503" in answer.message, answer.message
    hub.faults.clear()
    assert load_is_right(run, model, repo).error is None


@pytest.mark.slow
def test_a_server_that_stays_silent(run: Any, hub: Any, repo: str, model: Path) -> None:
    run.publish(model, repo, tag="v1")
    hub.fail(FETCHES["weights"], "slow", value=4, times=100)  # the client waits for 2 seconds
    assert load_is_right(run, model, repo).error == "HubError"
    hub.faults.clear()
    assert load_is_right(run, model, repo).error is None


@pytest.mark.slow
def test_a_server_that_has_gone(
    run: Any, start: Any, repo: str, model: Path, tmp_path: Path
) -> None:
    run.publish(model, repo, tag="v1")
    gone = start(HF_ENDPOINT="http://127.0.0.1:9")
    out = str(tmp_path / "loaded.safetensors")
    gone.send(run.LOAD, run.environment("owner", None), ref=f"hf://{repo}@v1", out=out, options={})
    answer = gone.receive()
    assert answer.error == "HubError"
    assert "cannot be reached (ConnectError) and it is not in the cache" in answer.message
    assert load_is_right(run, model, repo).error is None
    gone.send(run.LOAD, run.environment("owner", None), ref=f"hf://{repo}@v1", out=out, options={})
    assert gone.receive().error is None  # what is in the cache is still there


def test_no_room_on_the_disk(run: Any, start: Any, repo: str, model: Path) -> None:
    run.publish(model, repo, tag="v1")
    client = start()
    code = f"""
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, {resource.RLIM_INFINITY}))
    """
    client.send(code, {})
    client.receive()
    order = {"ref": f"hf://{repo}@v1", "out": "/dev/null", "options": {}}
    client.send(run.LOAD, run.environment("owner", None), **order)
    answer = client.receive()
    assert answer.error == "HubError" and "File too large" in answer.message
    assert not list(run.cache.glob("**/*.incomplete"))
    assert load_is_right(run, model, repo).error is None


UPLOADS = [
    # what, kind, value, whether the whole goes through in the end
    (r"PUT /storage/", "status", 500, True),  # the client tries again
    (r"PUT /storage/", "status", 507, False),  # the server's disk is full
    (r"PUT /storage/", "status", 400, False),  # what arrived has another hash
    (r"PUT /storage/", "drop", 0, True),
    (r"POST .*/batch", "status", 403, False),
    (r"POST .*/batch", "truncate", 10, False),
    (r"POST /verify/", "status", 404, False),
    (r"POST .*/preupload/", "truncate", 0, False),
    (r"POST .*/commit/", "status", 500, False),
    (r"POST .*/commit/", "status", 412, False),
    (r"POST .*/commit/", "drop", 0, False),  # the commit is there, its answer is lost
    (r"POST .*/commit/", "truncate", 5, False),  # likewise
    (r"POST .*/tag/", "status", 500, False),
    (r"POST .*/tag/", "drop", 0, False),  # the tag is there, its answer is lost
    (r"POST /api/repos/create", "status", 500, False),
    (r"POST /api/validate-yaml", "status", 500, False),
]


@pytest.mark.parametrize(("what", "kind", "value", "through"), UPLOADS)
def test_upload(
    run: Any,
    hub: Any,
    repo: str,
    model: Path,
    what: str,
    kind: str,
    value: float,
    through: bool,
) -> None:
    hub.fail(what, kind, value=value)
    answer = run.publish(model, repo, tag="v1")
    assert hub.faults[0].times == 0, "the fault did not happen"
    assert (answer.error is None) is through, answer
    assert through or (answer.error == "HubError" and "\n" not in answer.message)
    under_the_tag = load_is_right(run, model, repo)  # the whole model, or none
    assert under_the_tag.error in ((None,) if through else (None, "HubError"))
    assert run.publish(model, repo, tag="v1").error is None
    assert load_is_right(run, model, repo).error is None
    made = [line for line in hub.repository(repo).state["order"]]
    assert len(made) == 2, "the first commit and one of the model"


def test_a_publish_that_is_killed(run: Any, start: Any, hub: Any, repo: str, model: Path) -> None:
    hub.fail(r"POST .*/commit/", "slow", value=3)
    client = start()
    client.send(PUBLISH, run.environment("owner", None), folder=str(model), repo=repo)
    while not any("/commit/" in line for line in hub.log):
        assert client.process.poll() is None
    client.process.kill()
    client.process.wait()
    assert load_is_right(run, model, repo).error == "HubError"
    assert run.publish(model, repo, tag="v1").error is None
    assert load_is_right(run, model, repo).error is None


def test_somebody_else_publishes_meanwhile(
    run: Any, start: Any, hub: Any, repo: str, model: Path
) -> None:
    run.publish(model, repo)
    before = len(hub.repository(repo).state["order"])
    card = (model / "README.md").read_text()
    (model / "README.md").write_text(card + "\nMore.\n")
    hub.fail(r"POST .*/preupload/", "meanwhile")
    answer = run.publish(model, repo, tag="v1")
    assert answer.error == "HubError" and "somebody else changed" in answer.message
    assert len(hub.repository(repo).state["order"]) == before + 1  # only the other's


def test_tokens_are_nowhere(run: Any, hub: Any, repo: str, model: Path) -> None:
    """In no output, no error, no card, no file of the cache, no address and no command line."""
    hub.fail(r"POST .*/tag/", "status", value=403)
    hub.fail(r"POST .*/commit/", "status", value=500)
    for _ in range(3):
        run.publish(model, repo, tag="v1")
    load_is_right(run, model, repo)
    commands = Path(f"/proc/{run.client.process.pid}/cmdline")
    texts = [*run.client.said, *hub.log]
    texts += [commands.read_text()] if commands.exists() else []
    texts += [path.read_text(errors="replace") for path in run.cache.rglob("*") if path.is_file()]
    texts += [path.read_text(errors="replace") for path in model.iterdir()]
    assert texts and not [text for text in texts if "hf_owner" in text]
    assert hub.leaks == 0

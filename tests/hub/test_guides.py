"""The guides on publishing and on working offline run as they stand, on our server."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

GUIDES = Path(__file__).parents[2] / "docs/guides"


def blocks(page: str, language: str) -> str:
    text = (GUIDES / page).read_text(encoding="utf-8").replace("you/", "me/")
    text = text.replace("--author you", "--author me")
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S))


@pytest.fixture
def repo(run: Any) -> Any:
    """The repository that the guides speak of."""
    yield "me/synthetic-decoder"
    run("from huggingface_hub import HfApi\nHfApi().delete_repo('me/synthetic-decoder')")


@pytest.mark.parametrize("language", ["bash", "py"])
def test_the_guides_run(run: Any, run_offline: Any, repo: str, language: str) -> None:
    for page in ("publish.md", "offline.md"):
        code = blocks(page, language)
        assert code
        if language == "py":
            answer = run(code)
            assert answer.error is None, answer.message
            continue
        for line in filter(None, code.splitlines()):
            runner = run_offline if line.startswith("HF_HUB_OFFLINE=1 ") else run
            words = shlex.split(line.removeprefix("HF_HUB_OFFLINE=1 "))
            assert words[0] == "txzoo"
            answer = runner.txzoo(*words[1:])
            assert answer.result == 0, answer.printed


def test_the_error_that_the_guide_shows_is_what_is_said(run_offline: Any) -> None:
    shown = re.search(
        r"^txzoo: (Cannot get .*?)\n```", (GUIDES / "offline.md").read_text(), re.M | re.S
    )
    assert shown is not None
    expected = " ".join(shown[1].split()).replace("/home/you/hub", str(run_offline.cache))
    answer = run_offline.load("hf://you/synthetic-decoder@v2")
    assert answer.message == expected

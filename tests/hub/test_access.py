"""Tokens, private and gated repositories: users that only our own server has."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from zoo.card import Card
from zoo.folder import FileRecord


def retrain(folder: Path) -> None:
    """Other weights, and a card that vouches for them."""
    path = folder / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    card, record = Card.read(folder), FileRecord.of(path)
    card.data["txzoo"]["files"][path.name] = {"sha256": record.sha256, "bytes": record.bytes}
    card.write(folder)


class TestAccess:
    """Tokens, private and gated repositories."""

    def test_a_private_model_is_for_its_owner(
        self, run: Any, repo: str, model: Path, tmp_path: Path
    ) -> None:
        assert run.publish(model, repo, private=True).error is None
        assert run.load(f"hf://{repo}", role="reader").error is None
        fresh = tmp_path / "fresh"
        answer = run.load(f"hf://{repo}", role="other", cache=fresh)
        assert answer.error == "HubError" and "this token may not see it" in answer.message
        answer = run.load(f"hf://{repo}", role=None, cache=fresh)
        assert answer.error == "HubError" and "log in with 'hf auth login'" in answer.message
        assert repo not in run.txzoo("list", "--hub", role=None).printed
        assert "private" in run.txzoo("list", "--hub", repo.split("/")[1]).printed

    def test_a_public_repository_is_not_taken_for_private(
        self, run: Any, repo: str, model: Path
    ) -> None:
        run.publish(model, repo)
        before = run.commits(repo)
        retrain(model)
        answer = run.publish(model, repo, private=True)
        assert answer.error == "HubError" and "is public already" in answer.message
        assert run.commits(repo) == before

    def test_a_gated_model(self, run: Any, repo: str, model: Path, hub: Any) -> None:
        run.publish(model, repo)
        hub.set(repo, gated=True)
        for role in ("other", None):
            answer = run.load(f"hf://{repo}", role=role)
            assert answer.error == "HubError"
            assert (
                f"access to {repo} has to be asked for at {hub.endpoint}/{repo}" in answer.message
            )
        hub.set(repo, allowed=["other"])
        assert run.load(f"hf://{repo}", role="other").error is None

    @pytest.mark.parametrize(
        ("role", "reason"),
        [
            ("reader", "this needs a token with the right to write"),
            ("other", "this needs a token with the right to write"),
            ("wrong", "the token is not valid"),
            (None, "log in"),
        ],
    )
    def test_who_may_not_publish(
        self, run: Any, repo: str, model: Path, role: str, reason: str
    ) -> None:
        answer = run.publish(model, repo, role=role)
        assert answer.error == "HubError" and reason in answer.message, answer.message
        assert run.publish(model, repo).error is None
        before = run.commits(repo)
        retrain(model)
        answer = run.publish(model, repo, role=role, tag="v1")
        assert answer.error == "HubError" and reason in answer.message, answer.message
        assert run.commits(repo) == before

    def test_pages_of_a_listing(self, run: Any, repo: str, model: Path, hub: Any) -> None:
        names = [f"{repo}-{number}" for number in range(2 * 2 + 1)]  # the server has 2 a page
        for name in names:
            run.publish(model, name)
        code = "from zoo.hub import search\nresult = [model.repo for model in search(query)]"
        assert run(code, query=repo.split("/")[1]).result == names
        for name in names:
            run("from huggingface_hub import HfApi\nHfApi().delete_repo(name)", name=name)

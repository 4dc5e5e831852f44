"""The files of the Space: they say what the registry says, and they start."""

import runpy
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from zoo_gallery.space import readme

import zoo

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "gallery"
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}  # the Hub's


def test_the_readme_is_up_to_date() -> None:
    cards = [zoo.info(name) for name in zoo.list_models(plugin="txzoo", bundled=True)]
    assert (SPACE / "README.md").read_text("utf-8") == readme(cards), (
        "python -m zoo_gallery.space > gallery/README.md"
    )


def test_the_front_matter_is_what_the_hub_asks_for() -> None:
    _, head, text = (SPACE / "README.md").read_text("utf-8").split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["sdk"] == "gradio"
    assert {front["colorFrom"], front["colorTo"]} <= COLOURS
    assert len(front["short_description"]) <= 60
    assert (SPACE / front["app_file"]).is_file()
    assert front["datasets"] == [
        "Salesforce/wikitext",
        "bentrevett/multi30k",
        "karpathy/tiny_shakespeare",
        "uoft-cs/cifar10",
    ]
    for name in zoo.list_models(plugin="txzoo", bundled=True):
        assert f"**{name}**" in text


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (line,) = (SPACE / "requirements.txt").read_text("utf-8").splitlines()
    assert line == f"txzoo[gallery,retrieval]=={project['version']}"
    front = yaml.safe_load((SPACE / "README.md").read_text("utf-8").split("---\n")[1])
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    assert f"gradio=={front['sdk_version']}\n" in pins


def test_models_on_the_hub_and_what_they_were_made_from_are_named(tmp_path: Path) -> None:
    data: dict[str, Any] = {
        "pipeline_tag": "text-generation",
        "license": "mit",
        "base_model": "me/base",
        "datasets": "me/words",
        "txzoo": {"name": "far-lm", "hub": {"repo": "me/far-lm", "revision": "0" * 40}},
    }
    card = zoo.Card(data=data, text="", path=tmp_path / "README.md")
    front = yaml.safe_load(readme([card]).split("---\n")[1])
    assert front["models"] == ["me/base", "me/far-lm"]
    assert front["datasets"] == ["me/words"]


def test_the_space_starts_and_shows_the_models_of_plugins(space: Any) -> None:
    for name in ("alibi-lm", "numerals-lm"):
        with urllib.request.urlopen(f"{space.url}/{name}", timeout=20) as answer:
            assert answer.status == 200
            assert "txzoo gallery" in answer.read().decode()


def test_importing_it_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py"])
    assert callable(runpy.run_path(str(SPACE / "app.py"))["launch"])

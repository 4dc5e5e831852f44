"""The first minute: every bundled model writes, whatever else is wrong."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import zoo
from zoo.cli import main
from zoo.demo import answer
from zoo.errors import MissingExtraError

Install = Callable[..., Path]
PLUGIN = """
    from pathlib import Path
    from zoo import Architecture, hookimpl

    @hookimpl
    def txzoo_architectures():
        return [Architecture("alibi-decoder", target="zoo_alibi.model:AlibiDecoder")]

    @hookimpl
    def txzoo_models():
        return Path(__file__).parent.glob("models/*/")
"""


@pytest.fixture
def models(install: Install, tiny_model: Path) -> Path:
    """A plugin that bundles two models, the first one with an example on its card."""
    folder = install("counters", {"counters/__init__.py": PLUGIN}) / "counters/models"
    for name, example in {"count-lm": '\n  example: "count 3 7 11"', "plain-lm": ""}.items():
        shutil.copytree(tiny_model, folder / name)
        card = folder / name / "README.md"
        text = card.read_text().replace("\n  name: tiny", f"\n  name: {name}{example}", 1)
        card.write_text(text)
    return folder


def test_the_demo_shows_every_bundled_model(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "map.png"
    assert main(["demo", "--out", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"txzoo {zoo.__version__}: 2 bundled models, no network needed\n")
    assert "\x1b" not in shown
    for name, prompt in {"count-lm": "count 3 7 11", "plain-lm": "The"}.items():
        part = shown.partition(f"\n{name}  ")[2]
        card = zoo.info(name)
        assert re.match(r"[\d.]+k? parameters, [\d.]+ kB\n", part)
        assert f"\n  {card.scores[0].name} {card.scores[0].value}" in part
        line = next(line for line in part.splitlines() if line.startswith("    "))
        assert line.startswith(f"    {prompt} ")
        assert len(line.split()) > len(prompt.split())
    assert f"Who looks at whom in count-lm: {picture}" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert ' run count-lm "count 3 7 11"' in shown.partition("What to type next")[2]
    body = [line for line in shown.splitlines() if str(picture) not in line]
    assert max(map(len, body)) <= 80


def test_the_demo_writes_the_same_each_time(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for _ in range(2):
        main(["demo", "--out", str(tmp_path / "map.png")])
        texts.append(re.sub(r"ran in \d+ s", "", capsys.readouterr().out))
    assert texts[0] == texts[1]


def test_the_demo_does_without_matplotlib(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["demo", "--out", str(tmp_path / "map.png")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "No attention picture" in shown
    assert "pip install 'txzoo[plot]'" in shown
    assert "2 models ran" in shown


def test_the_demo_goes_on_after_a_model_that_fails(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (models / "count-lm/model.safetensors").write_bytes(b"damaged")
    assert main(["demo", "--out", str(tmp_path / "map.png")]) == 1
    shown = capsys.readouterr().out
    assert "count-lm: " in shown
    assert "its card says" in " ".join(shown.split())
    assert "1 model ran" in shown
    assert "Who looks at whom in plain-lm" in shown


def test_the_demo_passes_over_a_model_whose_extra_is_not_installed(
    models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = zoo.load

    def load_some(name: str) -> zoo.Model:
        if name == "count-lm":
            raise MissingExtraError("The architecture open-clip", "clip")
        return load(name)

    monkeypatch.setattr(zoo, "load", load_some)
    assert main(["demo", "--out", str(tmp_path / "map.png")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "pip install 'txzoo[clip]'" in shown
    assert "1 model ran" in shown


def test_the_demo_without_models_says_where_to_look(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "map.png")]) == 1
    assert "doctor" in capsys.readouterr().out
    assert not (tmp_path / "map.png").exists()


def test_a_classifier_names_labels_and_a_translator_translates(translator: Path) -> None:
    found = answer(zoo.load("emotion-encoder"), "i feel like a faithful servant")
    labels = re.fullmatch(r"  (\w+) (0\.\d\d)  (\w+) (0\.\d\d)", found)
    assert labels is not None and float(labels[2]) > float(labels[4])
    assert {labels[1], labels[3]} <= set(zoo.load("emotion-encoder").config.labels)
    assert answer(zoo.load(translator), "one two") == " → eins zwei"


def test_every_bundled_model_is_in_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--out", str(tmp_path / "map.png")]) == 0
    shown = capsys.readouterr().out
    names = zoo.list_models(bundled=True)
    assert f"{len(names)} models ran" in shown
    for name in names:
        assert f"\n{name}  " in shown
    assert "Who looks at whom in alibi-lm" in shown


def test_the_demo_guesses_a_hidden_word() -> None:
    model = zoo.load("mlm-encoder")
    shown = answer(model, "This is the worst <mask> I have ever seen.").split()
    best, second = model("This is the worst <mask> I have ever seen.")[:2]
    assert shown[::2] == [best["token_str"].strip(), second["token_str"].strip()]
    assert [float(number) for number in shown[1::2]] == pytest.approx(
        [best["score"], second["score"]], abs=0.005
    )

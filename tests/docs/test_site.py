"""The site as it is built: nothing is missing, nothing stale, nothing comes from elsewhere."""

import builtins
import json
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

import zoo
from zoo.cli import VERBS, commands
from zoo.hookspecs import Hooks
from zoo.registry import registry
from zoo.testing import pytest_plugin

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
HEAVIEST_PAGE = 400_000  # bytes of HTML
HEAVIEST_SITE = 20_000_000  # bytes of everything
LOADING = {  # attributes by which a page makes a browser fetch something at once
    ("script", "src"),
    ("link", "href"),
    ("img", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("video", "src"),
    ("use", "href"),
    ("image", "href"),
    ("image", "xlink:href"),
    ("object", "data"),
}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[str, str]:
    return {
        path.relative_to(site).as_posix(): path.read_text("utf-8") for path in site.rglob("*.html")
    }


def written() -> str:
    """Every word of the pages that people wrote."""
    texts = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
    return "\n".join(path.read_text("utf-8") for path in texts if path.stem != "lab-notes")


class Fetched(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag == "link" and "canonical" in (values.get("rel") or ""):
            return
        self.found |= {value for name, value in attributes if value and (tag, name) in LOADING}


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, str]) -> None:
    found = Fetched()
    for text in pages.values():
        found.feed(text)
    assert any("assets/" in address for address in found.found)
    assert not [address for address in found.found if re.match(r"(\w+:)?//", address)]
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"url\((.*?)\)|@import\s+(\S+)", sheet.read_text("utf-8"))
        for address in filter(None, (one or other for one, other in addresses)):
            assert not re.match(r"['\"]?(https?:)?//", address), (sheet, address)


def test_pages_are_light(site: Path, pages: dict[str, str]) -> None:
    heavy = {name: len(text) for name, text in pages.items() if len(text) > HEAVIEST_PAGE}
    assert not heavy
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < HEAVIEST_SITE


def test_search_finds_what_the_pages_say(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))["docs"]
    for words, page in (
        ("slopes", "architectures/alibi-decoder.html"),
        ("save_pretrained", "reference/python.html"),
        ("perplexity per word", "models/rope-lm.html"),
    ):
        found = {
            one["location"].partition("#")[0]
            for one in index
            if words in one["text"] + one["title"]
        }
        assert page in found, (words, found)


def test_everything_registered_has_a_page(pages: dict[str, str]) -> None:
    known = registry()
    for kind in ("models", "architectures", "tasks"):
        for name in getattr(known, kind).names():
            text = pages[f"{kind}/{name}.html"]
            assert "<h1 id=" in text
            assert name in pages[f"{kind}/index.html"]


def test_a_models_page_shows_its_numbers_its_curve_and_its_attention(pages: dict[str, str]) -> None:
    card = zoo.info("alibi-lm")
    text = pages["models/alibi-lm.html"]
    assert f"{card.parameters:,}" in text
    titles = set(re.findall(r"<title[^>]*>(alibi-lm[^<]*|Training[^<]*)</title>", text))
    assert {"Training curve of alibi-lm", "alibi-lm, first layer, first head"} <= titles


def test_a_translators_page_shows_its_use_its_alignment_and_how_it_is_counted(
    pages: dict[str, str],
) -> None:
    text = pages["models/seq2seq-en-de.html"]
    titles = set(re.findall(r"<title[^>]*>(seq2seq-en-de, [^<]*)</title>", text))
    assert {f"seq2seq-en-de, {layer} layer" for layer in ("first", "last")} <= titles
    assert "Ein Hund" in text.split('id="use"')[1].split('id="alignment"')[0]
    for score in zoo.info("seq2seq-en-de").scores:
        assert score.signature in text
        if score.interval is not None:
            assert f"({score.interval[0]:.2f} to {score.interval[1]:.2f})" in text


def test_hooks(pages: dict[str, str]) -> None:
    hooks = {name for name in vars(Hooks) if name.startswith("txzoo_")}
    shown = set(re.findall(r'<h2 id="(txzoo_\w+)"', pages["reference/hooks.html"]))
    assert shown == hooks
    fixtures = {name for name in vars(pytest_plugin) if name.startswith("txzoo_")}
    named = set(re.findall(r"\btxzoo_[a-z_]+\b", written()))
    assert fixtures < named <= hooks | fixtures


def test_commands(pages: dict[str, str]) -> None:
    text = pages["reference/commands.html"]
    for verb in {*VERBS, *commands().names()}:
        assert f"txzoo {verb}" in text, verb


def test_environment_variables() -> None:
    code = [*(ROOT / "zoo").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    code += [*(ROOT / "gallery").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    read = set(
        re.findall(r"\bTXZOO_[A-Z_]+\b", "\n".join(path.read_text("utf-8") for path in code))
    )
    page = (DOCS / "reference" / "environment.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `(TXZOO_[A-Z_]+)`", page, re.M))
    others = {"TXZOO_HOOKS", "TXZOO_TEST_HUB"}  # a name in a plugin; between our tests only
    assert listed == read - others
    assert set(re.findall(r"\bTXZOO_[A-Z_]+\b", written())) <= read


def test_errors(pages: dict[str, str]) -> None:
    errors = {
        name
        for name, value in vars(zoo.errors).items()
        if isinstance(value, type) and issubclass(value, zoo.ZooError)
    }
    text = pages["reference/errors.html"]
    assert not [name for name in errors if f'id="zoo.errors.{name}"' not in text]
    named = set(re.findall(r"\b[A-Z]\w+Error\b", written()))
    assert named <= errors | set(vars(builtins))


def test_extras() -> None:
    text = written()
    offered = set(EXTRAS) - {"dev"}
    assert set(re.findall(r"txzoo\[([\w-]+)\]", text)) <= set(EXTRAS)
    quickstart = (DOCS / "quickstart.md").read_text("utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", quickstart, re.M)) == offered


def test_public_names(pages: dict[str, str]) -> None:
    """Everything in `zoo.__all__` is on the page that says so."""
    text = re.sub(r"<[^>]+>", "", pages["reference/python.html"])
    for name in zoo.__all__:
        assert re.search(rf"\b{re.escape(name)}\b", text), name

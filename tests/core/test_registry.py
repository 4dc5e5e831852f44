"""Names: who owns them, what happens when two claim one, what an unknown one says."""

from collections.abc import Callable
from pathlib import Path

import pytest

import zoo
from zoo.errors import CardError, NameClashError, PluginError, UnknownNameError
from zoo.registry import registry, reset, resolve

Install = Callable[..., Path]

CARD = """---
license: mit
pipeline_tag: text-generation
txzoo: {{architecture: toy-decoder, name: {name}}}
---
"""


def architectures(*names: str) -> str:
    """Source of a plugin that brings architectures."""
    return f"""
        from zoo import Architecture, hookimpl

        @hookimpl
        def txzoo_architectures():
            return [Architecture(name, target="somewhere.model:" + "Thing") for name in {names!r}]
    """


MODELS = """
    from pathlib import Path
    from zoo import hookimpl

    @hookimpl
    def txzoo_models():
        return sorted(Path(__file__).parent.glob("models/*/"))
"""


def with_models(package: str, *names: str) -> dict[str, str]:
    """Files of a plugin that brings models, which are cards only."""
    cards = {f"{package}/models/{name}/README.md": CARD.format(name=name) for name in names}
    return {f"{package}/__init__.py": MODELS, **cards}


def test_names_are_sorted_and_lead_to_entries_and_owners(install: Install) -> None:
    install("first", {"one.py": architectures("b-decoder", "a.v2")})
    install("second", {"two.py": architectures("c")})
    found = registry().architectures
    assert found.names() == ["a.v2", "b-decoder", "c"]
    assert found.get("c").target == "somewhere.model:Thing"
    assert found.owner("c").name == "second:two"
    assert found.get("first:a.v2") is found.get("a.v2")
    assert found.get("First:a.v2") is found.get("first:one:a.v2")


def test_the_core_brings_its_pipeline_without_any_plugin(site: Path) -> None:
    assert zoo.list_pipelines() == [
        "feature-extraction",
        "fill-mask",
        "image-classification",
        "image-to-text",
        "summarization",
        "text-classification",
        "text-generation",
        "text2text-generation",
        "token-classification",
        "translation",
        "zero-shot-image-classification",
    ]
    assert registry().pipelines.get("txzoo:text-generation").target.startswith("zoo.pipelines.")
    assert zoo.list_plugins() == []


def test_a_plugin_cannot_take_over_a_name_of_the_core(install: Install) -> None:
    source = """
        from zoo import Pipeline, hookimpl

        @hookimpl
        def txzoo_pipelines():
            return [Pipeline("text-generation", target="evil.plugin:Pipeline")]
    """
    install("squatter", {"squat.py": source})
    with pytest.raises(NameClashError, match=r"txzoo:core and squatter:squat both provide"):
        registry().pipelines.get("text-generation")
    assert registry().pipelines.get("txzoo:text-generation").target.startswith("zoo.")


def test_two_plugins_claiming_one_model_is_an_error_naming_both(install: Install) -> None:
    install("first", with_models("zoo_first", "same-lm", "first-lm"))
    install("second", with_models("zoo_second", "same-lm"))
    models = registry().models
    with pytest.raises(NameClashError) as caught:
        models.get("same-lm")
    assert str(caught.value) == (
        "first:zoo_first and second:zoo_second both provide the model 'same-lm'; "
        "use 'first:same-lm' or 'second:same-lm'"
    )
    assert models.get("first:same-lm").folder.parts[-3:] == ("zoo_first", "models", "same-lm")
    assert models.owner("second:same-lm").name == "second:zoo_second"
    assert models.names() == ["first-lm", "first:same-lm", "second:same-lm"]
    assert zoo.list_models() == models.names()


def test_two_plugins_of_one_distribution_are_told_apart_by_their_full_names(
    install: Install,
) -> None:
    install(
        "both",
        {"one.py": architectures("same"), "two.py": architectures("same")},
        entry_points={"one": "one", "two": "two"},
    )
    found = registry().architectures
    assert found.names() == ["both:one:same", "both:two:same"]
    with pytest.raises(NameClashError, match="use 'both:one:same' or 'both:two:same'"):
        found.get("both:same")
    assert found.owner("both:two:same").name == "both:two"


def test_an_unknown_model_suggests_and_counts(install: Install) -> None:
    install("first", with_models("zoo_first", "alibi-lm", "rope-lm", "learned-lm"))
    with pytest.raises(UnknownNameError) as caught:
        registry().models.get("alibi")
    assert str(caught.value) == (
        "Unknown model 'alibi'. Did you mean 'alibi-lm'? txzoo list shows all 3."
    )
    with pytest.raises(UnknownNameError, match="Did you mean 'first:alibi-lm'"):
        registry().models.get("frist:alibi-lm")
    with pytest.raises(UnknownNameError, match="Unknown model ''"):
        registry().models.get("")


def test_an_unknown_name_mentions_what_is_set_aside(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("broken", {"broken_plugin.py": "raise RuntimeError('no luck')"})
    install("off", {"off_plugin.py": architectures("x")})
    monkeypatch.setenv("TXZOO_DISABLE_PLUGINS", "off")
    with pytest.raises(UnknownNameError) as caught:
        registry().architectures.get("x")
    message = str(caught.value)
    assert "broken:broken_plugin (RuntimeError: no luck)" in message
    assert "off:off_plugin (disabled by TXZOO_DISABLE_PLUGINS)" in message
    assert "txzoo plugins" in message and "\n" not in message


def test_a_broken_card_breaks_one_model_only(install: Install) -> None:
    files = with_models("zoo_first", "fine-lm", "bad-lm")
    files["zoo_first/models/bad-lm/README.md"] = CARD.format(name="bad-lm").replace("mit", "[]")
    files["zoo_first/models/Odd_Name/README.md"] = CARD.format(name="")
    install("first", files)
    assert zoo.list_models() == ["fine-lm"]
    [plugin] = zoo.list_plugins()
    assert plugin.error is None
    problems = {folder.name: text for folder, text in plugin.broken_models.items()}
    assert "README.md:2: license: must be text" in problems["bad-lm"]
    assert "the name 'Odd_Name' is not lower case" in problems["Odd_Name"]
    with pytest.raises(CardError, match=r"README\.md:2: license"):
        registry().models.get("bad-lm")


def test_a_broken_card_raises_in_strict_mode(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXZOO_STRICT_PLUGINS", "1")
    install("first", {**with_models("zoo_first"), "zoo_first/models/bare/config.json": "{}"})
    with pytest.raises(PluginError, match=r"Plugin first:zoo_first: .*bare.README\.md"):
        zoo.list_models()


def test_a_half_written_folder_is_no_model(install: Install) -> None:
    install("first", {**with_models("zoo_first"), "zoo_first/models/.new.x1/config.json": "{}"})
    assert zoo.list_models() == []
    assert zoo.list_plugins()[0].broken_models == {}


def test_reset_discovers_again(install: Install) -> None:
    install("first", {"one.py": architectures("a")})
    assert zoo.list_architectures() == ["a"]
    install("second", {"two.py": architectures("b")})
    assert zoo.list_architectures() == ["a"]
    reset()
    assert zoo.list_architectures() == ["a", "b"]


def test_resolve_imports_the_target() -> None:
    from pathlib import PurePosixPath

    assert resolve("pathlib:PurePosixPath") is PurePosixPath


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("no_such_place:Thing", "ModuleNotFoundError: No module named 'no_such_place'"),
        ("pathlib:NoSuchThing", "AttributeError: module 'pathlib' has no attribute"),
        ("exits_when_imported:Thing", "calls sys.exit(1)"),
    ],
)
def test_resolve_says_what_does_not_import(site: Path, target: str, reason: str) -> None:
    (site / "exits_when_imported.py").write_text("import sys; sys.exit(1)")
    with pytest.raises(PluginError) as caught:
        resolve(target)
    assert f"{target} does not import: {reason}" in str(caught.value)


def test_resolve_lets_our_own_errors_through(site: Path) -> None:
    (site / "wants_extra.py").write_text(
        "from zoo.errors import MissingExtraError\nraise MissingExtraError('Drawing', 'plot')"
    )
    with pytest.raises(zoo.errors.MissingExtraError, match=r"pip install 'txzoo\[plot\]'"):
        resolve("wants_extra:Thing")


FILTERS = """---
license: {license}
pipeline_tag: text-generation
txzoo:
  architecture: {architecture}
  task: {task}
  summary: {summary}
  parameters: {parameters}
  files: {files}
---
"""
RECORD = "{model.safetensors: {sha256: " + "a" * 64 + ", bytes: 1}}"
HUB = "{}\n  hub: {{repo: a/b, revision: {}}}".format(RECORD, "a" * 40)


@pytest.fixture
def filtered(install: Install) -> None:
    """Three models that differ in everything."""
    rows = {
        "zoo_one/models/alibi-lm": ("MIT", "alibi", "wikitext-2", "Slopes", "3000000", RECORD),
        "zoo_one/models/tiny-lm": ("apache-2.0", "alibi", "synthetic", "Small", "1000", HUB),
        "zoo_two/models/rope-lm": ("mit", "rope", "wikitext-2", "Rotation", "null", "{}"),
    }
    keys = ("license", "architecture", "task", "summary", "parameters", "files")
    cards = {
        f"{folder}/README.md": FILTERS.format(**dict(zip(keys, row, strict=True)))
        for folder, row in rows.items()
    }
    install("one", {"zoo_one/__init__.py": MODELS, **cards})
    install("two", {"zoo_two/__init__.py": MODELS, **cards})


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["alibi-lm", "rope-lm", "tiny-lm"]),
        ({"query": "LM"}, ["alibi-lm", "rope-lm", "tiny-lm"]),
        ({"query": "rotat"}, ["rope-lm"]),
        ({"query": "*i*-lm"}, ["alibi-lm", "tiny-lm"]),
        ({"query": "nothing"}, []),
        ({"task": "wikitext-2"}, ["alibi-lm", "rope-lm"]),
        ({"architecture": "alibi"}, ["alibi-lm", "tiny-lm"]),
        ({"pipeline": "text-generation", "task": "synthetic"}, ["tiny-lm"]),
        ({"plugin": "two"}, ["rope-lm"]),
        ({"plugin": "zoo_one"}, ["alibi-lm", "tiny-lm"]),
        ({"plugin": "one:zoo_one"}, ["alibi-lm", "tiny-lm"]),
        ({"bundled": True}, ["alibi-lm"]),
        ({"bundled": False}, ["rope-lm", "tiny-lm"]),
        ({"license": "mit"}, ["alibi-lm", "rope-lm"]),
        ({"max_params": 5_000_000}, ["alibi-lm", "tiny-lm"]),
        ({"max_params": 1000}, ["tiny-lm"]),
    ],
)
@pytest.mark.usefixtures("filtered")
def test_list_models_filters(filters: dict[str, object], names: list[str]) -> None:
    assert zoo.list_models(**filters) == names  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"task": "wikitext2"}, "Unknown task 'wikitext2'. Did you mean 'wikitext-2'"),
        ({"architecture": "alib"}, "Unknown architecture 'alib'. Did you mean 'alibi'"),
        ({"pipeline": "fill"}, "Unknown pipeline 'fill'. Did you mean 'fill-mask'"),
        ({"plugin": "tow"}, "Unknown plugin 'tow'"),
    ],
)
@pytest.mark.usefixtures("filtered")
def test_a_filter_value_that_nobody_has_is_an_error(filters: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        zoo.list_models(**filters)  # type: ignore[arg-type]

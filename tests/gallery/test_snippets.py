"""How to use a model: every snippet runs as it stands, and does what it says."""

import ast
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from zoo_gallery.snippets import (
    PICTURE,
    answers,
    endpoint,
    http_snippet,
    literal,
    python_snippet,
    reference,
    shell_snippet,
    slug,
)

import zoo
from zoo.cli import cli
from zoo.data import PAIRED
from zoo.drawings import drawing

TEXTS = {
    "both quotes": """a "b" 'c'""",
    "an apostrophe": "it's",
    "backslashes": "C:\\new\\",
    "lines": "ROMEO:\n",
    "a command": "$(touch pwned) `id` ; #",
    "an option": "--help",
    "letters": "Überraschung 東京 🙂",
    "placeholders": "{0} ${x} %s",
}
HEAD = "license: mit\npipeline_tag: {}\ntxzoo:\n  architecture: none\n"
BUNDLED = zoo.list_models(bundled=True)


def card_of(text: str | None, pipeline: str = "text-generation", path: str = "m/README.md"):
    card = zoo.Card.parse(f"---\n{HEAD.format(pipeline)}---\n", Path(path))
    if text is not None:
        card.data["txzoo"]["example"] = text
    return card


def calls(code: str, function: str) -> list[ast.Call]:
    found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return [call for call in found if ast.unparse(call.func) == function]


@pytest.mark.parametrize("name", BUNDLED)
def test_python_and_shell_write_the_same(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = zoo.info(name)
    monkeypatch.chdir(tmp_path)
    drawing("ship").save(PICTURE)  # what models of pictures are shown
    exec(compile(python_snippet(card), "snippet", "exec"), {})
    written = capsys.readouterr().out
    verb, *arguments = shlex.split(shell_snippet(card))
    assert verb == "txzoo"
    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    if card.pipeline == "text-generation" and answers(card):
        assert shown.stdout == written
        assert written.strip() and not written.startswith(card.example)
    elif card.pipeline == "text-generation":
        assert shown.stdout == written
        assert written.startswith(card.example)
        assert len(written) > len(card.example) + 20
    elif card.pipeline in (*PAIRED, "image-to-text"):
        assert shown.stdout == written
        assert written.strip() not in ("", card.example)
    elif card.pipeline == "fill-mask":
        [best, *_] = ast.literal_eval(written)
        assert shown.stdout.splitlines()[1].split()[1] == best["token_str"]
    elif card.pipeline == "zero-shot-image-classification":  # the shell shows a table
        assert shown.stdout.splitlines()[1].startswith(ast.literal_eval(written)[0]["label"])
    else:
        found = ast.literal_eval(written)
        best = found[0] if isinstance(found, list) else found
        assert best["label"] == shown.stdout.split()[2]


def test_they_run_in_processes_of_their_own(tmp_path: Path) -> None:
    card = zoo.info("speech-alibi")
    (tmp_path / "use.py").write_text(python_snippet(card), encoding="utf-8")
    python = subprocess.run(
        [sys.executable, "use.py"], cwd=tmp_path, capture_output=True, text=True
    )
    line = shell_snippet(card).replace("txzoo", f"{shlex.quote(sys.executable)} -m zoo", 1)
    shell = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert (python.returncode, shell.returncode) == (0, 0), python.stderr + shell.stderr
    assert python.stdout == shell.stdout != ""


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_example_stays_what_it_is(text: str) -> None:
    card = card_of(text)
    assert ast.literal_eval(literal(text)) == text
    (call,) = calls(python_snippet(card), "model")
    assert ast.literal_eval(call.args[0]) == text
    (call,) = calls(http_snippet(card, "http://127.0.0.1:1"), "client.predict")
    assert ast.literal_eval(call.args[0]) == text
    _, verb, *arguments = shlex.split(shell_snippet(card))
    command = cli.get_command(cli.make_context("txzoo", [verb], resilient_parsing=True), verb)
    assert command is not None
    assert command.make_context(verb, arguments).params["prompt"] == text


def test_an_example_that_the_shell_would_run_is_only_text(tmp_path: Path) -> None:
    line = shell_snippet(card_of(TEXTS["a command"])).replace("txzoo", "printf '%s\\n'", 1)
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == TEXTS["a command"]
    assert not list(tmp_path.iterdir())


def test_a_text_model_without_an_example_still_gets_a_call() -> None:
    (call,) = calls(python_snippet(card_of(None)), "model")
    assert ast.literal_eval(call.args[0])


def test_a_pipeline_that_nobody_knows_is_loaded_and_not_guessed_at() -> None:
    card = card_of(None, "audio-classification")
    assert calls(python_snippet(card), "zoo.load")
    assert not calls(python_snippet(card), "model")
    assert shlex.split(shell_snippet(card))[:2] == ["txzoo", "info"]
    assert not calls(http_snippet(card, "http://127.0.0.1:1"), "client.predict")


def test_models_that_share_a_name_keep_apart(install, tiny_model: Path) -> None:
    face = """
    from pathlib import Path
    from zoo import hookimpl

    @hookimpl
    def txzoo_models():
        return [Path({!r})]
    """
    for owner in ("one", "two"):
        folder = tiny_model.parent / f"of-{owner}" / "same"
        folder.mkdir(parents=True)
        text = (tiny_model / "README.md").read_text(encoding="utf-8")
        (folder / "README.md").write_text(text.replace("name: tiny", "name: same"))
        install(owner, {f"{owner}.py": face.format(str(folder))})
    cards = [zoo.info(name) for name in zoo.list_models()]
    assert [card.name for card in cards] == ["same", "same"]
    assert [reference(card) for card in cards] == ["one:same", "two:same"]
    assert [slug(card) for card in cards] == ["one_same", "two_same"]
    assert [endpoint(card, "run") for card in cards] == ["one_same_run", "two_same_run"]
    assert 'zoo.load("two:same")' in python_snippet(cards[1])


def test_a_model_that_is_not_registered_is_found_by_its_folder(tiny_model: Path) -> None:
    card = zoo.Card.read(tiny_model)
    assert reference(card) == str(tiny_model)
    assert endpoint(card, "run") == "tiny_run"


def test_they_need_neither_gradio_nor_torch() -> None:
    code = (
        "import sys, zoo, zoo_gallery.snippets as s\n"
        "card = zoo.info('alibi-lm')\n"
        "s.python_snippet(card), s.shell_snippet(card), s.http_snippet(card, 'http://x')\n"
        "print([name for name in ('torch', 'gradio', 'gradio_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

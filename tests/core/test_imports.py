"""What importing and listing may load, and which way the imports point."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "huggingface_hub", "transformers", "tokenizers", "safetensors", "gradio")
PUBLIC = [
    *(
        "Architecture",
        "Card",
        "Chat",
        "Config",
        "Model",
        "Pipeline",
        "Task",
        "Tuning",
        "View",
        "ZooError",
    ),
    *("__version__", "compare", "create", "errors", "evaluate", "hookimpl", "info"),
    *(
        "list_architectures",
        "list_models",
        "list_pipelines",
        "list_plugins",
        "list_tasks",
        "load",
        "publish",
        "quantize",
        "train",
    ),
    "verify",
]


def loaded(code: str) -> set[str]:
    """Top-level names in `sys.modules` after code has run in a fresh process."""
    script = f"{code}\nimport sys\nprint('=', *{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_importing_needs_the_standard_library_only() -> None:
    added = loaded("import zoo") - loaded("pass")
    assert added - set(sys.stdlib_module_names) == {"zoo"}


def test_listing_needs_no_torch_and_no_hub() -> None:
    modules = loaded(
        "import zoo\n"
        "zoo.list_models(), zoo.list_architectures(), zoo.list_tasks(), zoo.list_pipelines()\n"
        "[zoo.info(name) for name in zoo.list_models()]\n"
        "zoo.Card, zoo.Config, zoo.Model"
    )
    assert "zoo" in modules
    assert not modules & set(HEAVY)


def test_the_public_names_are_these_and_each_is_there() -> None:
    assert zoo.__all__ == PUBLIC
    assert dir(zoo) == PUBLIC
    for name in PUBLIC:
        assert getattr(zoo, name) is not None
    with pytest.raises(AttributeError, match="module 'zoo' has no attribute 'lode'"):
        zoo.lode  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert zoo.__version__ == project["version"]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at any level and inside any function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def test_the_core_imports_no_plugin_and_no_gallery() -> None:
    files = list((ROOT / "zoo").rglob("*.py"))
    assert files
    for path in files:
        tops = {module.split(".")[0] for module in imports(path)}
        assert not {top for top in tops if top.startswith("zoo_") or top == "gradio"}, path


def test_plugins_import_the_core_and_never_each_other() -> None:
    files = list((ROOT / "plugins").rglob("*.py"))
    assert files
    for path in files:
        own = path.relative_to(ROOT / "plugins").parts[0]
        tops = {module.split(".")[0] for module in imports(path)}
        assert not {top for top in tops if top.startswith("zoo_")} - {own}, path


@pytest.mark.parametrize(
    ("module", "below"),
    [
        ("errors", set()),
        ("config", {"errors"}),
        ("folder", {"errors", "card", "nn"}),  # the card for its type only
        ("data", {"errors"}),
        ("card", {"errors", "folder", "data", "numbers"}),
        ("hookspecs", set()),
        ("plugins", {"errors", "hookspecs"}),
        ("registry", {"errors", "hookspecs", "plugins", "card", "folder"}),
        ("images", {"errors"}),
        ("conversation", {"errors", "folder", "tokenization", "model"}),  # the model for its type
        (
            "model",  # images for its type only
            {"errors", "card", "folder", "registry", "attention", "publishing", "tuning"}
            | {"conversation", "images", "nn"},
        ),
        ("hub", {"errors", "folder", "registry"}),
        (
            "loading",  # engines for `load(engine=...)`, which is load itself with a detour
            {"errors", "data", "card", "folder", "hub", "plugins", "registry", "model", "nn"}
            | {"engines"},
        ),
        (
            "publishing",
            {"errors", "card", "folder", "hub", "loading", "model", "evaluation", "registry"},
        ),
    ],
)
def test_imports_point_one_way(module: str, below: set[str]) -> None:
    used = {name.split(".")[1] for name in imports(ROOT / f"zoo/{module}.py") if "zoo." in name}
    assert used <= below

"""safetensors only: no way of ours leads to `torch.load`, to pickle or to `trust_remote_code`."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for top in ("zoo", "plugins", "gallery")
    for path in sorted((ROOT / top).rglob("*.py"))
    if "template" not in path.parts
]
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "torch.load",
    "torch.hub.load",
    "np.load",
    "numpy.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
NAMES = {"trust_remote_code", "allow_pickle", "weights_only", "UnsafeLoader", "FullLoader"}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an attribute's tree."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(tree: ast.AST) -> list[str]:
    """Every use of something that can run what it reads."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [module] if module.split(".")[0] in MODULES else []
            found += [f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}" in CALLS]
        elif isinstance(node, ast.Attribute) and dotted(node) in CALLS:
            found.append(dotted(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [node.func.id] if node.func.id in ("eval", "exec", "compile") else []
        if isinstance(node, ast.keyword) and node.arg in NAMES:
            found.append(node.arg)
        if isinstance(node, ast.Attribute | ast.Name) and dotted(node).split(".")[-1] in NAMES:
            found.append(dotted(node))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_names_them(path: Path) -> None:
    assert dangers(ast.parse(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "numpy.load(x, allow_pickle=True)",
        "eval(config['x'])",
        "yaml.load(x, yaml.UnsafeLoader)",
    ],
)
def test_the_search_finds_them(code: str) -> None:
    assert dangers(ast.parse(code))


TRAPS = """
import builtins, pickle, sys
import torch, torch.serialization
import zoo, zoo.export, zoo.publishing, zoo.cli
from pathlib import Path

class trap:  # a class, since others derive theirs from pickle.Unpickler
    def __init__(self, *arguments, **options):
        raise SystemExit("a pickle was reached")

for module, names in ((pickle, ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads")),
                      (torch, ("load",)), (torch.serialization, ("load", "_load", "_legacy_load")),
                      (torch.hub, ("load", "load_state_dict_from_url"))):
    for name in names:
        setattr(module, name, trap)
armed = True
def hook(event, arguments):
    if armed and event == "pickle.find_class":
        raise SystemExit("a pickle was reached: " + repr(arguments))
sys.addaudithook(hook)
"""
WAYS = """
# what no layout of transformers can hold
OURS_ONLY = ("speech-alibi", "speech-encoder", "emotion-encoder", "mlm-encoder", "imdb-encoder")
from PIL import Image
Image.new("RGB", (40, 30), "red").save("picture.png")
for name in zoo.list_models(bundled=True):
    model = zoo.load(name)
    options = {"max_new_tokens": 1} if model.pipeline == "text-generation" else {}
    if model.pipeline == "zero-shot-image-classification":
        options = {"labels": ["red", "blue"]}
    given = "picture.png" if model.pipeline in zoo.data.PICTURED else model.card.example
    zoo.info(name), model.attention(given), model(given, **options)
    saved = model.save_pretrained(Path("saved", name))
    zoo.load(saved)
    if hasattr(model.module, "to_transformers") and name not in OURS_ONLY:
        zoo.load(zoo.export.export(model, Path("exported", name)))
assert zoo.cli.main(["verify", "synthetic-decoder"]) == 0
for path in Path("hostile").iterdir():
    for ref in (path, path / "model.safetensors", path / "pytorch_model.bin"):
        try:
            zoo.load(ref)
        except zoo.ZooError as error:
            print(type(error).__name__)
        else:
            raise SystemExit(f"{ref} loaded")
print("done")
"""


def hostile(folder: Path) -> None:
    """Pickles that leave a mark when they are read, under every name that might be read."""
    import io
    import pickle

    import torch

    class Mark:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(folder.parent / "executed"), "w")

    archive = io.BytesIO()
    torch.save({"w": Mark()}, archive)
    for number, data in enumerate((pickle.dumps(Mark()), archive.getvalue())):
        for name in ("pytorch_model.bin", "model.safetensors", "model.ckpt"):
            place = folder / f"{number}-{name}"
            place.mkdir(parents=True)
            (place / "config.json").write_text('{"model_type": "gpt2"}')
            (place / name).write_bytes(data)


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TRAPS + code], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_no_way_reaches_them(tmp_path: Path) -> None:
    hostile(tmp_path / "hostile")
    done = run(WAYS, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "done"
    assert done.stdout.count("UnsafeFileError") >= 12
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "code",
    ["torch.load('x')", "pickle.loads(b'x')", "import _pickle; _pickle.loads(b'cos\\nsystem\\n.')"],
)
def test_the_traps_work(code: str, tmp_path: Path) -> None:
    done = run(code, tmp_path)
    assert done.returncode == 1 and "a pickle was reached" in done.stderr

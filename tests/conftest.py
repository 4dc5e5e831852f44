"""Fake installed distributions: real entry points on a real path, away from what is installed."""

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from zoo import plugins, registry

Install = Callable[..., Path]

# files that take a minute or more begin first, so that none of them is left alone at the end
SLOW = (
    "kit/test_install.py",
    "hub/test_faults.py",
    "gallery/test_train.py",
    "gallery/test_app.py",
    "kit/test_kit.py",
    "docs/test_site.py",
    "core/test_compare.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files before all others; what is in a file stays in its order."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(SLOW))


def write_distribution(
    site: Path,
    distribution: str,
    files: dict[str, str],
    *,
    entry_points: dict[str, str] | None = None,
    requires: tuple[str, ...] = (),
) -> Path:
    """Write what `pip install` would: the files, METADATA and entry_points.txt.

    Args:
        site: the folder that stands for site-packages.
        distribution: its name; the version is 1.0.
        files: path below `site` to text.
        entry_points: name to target in group txzoo; the first file as a module unless given.
        requires: Requires-Dist lines.
    """
    for name, text in files.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    module = next(iter(files)).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    lines = [f"{name} = {target}" for name, target in (entry_points or {module: module}).items()]
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text("\n".join(["[txzoo]", *lines, ""]))
    metadata = ["Metadata-Version: 2.1", f"Name: {distribution}", "Version: 1.0"]
    metadata += [f"Requires-Dist: {line}" for line in requires]
    (info / "METADATA").write_text("\n".join([*metadata, ""]))
    return site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty site-packages, the only place where plugins are looked for."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(
        plugins, "distributions", lambda: importlib.metadata.distributions(path=[str(folder)])
    )
    for variable in ("TXZOO_DISABLE_PLUGINS", "TXZOO_STRICT_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    before = set(sys.modules)
    registry.reset()
    yield folder
    registry.reset()
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Install a distribution: `install("name", {"module.py": source}, ...)`."""

    def make(distribution: str, files: dict[str, str], **options: object) -> Path:
        return write_distribution(site, distribution, files, **options)  # type: ignore[arg-type]

    return make


TINY = """
architecture = "alibi-decoder"
task = "synthetic"

[tokenizer]
kind = "word"

[config]
max_seq_len = 32
d_model = 16
n_layers = 1
n_heads = 2
d_ff = 16

[training]
steps = 5
batch_tokens = 256
learning_rate = 1e-2
log_every = 1
"""


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, trained for five steps on the synthetic task. Copy it to change it."""
    import torch

    import zoo

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny.toml").write_text(TINY)
    zoo.train(folder / "tiny.toml", out=folder / "tiny")
    return folder / "tiny"


ENCODER = """
architecture = "encoder"
task = "TASK"
[tokenizer]
kind = "word"
[config]
max_seq_len = 16
d_model = 16
n_layers = 1
n_heads = 2
d_ff = 16
pooling = "mean"
[training]
steps = STEPS
batch_tokens = 128
learning_rate = 1e-2
log_every = 5
"""


@pytest.fixture
def encoder_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Recipes for the toy tasks `colours` and `colours-mlm`, which are registered for one test."""
    import torch

    from zoo.hookspecs import Task

    torch.set_num_threads(1)
    known = registry.registry()
    entries = {
        "colours": ("text-classification", "Colours", ("accuracy", "macro_f1")),
        "colours-mlm": ("fill-mask", "ColoursHidden", ("masked_perplexity", "masked_accuracy")),
    }
    for name, (pipeline, target, metrics) in entries.items():
        entry = Task(
            name,
            pipeline=pipeline,
            target=f"toy_tasks:{target}",
            metrics=metrics,
            license="cc0-1.0",
        )
        found = known.tasks._entries  # no plugin is installed for one class
        monkeypatch.setitem(found, name, [(known.tasks.owner("speeches"), entry)])

    def make(task: str, steps: int) -> Path:
        path = tmp_path / f"tiny-{task}.toml"
        path.write_text(ENCODER.replace("TASK", task).replace("STEPS", str(steps)))
        return path

    return make


TRANSLATOR = """
architecture = "seq2seq"
task = "numerals"
[tokenizer]
kind = "word"
[config]
max_seq_len = 12
d_model = 32
n_layers = 1
n_encoder_layers = 1
n_heads = 2
d_ff = 32
[training]
steps = 500
batch_tokens = 128
learning_rate = 1e-2
log_every = 50
"""


@pytest.fixture(scope="session")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that translates numerals. Copy it to change it."""
    import torch

    import zoo
    from zoo.hookspecs import Task

    torch.set_num_threads(1)
    metrics = ("bleu", "bleu_lowercased", "chrf", "perplexity_per_token")
    target = "toy_tasks:Numerals"
    entry = Task(
        "numerals", pipeline="translation", target=target, metrics=metrics, license="cc0-1.0"
    )
    folder = tmp_path_factory.mktemp("translator")
    (folder / "recipe.toml").write_text(TRANSLATOR)
    known = registry.registry()
    with pytest.MonkeyPatch.context() as patch:
        owner = known.tasks.owner("speeches")
        patch.setitem(known.tasks._entries, "numerals", [(owner, entry)])
        zoo.train(folder / "recipe.toml", out=folder / "numerals")
    return folder / "numerals"


CAPTIONER = """
architecture = "captioner"
task = "paint-captions"
[tokenizer]
kind = "word"
[config]
max_seq_len = 10
image_size = 8
d_model = 24
n_layers = 1
n_encoder_layers = 1
n_heads = 2
d_ff = 32
n_convolutions = 1
[training]
steps = 200
batch_tokens = 120
learning_rate = 1e-2
warmup_steps = 10
log_every = 30
"""


@pytest.fixture(scope="session")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that names colours and shades. Copy it to change it."""
    import torch

    import zoo
    from zoo.hookspecs import Task

    torch.set_num_threads(1)
    entry = Task(
        "paint-captions",
        pipeline="image-to-text",
        target="toy_tasks:PaintCaptions",
        metrics=("exact_attributes", "bleu", "perplexity_per_token"),
        license="cc0-1.0",
    )
    folder = tmp_path_factory.mktemp("captioner")
    (folder / "recipe.toml").write_text(CAPTIONER)
    known = registry.registry()
    with pytest.MonkeyPatch.context() as patch:
        owner = known.tasks.owner("speeches")
        patch.setitem(known.tasks._entries, "paint-captions", [(owner, entry)])
        zoo.train(folder / "recipe.toml", out=folder / "paints")
    return folder / "paints"

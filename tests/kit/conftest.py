"""Plugins as pip would install them, written from the templates and then spoiled."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zoo import registry
from zoo.template import write_plugin

METADATA = """\
Metadata-Version: 2.4
Name: {name}
Version: 0.1.0
Summary: {name}
License-Expression: MIT
Requires-Dist: txzoo>=0.1,<1
"""
Plant = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of txzoo's own."""
    monkeypatch.setenv("TXZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Plant]:
    """Put a generated plugin on the path: `plant("zoo-hello", kind="task")`, which gives the path.

    txzoo's own plugins are there too.
    """
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    for variable in ("TXZOO_DISABLE_PLUGINS", "TXZOO_STRICT_PLUGINS", "TXZOO_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    before = set(sys.modules)

    def make(name: str = "zoo-hello", *, kind: str = "architecture") -> Path:
        project = tmp_path / f"project-{name}"
        write_plugin(name, project, kind=kind)
        package = name.replace("-", "_")
        shutil.copytree(project / package, site / package)
        info = site / f"{package}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(METADATA.format(name=name))
        (info / "entry_points.txt").write_text(f"[txzoo]\n{package} = {package}\n")
        registry.reset()
        return site

    yield make
    registry.reset()
    for name in set(sys.modules) - before:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]

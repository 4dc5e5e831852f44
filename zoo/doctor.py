"""What `txzoo doctor` looks at: versions, extras, the machine, folders, plugins, bundled models."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import __version__
from zoo.errors import ZooError
from zoo.folder import check_files
from zoo.registry import registry

if TYPE_CHECKING:
    from packaging.requirements import Requirement

VARIABLES = ("TXZOO_", "HF_")
INDEX = "https://download.pytorch.org/whl"  # has a folder for each build of torch
BUILD = re.compile(r"cpu|xpu|cu\d+|rocm[\d.]+")  # as versions of torch end behind "+"


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        part: what it belongs to, such as `"packages"`.
        name: what it is.
        value: what was found.
        state: "ok", "wrong", or "missing" for what is optional.
        advice: what to do about it.
    """

    part: str
    name: str
    value: str
    state: str = "ok"
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, part by part."""
    yield from _packages()
    yield from _extras()
    yield from _machine()
    yield from _folders()
    yield from _environment()
    yield from _plugins()
    yield from _models()


def _packages() -> Iterator[Finding]:
    """Python, txzoo and what it requires."""
    yield Finding("packages", "python", platform.python_version())
    yield Finding("packages", "txzoo", __version__)
    for requirement in _requirements(""):
        found = _installed(requirement)
        fits = requirement.specifier.contains(found, prereleases=True) if found else False
        if fits:
            yield Finding("packages", requirement.name, found)
        else:
            advice = f"pip install '{requirement.name}{requirement.specifier}'"
            value = found or "not installed"
            yield Finding("packages", requirement.name, value, "wrong", advice)


def _extras() -> Iterator[Finding]:
    """Which optional features have all they need."""
    for extra in metadata("txzoo").get_all("Provides-Extra") or ():
        missing = sorted({r.name for r in _requirements(extra) if not _installed(r)})
        if missing:
            advice = f"pip install 'txzoo[{extra}]'"
            yield Finding("extras", extra, f"lacks {', '.join(missing)}", "missing", advice)
        else:
            yield Finding("extras", extra, "installed")


def _requirements(extra: str) -> "Iterator[Requirement]":
    """What txzoo requires, or what one of its extras requires besides."""
    from packaging.requirements import Requirement

    for line in requires("txzoo") or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra}):
            continue
        if extra and (marker is None or marker.evaluate({"extra": ""})):
            continue  # not for the extra, but always
        if requirement.name == "txzoo":
            for other in sorted(requirement.extras):
                yield from _requirements(other)
        else:
            yield requirement


def _installed(requirement: "Requirement") -> str:
    """Its version, or an empty text."""
    try:
        return version(requirement.name)
    except PackageNotFoundError:
        return ""


def _machine() -> Iterator[Finding]:
    """What models run on."""
    yield Finding("machine", "system", f"{platform.system()} {platform.machine()}")
    try:
        import torch
    except (ImportError, OSError) as error:
        words = " ".join(str(error).split())
        yield Finding("machine", "torch", words, "wrong", "pip install --force-reinstall torch")
        return
    yield from _torchvision(torch.__version__)
    capability = torch.backends.cpu.get_cpu_capability()
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores, {capability}"
    yield Finding("machine", "processor", threads)
    accelerator = "none"
    if torch.cuda.is_available():
        accelerator = ", ".join(
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        )
    elif torch.backends.mps.is_available():
        accelerator = "Apple graphics (mps)"
    yield Finding("machine", "accelerator", accelerator)


def _torchvision(torch_version: str) -> Iterator[Finding]:
    """Whether torchvision, where it is installed, is one for this torch.

    The CPU build of torch beside a torchvision of another build raises on import: its operators,
    such as torchvision::nms, are compiled for the other one.
    """
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return
    try:
        import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        words = " ".join(str(error).split())
        release, _, build = torch_version.partition("+")
        index = f" --index-url {INDEX}/{build}" if BUILD.fullmatch(build) else ""
        advice = (
            "take the one of torch's own index: pip uninstall torchvision; "
            f"pip install torch=={release} torchvision{index}; only [clip] needs it"
        )
        value = f"{found} cannot be imported beside torch {torch_version}: {words}"
        yield Finding("machine", "torchvision", value, "wrong", advice)
    else:
        yield Finding("machine", "torchvision", found)


def _folders() -> Iterator[Finding]:
    """Where files come from and go to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(os.environ.get("TXZOO_HOME") or HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if os.access(there, os.W_OK):
        yield Finding("folders", "Hub cache", str(cache))
    else:
        advice = "set HF_HOME to a folder that can be written"
        yield Finding("folders", "Hub cache", f"{cache} cannot be written", "wrong", advice)
    data = os.environ.get("TXZOO_DATA")
    if data and not Path(data).is_dir():
        advice = "set TXZOO_DATA to a folder of data sets, or unset it"
        yield Finding("folders", "data sets", f"{data} is no folder", "wrong", advice)
    else:
        yield Finding("folders", "data sets", data or "from the Hub (TXZOO_DATA is not set)")


def _environment() -> Iterator[Finding]:
    """The variables that change what txzoo does; no secret is shown."""
    for name in sorted(os.environ):
        if name.startswith(VARIABLES):
            secret = "TOKEN" in name and not name.endswith("_PATH")
            yield Finding("environment", name, "set, not shown" if secret else os.environ[name])
    if not sys.stdout.encoding.lower().startswith("utf"):
        advice = "set PYTHONUTF8=1"
        yield Finding("environment", "output", sys.stdout.encoding, "wrong", advice)


def _plugins() -> Iterator[Finding]:
    """The plugins, one by one."""
    for plugin in registry().plugins:
        if plugin.error:
            advice = "txzoo plugins --traceback shows where"
            yield Finding("plugins", plugin.name, plugin.error, "wrong", advice)
        elif plugin.disabled:
            yield Finding("plugins", plugin.name, "disabled by TXZOO_DISABLE_PLUGINS", "missing")
        else:
            yield Finding("plugins", plugin.name, plugin.version)


def _models() -> Iterator[Finding]:
    """Whether the files of bundled models are what their cards say."""
    models = registry().models
    for name, card in models.items():
        if not card.trained or card.hub is not None:
            continue
        try:
            check_files(card, card.folder)
        except ZooError as error:
            advice = f"install {models.owner(name).distribution} again"
            yield Finding("models", name, str(error), "wrong", advice)
        else:
            yield Finding("models", name, f"{len(card.files)} files as its card says")
    for plugin in registry().plugins:
        for folder, problem in plugin.broken_models.items():
            advice = f"install {plugin.distribution} again"
            yield Finding("models", folder.name, problem, "wrong", advice)

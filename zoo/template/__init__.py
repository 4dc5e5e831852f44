"""Writes the first version of a plugin: the files in this folder, with names filled in.

A file `package/model.py.in` becomes `zoo_hello/model.py`; in its text `$name` and the like stand
for what `Names` holds. Files of `common` go into every plugin, those of a kind's folder besides.
"""

import keyword
import re
import sys
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from string import Template

from zoo.errors import InputError, NameClashError, UnknownNameError
from zoo.plugins import installed
from zoo.registry import registry

HERE = Path(__file__).parent
KINDS = ("architecture", "task", "pipeline", "tuning")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Names:
    """What a template may ask for.

    Attributes:
        distribution: what pip installs, such as `zoo-hello`.
        package: what Python imports, `zoo_hello`.
        name: what it brings is called, `hello`.
        title: for classes, `Hello`.
        model: name of its model, `hello-tiny`.
        what: the kind, in words that begin a sentence.
        first, second: commands to try what was made.
    """

    distribution: str
    package: str
    name: str
    title: str
    model: str
    what: str
    first: str
    second: str


def write_plugin(distribution: str, folder: Path, *, kind: str = "architecture") -> list[Path]:
    """Write a complete, installable distribution.

    Args:
        distribution: its name, lower case with hyphens.
        folder: where it goes; must not exist.
        kind: one of `KINDS`.

    Returns:
        The files, in order.

    Raises:
        UnknownNameError: no such kind.
        InputError: the name cannot be one, or the folder is there already.
        NameClashError: somebody installed has the name.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of plugin", kind, KINDS)
    names = _names(distribution, kind)
    _require_free(names, kind)
    if folder.exists():
        raise InputError(f"{folder} is there already: choose another name, or --out FOLDER")
    written = []
    for source in sorted(path for part in ("common", kind) for path in (HERE / part).rglob("*.in")):
        inside = source.relative_to(HERE).parts[1:]
        renamed = {"package": names.package, "model": names.model, "github": ".github"}
        path = folder.joinpath(*(renamed.get(part, part) for part in inside)).with_suffix("")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = Template(source.read_text(encoding="utf-8")).substitute(asdict(names))
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _names(distribution: str, kind: str) -> Names:
    if not NAME.fullmatch(distribution):
        raise InputError(
            f"{distribution!r} cannot be the name of a plugin: lower case letters, digits and "
            f"hyphens, such as zoo-hello"
        )
    name = re.sub("^(txzoo|zoo)-", "", distribution)
    package, model = distribution.replace("-", "_"), f"{name}-tiny"
    train = f"txzoo train {model} --out {package}/models/{model} --overwrite"
    tries = {
        "architecture": (train, f"txzoo verify {model}"),
        "task": (train, f"txzoo verify {model}"),
        "pipeline": ("txzoo list --pipelines", "python -m pytest"),
        "tuning": ("txzoo plugins", "python -m pytest"),
    }
    title = "".join(word.capitalize() for word in name.split("-"))
    what = f"{'An' if kind == 'architecture' else 'A'} {kind}"
    return Names(distribution, package, name, title, model, what, *tries[kind])


def _require_free(names: Names, kind: str) -> None:
    """Raise when a name would hide, or be hidden by, what is there."""
    package = names.package
    if keyword.iskeyword(package) or package in sys.stdlib_module_names or find_spec(package):
        raise InputError(f"the package {package!r} would hide another one: choose another name")
    if names.distribution in {one.owner for one in installed()[0]}:
        raise InputError(f"{names.distribution} is installed already: choose another name")
    known = registry()
    taken = {
        "architecture": known.architectures.owners(),
        "task": known.tasks.owners(),
        "pipeline": known.pipelines.owners(),
        "tuning": known.tunings.owners(),
    }
    owners = taken[kind].get(names.name) or known.models.owners().get(names.model)
    if owners:
        raise NameClashError(
            f"{owners[0].name} has the name {names.name!r} already: choose another one"
        )

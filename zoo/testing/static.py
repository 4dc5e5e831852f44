"""Checks of a plugin as a whole: its metadata, and its import in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from zoo.registry import registry
from zoo.testing.kit import Failed, NotApplicable, Subject

IMPORT_LIMIT = 20.0  # seconds after which an import counts as hanging
FAST = 0.5  # seconds
SMALL = 32.0  # MB
# what the Hub allows besides SPDX, when `license_name` says which
NAMED_BY_HAND = "other"


def txzoo_range(subject: Subject) -> None:
    """`txzoo>=0.1,<1`: open to fixes, closed to the next major version."""
    if subject.found.owner == "txzoo":
        raise NotApplicable("part of txzoo itself")
    from packaging.requirements import Requirement

    lines = map(Requirement, subject.found.distribution.requires or ())
    asked = [line for line in lines if line.name.lower() == "txzoo" and not line.extras]
    if not asked:
        raise Failed('does not depend on txzoo: dependencies = ["txzoo>=0.1,<1"]')
    signs = {part.operator for part in asked[0].specifier}
    if not signs & {">=", ">", "~=", "=="} or not signs & {"<", "<=", "~=", "=="}:
        raise Failed(f'"{asked[0]}" is open-ended: write "txzoo>=0.1,<1"')
    if signs & {"==", "==="} and "*" not in str(asked[0].specifier):
        raise Failed(f'"{asked[0]}" pins one version and will not install beside others')


def metadata(subject: Subject) -> None:
    """What a package index shows of it."""
    facts = subject.found.distribution.metadata
    fields = {
        key: facts[key] for key in ("Summary", "License-Expression", "License") if key in facts
    }
    if not fields.get("Summary", "").strip():
        raise Failed('has no description: description = "one line" under [project]')
    named = fields.get("License-Expression") or fields.get("License")
    if not named:
        raise Failed('has no licence: license = "MIT" under [project]')
    require_spdx(named)


def require_spdx(named: str) -> None:
    """Raise unless a text is an SPDX licence expression."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        canonicalize_license_expression(named)
    except InvalidLicenseExpression as error:
        raise Failed(f"{named!r} is not an SPDX licence such as MIT or Apache-2.0") from error


def imports(subject: Subject) -> None:
    """The loader's own words, from a process where nothing else is at stake."""
    facts = probe(subject)
    if facts["error"]:
        raise Failed(facts["error"])


def light(subject: Subject) -> None:
    """Listing imports every plugin, so none may bring in what listing does without."""
    facts = probe(subject)
    if facts["heavy"]:
        raise Failed(
            f"imports {', '.join(facts['heavy'])} ({1000 * facts['seconds']:.0f} ms): name the "
            f'code that needs it in a target "package.module:Class"'
        )


def silent(subject: Subject) -> None:
    """Nothing on standard output or error, through Python or past it."""
    output = probe(subject)["output"]
    if output:
        raise Failed(f"prints {output.strip()[:80]!r}")


def alone(subject: Subject) -> None:
    """No connection, no name looked up, no process started."""
    reached = probe(subject)["reached"]
    if reached:
        raise Failed(f"reaches out: {'; '.join(reached)}")


def fast(subject: Subject) -> None:
    """The time of import and hooks."""
    seconds = probe(subject)["seconds"]
    if seconds > FAST:
        raise Failed(f"takes {seconds:.2f} s, at most {FAST:g} s is fair to `txzoo list`")


def small(subject: Subject) -> None:
    """The memory of import and hooks."""
    megabytes = probe(subject)["megabytes"]
    if megabytes > SMALL:
        raise Failed(f"takes {megabytes:.0f} MB, at most {SMALL:g} MB is fair to `txzoo list`")


def current(subject: Subject) -> None:
    """What works today and will not for ever."""
    if probe(subject)["warnings"]:
        raise Failed("; ".join(probe(subject)["warnings"]))


def own_names(subject: Subject) -> None:
    """A name that two claim is reached by neither."""
    plugin = subject.plugin
    if plugin.disabled:
        raise NotApplicable(f"disabled by {plugin.disabled_by}")
    known = registry()
    known.models.names()
    kinds = (known.architectures, known.tasks, known.pipelines, known.tunings, known.models)
    for catalogue in kinds:
        for name, owners in catalogue.owners().items():
            others = [other.name for other in owners if other is not plugin]
            if plugin in owners and others:
                raise Failed(f"the {catalogue.kind} {name!r} is also in {' and '.join(others)}")


def probe(subject: Subject) -> dict[str, Any]:
    """What `zoo.testing.probe` writes down, and what it printed besides; made once a session."""
    if "probe" not in subject.shared:
        subject.shared["probe"] = _probe(subject.found.plugin().name)
    facts: dict[str, Any] = subject.shared["probe"]
    return facts


def _probe(name: str) -> dict[str, Any]:
    hanging = {"error": f"does not finish within {IMPORT_LIMIT:g} s", "reached": [], "output": ""}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for variable in ("TXZOO_DISABLE_PLUGINS", "TXZOO_PLUGINS"):
        environment.pop(variable, None)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "facts.json")
        command = [sys.executable, "-P", "-m", "zoo.testing.probe", name, str(out)]
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=IMPORT_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return hanging
        printed = done.stdout.decode(errors="replace")
        if not out.is_file():
            words = f"ends the process with status {done.returncode}: {printed[-200:]}"
            return hanging | {"error": " ".join(words.split())}
        facts: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    facts["output"] += printed
    return facts

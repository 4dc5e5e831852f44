"""Imports one plugin in a process of its own and writes down what happened.

python -P -m zoo.testing.probe NAME FILE
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

# what reaches out of the process (https://docs.python.org/3/library/audit_events.html)
OUTSIDE = (
    *("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"),
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn"),
)


def main() -> None:
    """Write the facts of one import, as JSON, into a file."""
    name, out = sys.argv[1:]
    os.environ.pop("TXZOO_STRICT_PLUGINS", None)
    from zoo import plugins

    plugins.SLOW_SECONDS = 3600.0  # the kit keeps the time; the loader's word would be output
    found = next(one for one in plugins.installed()[0] if one.plugin().name == name)
    reached: list[str] = []
    # importing what loading itself needs is not the plugin's doing
    import packaging.requirements
    import packaging.specifiers  # noqa: F401

    sys.addaudithook(lambda event, args: _note(event, args, reached))
    before = _peak()
    plugin = plugins.load(found)
    facts = {
        "error": plugin.error,
        "traceback": plugin.traceback,
        "seconds": plugin.seconds,
        "heavy": plugin.heavy,
        "output": plugin.output,
        "warnings": plugin.warnings,
        "reached": list(reached),
        "megabytes": _peak() - before,
    }
    sys.stdout.flush()
    sys.stderr.flush()
    Path(out).write_text(json.dumps(facts), encoding="utf-8")
    os._exit(0)  # a thread that the plugin left behind would keep the process


def _note(event: str, args: tuple[Any, ...], reached: list[str]) -> None:
    if event in OUTSIDE and len(reached) < 5:
        reached.append(f"{event} {args[1] if event == 'socket.connect' else args[0]!r}")


def _peak() -> float:
    """Most memory this process has taken so far, in MB; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; its getrusage counts the parent's memory too
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()

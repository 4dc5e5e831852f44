"""Fixtures for those who write plugins; pytest finds them wherever txzoo is installed.

Nothing of txzoo is imported before a test asks for one of them.
"""

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zoo.plugins import Plugin


class IsolatedRegistry:
    """txzoo's own plugins and those that a test adds; what else is installed does not show."""

    def __init__(self) -> None:
        from zoo.plugins import discover

        self.plugins = discover()
        self._use()

    def add(self, face: Any, name: str = "under-test:plugin") -> "Plugin":
        """Add a plugin as if it were installed.

        Args:
            face: a module with hooks, or any object that has them as attributes.
            name: `"distribution:entry_point"`.

        Raises:
            PluginError: its hooks give what they must not.
            UnknownNameError: it has a hook that there is not.
        """
        from zoo.plugins import Plugin, collect

        plugin = Plugin(name, name.partition(":")[0], "0", getattr(face, "__name__", "face"))
        collect(plugin, face)
        self.plugins.append(plugin)
        self._use()
        return plugin

    def _use(self) -> None:
        from zoo.registry import Registry, use

        use(Registry(sorted(self.plugins, key=lambda plugin: plugin.name)))


@pytest.fixture
def txzoo_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[IsolatedRegistry]:
    """An isolated registry: txzoo's own plugins, and what the test adds with `.add(module)`."""
    from zoo.registry import reset

    for variable in ("TXZOO_DISABLE_PLUGINS", "TXZOO_STRICT_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TXZOO_PLUGINS", "")
    yield IsolatedRegistry()
    reset()


@pytest.fixture
def txzoo_corpus() -> str:
    """A text of two hundred short lines with a pattern, the same in every run."""
    animals = ("cat", "dog", "hen", "owl", "füchsin")
    lines = (f"the {animals[n % 5]} sees the {animals[(n + n // 5) % 5]} ." for n in range(200))
    return "\n".join(lines) + "\n"


@pytest.fixture
def txzoo_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection but those to this machine fails the test that makes it."""

    def refuse(host: Any) -> None:
        if host not in ("localhost", "127.0.0.1", "::1", None, ""):
            raise RuntimeError(f"this test may not use the network, and asked for {host!r}")

    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        refuse(address[0] if isinstance(address, tuple) else None)
        connect(self, address)

    def guarded_look_up(host: Any, *args: Any, **options: Any) -> Any:
        refuse(host)
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

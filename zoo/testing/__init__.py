"""The conformance kit: what every plugin promises, as numbered checks that anybody can run.

From code `zoo.testing.check_plugin("zoo-hello")`, from the command line `txzoo check-plugin
zoo-hello`, and from pytest, one test a check:

    @zoo.testing.parametrize_with_checks("zoo-hello")
    def test_conformance(check):
        check()

The names are resolved on first use: every run of pytest where txzoo is installed passes here.
"""

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, without importing typing
if TYPE_CHECKING:
    from zoo.testing.checks import CHECKS as CHECKS
    from zoo.testing.checks import KIT_VERSION as KIT_VERSION
    from zoo.testing.checks import Check as Check
    from zoo.testing.kit import ConformanceError as ConformanceError
    from zoo.testing.kit import Report as Report
    from zoo.testing.kit import Result as Result
    from zoo.testing.kit import check_plugin as check_plugin
    from zoo.testing.kit import parametrize_with_checks as parametrize_with_checks
    from zoo.testing.records import Record as Record
    from zoo.testing.records import last_record as last_record

_HOMES = {
    "CHECKS": "zoo.testing.checks",
    "KIT_VERSION": "zoo.testing.checks",
    "Check": "zoo.testing.checks",
    "ConformanceError": "zoo.testing.kit",
    "Record": "zoo.testing.records",
    "Report": "zoo.testing.kit",
    "Result": "zoo.testing.kit",
    "check_plugin": "zoo.testing.kit",
    "last_record": "zoo.testing.records",
    "parametrize_with_checks": "zoo.testing.kit",
}

__all__ = list(_HOMES)  # noqa: PLE0604 - resolved by __getattr__


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'zoo.testing' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value

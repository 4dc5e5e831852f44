"""Everything that txzoo asks of a plugin, one test a check."""

from zoo.testing import parametrize_with_checks


@parametrize_with_checks("zoo-sums")
def test_conformance(check):
    check()

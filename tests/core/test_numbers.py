import math

import pytest

from zoo.numbers import in_words, lower_is_better, plural, short_bytes, short_count, with_error


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (113.2468, 1.04, "113.2 ± 1.0"),
        (0.99512, 0.0012, "0.9951 ± 0.0012"),
        (0.5, 0.1, "0.50 ± 0.10"),
        (12345.6, 152.0, "12350 ± 150"),
        (98.7654, 13.0, "99 ± 13"),
        (0.1234567, None, "0.1235"),
        (0.1234567, math.nan, "0.1235"),
        (1.0, 0.0, "1 ± 0"),
    ],
)
def test_a_number_has_no_more_digits_than_its_error(
    value: float, error: float | None, text: str
) -> None:
    assert with_error(value, error) == text


def test_a_number_rounded_already_stays_as_it_is() -> None:
    once = in_words(113.2468, 1.04)
    assert in_words(float(once[0]), float(once[1])) == once


def test_perplexity_falls_and_accuracy_rises() -> None:
    assert lower_is_better("perplexity per word")
    assert lower_is_better("bits_per_character")
    assert not lower_is_better("accuracy")


def test_sizes_are_short() -> None:
    counts = [None, 0, 999, 1000, 45_678, 3_140_000, 7_200_000_000]
    assert [*map(short_count, counts)] == ["", "0", "999", "1.0k", "45.7k", "3.1M", "7.2B"]
    sizes = [812, 45_678, 3_140_000, 7_200_000_000]
    assert [*map(short_bytes, sizes)] == ["812 bytes", "45.7 kB", "3.1 MB", "7.2 GB"]
    assert (plural(1, "model"), plural(0, "model")) == ("1 model", "0 models")

"""Numbers for people: how many digits mean something, which value is better, how big it is."""

import math
from collections.abc import Mapping

SPELLED = {"bleu": "BLEU", "chrf": "chrF"}  # metrics whose names have capitals of their own
LOWER_IS_BETTER = ("perplexity", "bits", "expected")  # expected calibration error


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of a metric is the better one; all others are like accuracy."""
    return metric.startswith(LOWER_IS_BETTER)


def spelled(metric: str) -> str:
    """A metric's name as people write it: `"perplexity per word"`, `"BLEU lowercased"`."""
    return " ".join(SPELLED.get(word, word) for word in metric.replace("_", " ").split(" "))


def titled(metric: str) -> str:
    """A metric's name as it stands above its numbers: `"Perplexity per word"`, `"chrF"`."""
    words = spelled(metric)
    return words if words.startswith((*SPELLED.values(),)) else words[:1].upper() + words[1:]


def rounded(value: float, error: float) -> tuple[float, float]:
    """A value and its standard error, both cut to the error's two leading digits."""
    if not 0 < error < math.inf:
        return value, error
    digits = _digits(error)
    return round(value, digits), round(error, digits)


def in_words(value: float, error: float | None = None) -> tuple[str, str]:
    """A value and its standard error as `rounded` cuts them, trailing zeros kept.

    Without an error to go by, a value has four digits, and its error is an empty text.
    """
    if error is None or not math.isfinite(error):
        return f"{value:.4g}", ""
    if not 0 < error < math.inf:
        return f"{value:.6g}", "0"
    value, error = rounded(value, error)
    places = max(0, _digits(error))
    return f"{value:.{places}f}", f"{error:.{places}f}"


def with_error(value: float, error: float | None = None) -> str:
    """A value and its standard error in one text: `"113.2 ± 1.0"`."""
    number, spread = in_words(value, error)
    return f"{number} ± {spread}" if spread else number


def short_count(count: int | None) -> str:
    """A number of parameters: 812, 45.6k, 3.1M; empty when it is not known."""
    return "" if count is None else _scaled(count, {"B": 1e9, "M": 1e6, "k": 1e3}, "")


def short_bytes(size: int) -> str:
    """A size of a file: 812 bytes, 45.6 kB, 3.1 MB."""
    return _scaled(size, {" GB": 1e9, " MB": 1e6, " kB": 1e3}, " bytes")


def _scaled(count: int, units: Mapping[str, float], plain: str) -> str:
    for unit, size in units.items():
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count}{plain}"


def plural(count: int, word: str) -> str:
    """`1 model`, `2 models`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _digits(error: float) -> int:
    """Digits after the point that an error's two leading digits take."""
    return 1 - math.floor(math.log10(error))

"""Every error a user can meet. Each says what happened, the values, and the way out."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

# terminals obey the first kind, the second kind shows a text in another order than it has
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|[\u202a-\u202e\u2066-\u2069]")


class ZooError(Exception):
    """Base of all txzoo errors: one clear line, no traceback needed to understand it.

    What files of strangers bring into the line cannot break it or control a terminal.
    """

    def __init__(self, message: str = "") -> None:
        line = re.sub(r"\s*\n\s*", " ", message)
        super().__init__(CONTROLS.sub(lambda sign: ascii(sign[0])[1:-1], line))


class UnknownNameError(ZooError, KeyError):
    """A name that no plugin provides."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        close = (
            get_close_matches(name, known, n=3, cutoff=0.5)
            or [k for k in known if name and name in k][:3]
        )
        guess = f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
        super().__init__(
            f"Unknown {kind} {name!r}.{guess} {hint or f'{len(known)} exist.'}".rstrip()
        )

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0])


class NameClashError(ZooError):
    """Two plugins claim one name; `distribution:name` still reaches each."""


class PluginError(ZooError):
    """A plugin could not be imported or registered."""


class CardError(ZooError):
    """A card that does not parse, or lacks a required field; names file, line and field."""


class FolderError(ZooError):
    """A model folder that is incomplete, or whose files leave it."""


class WeightsError(ZooError):
    """Weights that are damaged, of the wrong shape, incomplete or not finite."""


class HashMismatchError(WeightsError):
    """A file whose bytes differ from what its card promises."""


class UnsafeFileError(ZooError):
    """A weights format that can run code when it is read (pickle); refused by name."""


class ConfigError(ZooError, ValueError):
    """A configuration with an unknown key or a value out of range."""


class RecipeError(ConfigError):
    """A recipe that does not parse or asks for something impossible."""


class InputError(ZooError, ValueError):
    """An input or a generation option that makes no sense."""


class ContextLengthError(InputError):
    """More positions than the model has."""


class MissingExtraError(ZooError, ImportError):
    """A feature whose optional packages are not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs packages that are not installed: pip install 'txzoo[{extra}]'"
        )


class DataNotFoundError(ZooError):
    """A data set that is neither in TXZOO_DATA nor reachable on the Hub."""


class TrainingError(ZooError):
    """A training run that cannot start or go on."""


class HubError(ZooError):
    """The Hub refuses, lacks what is asked for, or is not reached."""


class PublishError(ZooError):
    """A model folder that is not fit to be published; names everything that is missing."""

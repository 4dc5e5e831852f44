"""Where data sets come from: the folder `TXZOO_DATA`, else the Hub."""

import os
from pathlib import Path
from typing import Any

from zoo.errors import DataNotFoundError, MissingExtraError

# pipelines that make a text of another one: pairs of texts are learned from and measured on
PAIRED = ("translation", "summarization", "text2text-generation")
# what a card counts of a user's own data, one of them; labelled texts where there is none
COUNTED = ("pairs", "conversations", "preferences", "pictures", "characters")
# pipelines that read pictures
PICTURED = ("image-classification", "image-to-text", "zero-shot-image-classification")


def local_file(relative: str) -> Path | None:
    """A file below `TXZOO_DATA`, or None when the variable is not set or has no such file."""
    root = os.environ.get("TXZOO_DATA")
    path = Path(root, relative) if root else None
    return path if path is not None and path.is_file() else None


def require_file(relative: str, what: str) -> Path:
    """A file below `TXZOO_DATA` that cannot be had elsewhere.

    Raises:
        DataNotFoundError: it is not there; says where it is looked for.
    """
    path = local_file(relative)
    if path is None:
        raise DataNotFoundError(
            f"{what} was not found: set TXZOO_DATA to a folder that holds {relative} "
            f"(TXZOO_DATA is {os.environ.get('TXZOO_DATA') or 'not set'})"
        )
    return path


def from_hub(
    repository: str,
    *,
    split: str,
    name: str | None = None,
    revision: str,
    streaming: bool = False,
) -> Any:
    """A split of a data set on the Hub, through the `datasets` library.

    With `streaming` rows are fetched as they are needed, and nothing is kept.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataNotFoundError: the Hub cannot be reached or has no such data.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(f"Reading {repository} from the Hub", "hf") from error
    try:
        return datasets.load_dataset(
            repository, name, split=split, revision=revision, streaming=streaming
        )
    except Exception as error:  # the library raises some twenty kinds for "not reachable"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataNotFoundError(
            f"{repository} ({split}) could not be read from the Hub: {reason}. "
            "Without a network, set TXZOO_DATA to a folder that holds the data."
        ) from error

"""How a person calls a model; one file a pipeline. Here stands what those that read text share."""

from typing import TYPE_CHECKING, Any

from zoo.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model


def tokenizer_of(model: "Model") -> "Tokenizer":
    """The model's tokenizer.

    Raises:
        InputError: it has none.
    """
    if model.tokenizer is None:
        raise InputError(
            f"{model.name} has no tokenizer, so it reads no text: call model.module(ids), or put a "
            "tokenizer.json into its folder"
        )
    return model.tokenizer


def prefix_of(config: Any) -> str:
    """What an encoder-decoder's sources begin with, such as "translate English to German: "."""
    return getattr(config, "prefix", "")


def encode(tokenizer: "Tokenizer", text: str) -> list[int]:
    """Token ids of a text that a person gave; at least one.

    Raises:
        InputError: not a text, not valid Unicode, or nothing in it that is a token.
    """
    require_text(text)
    ids: list[int] = tokenizer.encode(text).ids
    if not ids:
        raise InputError(f"The text {text!r} is empty: give at least one word")
    return ids


def require_text(text: str) -> None:
    """Raise `InputError` for what is not a text or not valid Unicode."""
    if not isinstance(text, str):
        raise InputError(f"The input must be a text, got {type(text).__name__}: {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # what the shell gives for bytes that are not UTF-8
        raise InputError(f"The text is not valid UTF-8 at character {error.start + 1}") from error

"""The tokenizer of a source of embeddings, whole or reduced to what a text uses.

Rows of the source go by the text of their tokens, so that a vocabulary may be a part of its.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders

from zoo.errors import FolderError, RecipeError
from zoo.folder import TOKENIZER
from zoo.hub import fetch, parse_address
from zoo.training.embeddings import nowhere


def source_tokenizer(
    settings: Mapping[str, Any], source: str, text: str
) -> tuple[Tokenizer, list[int]]:
    """The tokenizer of a source, for running text.

    It cuts nothing off, fills nothing up and adds no token of its own. Where line ends would be
    lost, as in BERT's, they become a token; it is the only one that has no row in the source.

    Args:
        settings: the [tokenizer] table: `source` where it is another than that of the
            embeddings, `reduced` for the tokens alone that the text uses, with the single
            characters of it, or `vocab_size` for the most frequent of these.
        source: of the embeddings.
        text: what the model is trained on.

    Returns:
        The tokenizer, and the source's row of each token, -1 for none.

    Raises:
        RecipeError: an unknown key, or a size that cannot be.
        FolderError: the source has no tokenizer, or one of another kind.
    """
    settings = {key: value for key, value in settings.items() if key != "kind"}
    source = settings.pop("source", source)
    reduced, most = settings.pop("reduced", False), settings.pop("vocab_size", None)
    for key in settings:
        raise RecipeError(
            f"[tokenizer] kind 'source' takes source, reduced and vocab_size, got {key!r}"
        )
    if not isinstance(source, str) or not source:
        raise RecipeError("[tokenizer] kind 'source' needs a source, here or under [embeddings]")
    if type(reduced) is not bool:
        raise RecipeError(f"[tokenizer] reduced must be true or false, got {reduced!r}")
    if most is not None and type(most) is not int:
        raise RecipeError(f"[tokenizer] vocab_size must be a whole number, got {most!r}")
    label, values = _tokenizer_of(source)
    values |= {"truncation": None, "padding": None}
    whole = _build(values, label)
    if whole.num_special_tokens_to_add(False):
        values["post_processor"] = None
        whole = _build(values, label)
    rows = whole.get_vocab(True)
    made = whole
    if reduced or most is not None:
        used: dict[int, int] = {}
        for token in whole.encode(text, add_special_tokens=False).ids:
            used[token] = used.get(token, 0) + 1
        made = _build(_reduce(values, used, whole, most, label), label)
    if whole.encode("a\nb").tokens == whole.encode("a b").tokens:
        _end_lines(made)
    tokens = made.get_vocab(True)
    if sorted(tokens.values()) != list(range(len(tokens))):
        raise FolderError(f"{label} leaves numbers out: [tokenizer] reduced = true closes the gaps")
    return made, [rows.get(token, -1) for token in sorted(tokens, key=tokens.__getitem__)]


def _tokenizer_of(source: str) -> tuple[str, dict[str, Any]]:
    """A source's tokenizer file as plain values, and its name for errors."""
    if source.startswith("hf://"):
        repo, revision = parse_address(source)
        path = fetch(repo, revision, names=(TOKENIZER,)) / TOKENIZER
    elif not os.path.exists(source):
        raise nowhere(source)
    else:
        path = Path(source) if os.path.isdir(source) else Path(source).parent
        path = path / TOKENIZER
    label = f"{source}: {TOKENIZER}"
    if not path.is_file():
        raise FolderError(f"{source} has no {TOKENIZER}, and so no tokens of its own")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{label} is not valid JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise FolderError(f"{label} is not a tokenizers file")
    return label, values


def _build(values: Mapping[str, Any], label: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(values))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of its Rust code is no Exception
        raise FolderError(f"{label} is not a tokenizers file: {error}") from error


def _end_lines(tokenizer: Tokenizer) -> None:
    """Let a line end be a token, and be written without spaces around it."""
    tokenizer.add_tokens([AddedToken("\n", normalized=False)])
    if tokenizer.decoder is not None:
        ends = [decoders.Replace(" \n", "\n"), decoders.Replace("\n ", "\n")]
        tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Fuse(), *ends])


def _reduce(
    values: Mapping[str, Any],
    used: Mapping[int, int],
    whole: Tokenizer,
    most: int | None,
    label: str,
) -> dict[str, Any]:
    """A tokenizer's values with the tokens alone that are used.

    What of the text is split into which tokens stays the same, unless `most` leaves tokens out:
    the longest piece of a word is still there, and so is every merge on the way to a token.
    """
    model = dict(values["model"])
    kind, vocabulary = model.get("type"), model.get("vocab")
    if kind not in ("BPE", "WordPiece", "WordLevel") or not isinstance(vocabulary, dict):
        raise FolderError(
            f"{label} is of the kind {kind!r}; reduced are BPE, WordPiece and WordLevel: take it "
            "whole, without reduced and vocab_size"
        )
    texts = {number: text for text, number in whole.get_vocab(True).items()}
    added = values.get("added_tokens") or []
    kept: set[str] = {entry["content"] for entry in added}
    kept |= {model["unk_token"]} & set(vocabulary) if model.get("unk_token") else set()
    merges = [
        tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
        for merge in model.get("merges") or []
    ]
    parents: dict[str, set[str]] = {}
    for pair in merges:
        parents.setdefault("".join(pair), set()).update(pair)
    if kind == "BPE":  # the alphabet, of which everything is made
        kept |= {text for text in vocabulary if len(text) == 1 or text.startswith("<0x")}
    elif kind == "WordPiece":
        prefix = model.get("continuing_subword_prefix") or "##"
        signs = {sign for number in used for sign in texts[number].removeprefix(prefix)}
        kept |= {sign for sign in signs | {prefix + sign for sign in signs} if sign in vocabulary}
    if most is not None and most < len(kept):
        raise RecipeError(f"[tokenizer] vocab_size must be at least {len(kept)} here, got {most}")
    for number in sorted(used, key=lambda number: (-used[number], number)):
        fresh, left = set(), [texts[number]]
        while left:
            token = left.pop()
            if token not in kept and token not in fresh:
                fresh.add(token)
                left += parents.get(token, ())
        if most is None or len(kept) + len(fresh) <= most:
            kept |= fresh
    order = sorted(kept, key=whole.get_vocab(True).__getitem__)
    numbers = {text: number for number, text in enumerate(order)}
    model["vocab"] = {text: number for text, number in numbers.items() if text in vocabulary}
    if "merges" in model:
        model["merges"] = [list(pair) for pair in merges if {*pair, "".join(pair)} <= kept]
    entries = [{**entry, "id": numbers[entry["content"]]} for entry in added]
    return {**values, "model": model, "added_tokens": entries}

"""A tokenizer from the files that older checkpoints hold in place of `tokenizer.json`."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import FolderError
from zoo.folder import MOST_TEXT, member
from zoo.plugins import one_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SETTINGS = "tokenizer_config.json"
BYTE_PAIRS = ("vocab.json", "merges.txt")
WORD_PIECES = ("vocab.txt",)
CLASSES = {  # of transformers, by model_type and files; they put the tokens around a text
    "roberta": ("RobertaTokenizerFast", BYTE_PAIRS),
    "deberta": ("DebertaTokenizerFast", BYTE_PAIRS),
    "distilbert": ("DistilBertTokenizerFast", WORD_PIECES),
    "electra": ("ElectraTokenizerFast", WORD_PIECES),
    "mpnet": ("MPNetTokenizerFast", WORD_PIECES),
}
SWITCHES = (
    *("add_prefix_space", "do_lower_case", "strip_accents", "tokenize_chinese_chars"),
    "trim_offsets",
)
TOKENS = tuple(f"{name}_token" for name in ("bos", "cls", "eos", "mask", "pad", "sep", "unk"))


def read_tokenizer(package: Any, folder: Path, kind: str) -> "Tokenizer | None":
    """The tokenizer that a folder's vocabulary makes, as `transformers` would convert it.

    Args:
        package: `transformers`.
        folder: of the checkpoint.
        kind: its model_type.

    Returns:
        None where there is no such vocabulary, or one of SentencePiece only.

    Raises:
        FolderError: a file does not parse, or lies outside the folder.
    """
    name, files = CLASSES.get(kind, ("", ()))
    if not files or not all((folder / file).exists() for file in files):
        return None
    settings = _read_settings(folder)
    with tempfile.TemporaryDirectory() as temporary:  # holds these files alone
        for file in files:
            shutil.copyfile(member(folder, file), Path(temporary, file))
        try:
            made = getattr(package, name).from_pretrained(
                temporary, local_files_only=True, **settings
            )
            tokenizer: Tokenizer = made.backend_tokenizer
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the Rust code below is no Exception
            raise FolderError(
                f"{folder / files[0]} makes no tokenizer: {one_line(error)}"
            ) from error
    return tokenizer


def _read_settings(folder: Path) -> dict[str, Any]:
    """Those of `tokenizer_config.json` that are switches, or texts of special tokens."""
    if not (folder / SETTINGS).exists():
        return {}
    path = member(folder, SETTINGS)
    if path.stat().st_size > MOST_TEXT:
        raise FolderError(f"{path} has more than {MOST_TEXT} bytes")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise FolderError(f"{path}: must hold a JSON object, not {type(values).__name__}")
    tokens = {key: values[key] for key in TOKENS if key in values}
    tokens = {key: t.get("content") if isinstance(t, dict) else t for key, t in tokens.items()}
    switches = {key: values[key] for key in SWITCHES if isinstance(values.get(key), bool)}
    return switches | {key: token for key, token in tokens.items() if isinstance(token, str)}

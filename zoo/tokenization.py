"""The three kinds of tokenizer a recipe can ask for, built by the `tokenizers` library."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import InputError, RecipeError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = "<unk>"
END_OF_TEXT = "<|endoftext|>"
PAD, FIRST, MASK = "<pad>", "<cls>", "<mask>"
PADS, MASKS = (PAD, "[PAD]"), (MASK, "[MASK]")  # ours, BERT's
LEAST_SIZES = {"word": 2, "byte-pair": 256}  # <unk> and one word; every byte
# words with the space before them, numbers, other signs, and each remaining space or line end
WORDS = r"<unk>|\w+(?=n't)|n't|'\w+|\w+|[^\w\s]|\n"  # contractions in two, as NLTK does
PIECES = r" ?<unk>| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s"


def build_tokenizer(text: str, settings: Mapping[str, Any]) -> "Tokenizer":
    """Train a tokenizer on a text.

    Args:
        text: the training split, nothing else.
        settings: `kind`: "character", "word" or "byte-pair"; `vocab_size` for byte-pair, and
            optionally for words, whose rarer ones then become `<unk>`.

    Raises:
        RecipeError: an unknown kind or key, or a size that cannot be.
    """
    settings = dict(settings)
    kind = settings.pop("kind", None)
    builders: dict[str, Callable[..., Tokenizer]] = {
        "character": _character,
        "word": _word,
        "byte-pair": _byte_pair,
    }
    if kind not in builders:
        raise RecipeError(f"[tokenizer] kind must be one of {', '.join(builders)}, got {kind!r}")
    if kind == "byte-pair" and "vocab_size" not in settings:
        raise RecipeError("[tokenizer] kind 'byte-pair' needs a vocab_size")
    for key, value in settings.items():
        if key != "vocab_size" or kind == "character":
            takes = "no setting" if kind == "character" else "vocab_size alone"
            raise RecipeError(f"[tokenizer] kind {kind!r} takes {takes}, got {key!r}")
        if type(value) is not int or value < LEAST_SIZES[kind]:
            least = LEAST_SIZES[kind]
            raise RecipeError(f"[tokenizer] vocab_size must be at least {least}, got {value!r}")
    return builders[kind](text, **settings)


def mark_texts(tokenizer: "Tokenizer") -> None:
    """Let an encoder's texts begin with `<cls>`, and add the tokens for padding and masks."""
    from tokenizers import AddedToken, processors

    # in place of a word with the space before it, as RoBERTa's
    mask = AddedToken(MASK, lstrip=True, normalized=False)
    tokenizer.add_special_tokens([PAD, FIRST, mask])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A",
        special_tokens=[(FIRST, tokenizer.token_to_id(FIRST))],
    )


def end_texts(tokenizer: "Tokenizer") -> None:
    """Let the texts of an encoder-decoder end with `<|endoftext|>`, and add one for padding."""
    from tokenizers import processors

    tokenizer.add_special_tokens([PAD, END_OF_TEXT])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}",
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
    )


def pad_id_of(tokenizer: "Tokenizer") -> int:
    """The token that stands for padding.

    Raises:
        InputError: there is none.
    """
    for pad in PADS:
        if (token := tokenizer.token_to_id(pad)) is not None:
            return token
    raise InputError(f"The tokenizer has no token for padding: {' or '.join(PADS)}")


def _character(text: str) -> "Tokenizer":
    """One token a character; those that the training text lacks are `<unk>`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {sign: index for index, sign in enumerate([*sorted(set(text)), UNKNOWN])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?m)."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _word(text: str, vocab_size: int | None = None) -> "Tokenizer":
    """One token a word or sign or line end, most frequent first; the others are `<unk>`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[ \t\r]+"), "removed"),
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
        ]
    )
    counts = Counter(word for word, _ in split.pre_tokenize_str(text) if word != UNKNOWN)
    room = None if vocab_size is None else vocab_size - 1
    words = sorted(counts, key=lambda word: (-counts[word], word))[:room]
    vocabulary = {word: index for index, word in enumerate([UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence(
        [
            # one space between words, none before closing signs and the endings of contractions
            decoders.WordPiece(prefix="##", cleanup=True),
            decoders.Fuse(),
            decoders.Replace(" \n", "\n"),
            decoders.Replace("\n ", "\n"),
        ]
    )
    return tokenizer


def _byte_pair(text: str, vocab_size: int) -> "Tokenizer":
    """Byte-level byte pairs (Sennrich et al. 2016; Radford et al. 2019): any text, exactly."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer

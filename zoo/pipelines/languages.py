"""The languages that a model translates between, by the tokens that stand for them."""

import re
from typing import TYPE_CHECKING

from zoo.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# `de_DE` of mBART, `deu_Latn` of NLLB, `__de__` of M2M-100
TOKEN = re.compile(r"[a-z]{2}_[A-Z]{2}|[a-z]{3}_[A-Z][a-z]{3}|__[a-z]{2,3}__")


class Languages:
    """What a tokenizer knows of languages.

    Args:
        tokenizer: of a model.
        model: its name, for errors.

    Attributes:
        tokens: the token of each language, by its name: `de_DE`, `deu_Latn`, `de`.
    """

    def __init__(self, tokenizer: "Tokenizer", model: str) -> None:
        self.tokenizer, self.model = tokenizer, model
        words = tokenizer.get_vocab()
        self.tokens = {w.strip("_"): words[w] for w in sorted(words) if TOKEN.fullmatch(w)}

    def token(self, name: str) -> int:
        """The token of a language.

        Args:
            name: as in `tokens`, as the token itself, or what comes before its `_`, where only one
                language begins so.

        Raises:
            InputError: there is no such language, or none at all; the error names those there are.
        """
        if not self.tokens:
            raise InputError(
                f"{self.model} has no languages to choose from: no token of its tokenizer stands "
                "for one. Leave out source_language and target_language"
            )
        names = [
            known
            for known in self.tokens
            if name in (known, f"__{known}__") or known.partition("_")[0] == name
        ]
        if name in self.tokens:
            names = [name]
        if len(names) == 1:
            return self.tokens[names[0]]
        if names:
            raise InputError(f"{self.model} has several {name!r}: {' or '.join(names)}")
        known = ", ".join(self.tokens)
        raise InputError(f"{self.model} has no language {name!r}. It has: {known}")

    def mark(self, ids: list[int], name: str) -> list[int]:
        """A source with the token of its language in the place of that which the tokenizer put.

        Raises:
            InputError: no such language, or the tokenizer marks none.
        """
        token, others = self.token(name), set(self.tokens.values())
        own = [one for one in self.tokenizer.encode("").ids if one in others]
        if not own:
            raise InputError(
                f"The tokenizer of {self.model} does not mark the language of a source: leave out "
                "source_language"
            )
        return [token if one == own[0] else one for one in ids]

    def begin(self, name: str, start_id: int) -> tuple[int, int | None]:
        """What a target in a language is read behind, and the token that it has first, if any.

        Where a model's own `start_id` is a language, as in mBART, it is this one; elsewhere, as in
        mBART-50, M2M-100 and NLLB, the language is the first token that is written.

        Raises:
            InputError: no such language.
        """
        token = self.token(name)
        return (token, None) if start_id in self.tokens.values() else (start_id, token)

"""Fill-mask: a text with one token hidden, and which token it may be."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.errors import InputError
from zoo.pipelines.reading import EncoderPipeline, Row
from zoo.tokenization import MASKS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model


class FillMask(EncoderPipeline):
    """`model("A <mask> from start to end.")` gives the five most likely tokens, best first.

    Each is `{"token": id, "token_str": "joy", "score": ..., "sequence": the text with it}`. Another
    number of them by `top_k`. The mask is written as the tokenizer has it, `<mask>` or `[MASK]`.
    """

    task = "fill-mask"
    heads = ("masked-language",)
    options = ("top_k",)

    def __init__(self, model: "Model") -> None:
        super().__init__(model)
        self.mask = mask_of(self.tokenizer)
        self.mask_id = self.tokenizer.token_to_id(self.mask)

    def answer(self, row: Row, output: Tensor, *, top_k: int | None = 5, **_: Any) -> Any:
        """The best tokens for the one that is hidden."""
        places = [place for place, token in enumerate(row.ids) if token == self.mask_id]
        if len(places) != 1:
            cut = " in the part that was read" if row.left_out else ""
            raise InputError(f"The text must have {self.mask} once, it has {len(places)}{cut}")
        start, end = row.offsets[places[0]]
        start = row.text.index(self.mask, start)  # the token may stand for a space before it, too
        best = output[places[0]].softmax(-1).topk(min(top_k or len(output[0]), len(output[0])))
        answers = []
        for score, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            word = self.tokenizer.decode([token]).strip()
            text = row.text[:start] + word + row.text[end:]
            answers.append({"token": token, "token_str": word, "score": score, "sequence": text})
        return answers


def mask_of(tokenizer: "Tokenizer") -> str:
    """The token that hides another.

    Raises:
        InputError: there is none.
    """
    for mask in MASKS:
        if tokenizer.token_to_id(mask) is not None:
            return mask
    raise InputError(f"The tokenizer has no token that masks another: {' or '.join(MASKS)}")

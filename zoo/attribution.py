"""Which words carried a classifier's decision: by gradient, and by leaving words out.

Neither is the reason that a person would give; where both name a word, it matters to the model. And
attention, which is drawn elsewhere, says where a layer looks, not what decides (Jain & Wallace
2019, "Attention is not Explanation", arXiv:1902.10186).

Letters: W words, T length, D width.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.model import Model
    from zoo.pipelines.text_classification import TextClassification

METHODS = ("occlusion", "gradient")
BATCH = 32  # texts with a word left out that are read at once


@dataclass(frozen=True)
class Word:
    """A word and what it did.

    Attributes:
        text: the word.
        start: where it begins in the text, in characters.
        end: where it ends.
        score: in nats of the label's log-odds; above 0 where it spoke for the label.
    """

    text: str
    start: int
    end: int
    score: float


def attributions(
    model: "Model", text: str, *, method: str = "occlusion", label: str | None = None
) -> list[Word]:
    """What each word of a text did for a label.

    Occlusion (Li et al. 2016, arXiv:1612.08220): the log-odds of the label, minus those of the text
    in which nobody may look at the word. Gradient (Denil et al. 2014, arXiv:1412.6815): the
    gradient of the log-odds by the vectors of the word's tokens, times these vectors, summed: what
    a straight line from here to zero would take away. Log-odds, log p - log(1 - p), because
    log-probabilities hardly move where the model is sure.

    Args:
        model: one that classifies texts.
        text: of a text that is too long, the words that are read.
        method: "occlusion" or "gradient".
        label: the one that is asked about; the most likely unless given.

    Returns:
        The words in their order.

    Raises:
        InputError: another kind of model, another method, an empty text.
        UnknownNameError: a label that the model has not.

    Warns:
        UserWarning: a text is longer than what the model reads, and how much was left out.
    """
    import torch

    from zoo.pipelines.reading import pad
    from zoo.pipelines.text_classification import TextClassification

    if method not in METHODS:
        raise InputError(f"method must be {' or '.join(METHODS)}, got {method!r}")
    if model.pipeline != "text-classification":
        raise InputError(f"{model.name} is a {model.pipeline} model: only labels are explained")
    pipeline = TextClassification(model)
    labels = pipeline.config.labels
    if label is not None and label not in labels:
        raise UnknownNameError(f"label of {model.name}", label, labels)
    (row,) = pipeline.reader()([text])
    pipeline.warn([row])
    ids, real = (part.to(model.device) for part in pad([row.ids], pipeline.config.pad_id))
    if label is None:
        with torch.no_grad():
            label = labels[int(model.module(ids, real)[0].argmax())]
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    places = [  # of each word's tokens
        [t for t, (a, b) in enumerate(row.offsets) if not row.special[t] and a < end and b > start]
        for start, end in spans
    ]
    read = [index for index, tokens in enumerate(places) if tokens]
    score = _occlusion if method == "occlusion" else _gradient
    found = score(pipeline, ids, real, [places[index] for index in read], labels.index(label))
    return [
        Word(text[slice(*spans[index])], *spans[index], value)
        for index, value in zip(read, found, strict=True)
    ]


def _occlusion(
    pipeline: "TextClassification",
    ids: "Tensor",
    real: "Tensor",
    words: list[list[int]],
    label: int,
) -> list[float]:
    """How much less likely the label is without each word, in nats (W,)."""
    import torch

    masks = real.repeat(len(words) + 1, 1)  # the last one leaves nothing out
    for word, tokens in enumerate(words):
        masks[word, tokens] = False
    chances = []
    with torch.no_grad():
        for start in range(0, len(masks), BATCH):
            part = masks[start : start + BATCH]
            logits = pipeline.module(ids.expand(len(part), -1), part)
            chances.append(_log_odds(logits, label))
    found = torch.cat(chances)
    result: list[float] = (found[-1] - found[:-1]).tolist()
    return result


def _gradient(
    pipeline: "TextClassification",
    ids: "Tensor",
    real: "Tensor",
    words: list[list[int]],
    label: int,
) -> list[float]:
    """Gradient times vector of each word's tokens, summed (W,)."""
    import torch

    vectors: list[Tensor] = []

    def watch(_: "nn.Module", __: object, output: "Tensor") -> "Tensor":
        vectors.append(output.detach().requires_grad_(True))
        return vectors[-1]

    hook = _embedding(pipeline.module).register_forward_hook(watch)
    try:
        with torch.enable_grad():
            logits = pipeline.module(ids, real)
            torch.autograd.backward(_log_odds(logits, label).sum())
    finally:
        hook.remove()
    gradient = vectors[0].grad
    assert gradient is not None  # the logits depend on the tokens
    each = (gradient * vectors[0].detach()).sum(-1)[0]
    each = each[-ids.shape[1] :]  # (T,), without a prompt that stands before the text
    return [float(each[tokens].sum()) for tokens in words]


def _log_odds(logits: "Tensor", label: int) -> "Tensor":
    """Log p - log(1 - p) of a label, from logits (N, L) to (N,)."""
    others = [index for index in range(logits.shape[1]) if index != label]
    return logits[:, label].float() - logits[:, others].float().logsumexp(-1)


def _embedding(module: "nn.Module") -> "nn.Module":
    """The table of token vectors: the embedding with a row for each token."""
    from torch import nn

    size = module.config.vocab_size  # type: ignore[union-attr]
    for part in module.modules():
        if isinstance(part, nn.Embedding) and part.num_embeddings == size:
            return part
    raise InputError(f"{type(module).__name__} has no table of token vectors to take gradients by")

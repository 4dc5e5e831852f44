"""Attention weights of a text, as tensors and as a picture."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.charts import AXES, LABEL_INCHES, SHADES, draw_weights
from zoo.errors import InputError, MissingExtraError
from zoo.pipelines import encode, prefix_of, tokenizer_of

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from torch import Tensor

    from zoo.model import Model

WORD = re.compile(r"\w+|[^\w\s]")
SHOWN = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣"})  # else invisible


def attention_maps(model: "Model", text: str) -> "list[Tensor]":
    """The attention weights on a text.

    Returns:
        For each layer (H, T, T): in row t the weights that token t gives to each token, which sum
        to 1 and are 0 for what comes after it. For an encoder-decoder the layers of `alignment`.

    Raises:
        InputError: an empty text, or a model without a tokenizer.
        ContextLengthError: more tokens than the model has positions.
    """
    import torch

    from zoo.nn import EncoderDecoder, record_attention

    if isinstance(model.module, EncoderDecoder):
        return alignment(model, text).layers
    ids = torch.tensor([encode(tokenizer_of(model), text)], device=model.device)  # (1, T)
    with torch.no_grad(), record_attention() as layers:
        model.module(ids)
    return [weights[0].float() for weights in layers]


@dataclass(frozen=True)
class Alignment:
    """Where a decoder looks in the source while it writes.

    Attributes:
        source: S words and signs of the source, and its end; first the model's prefix, if any.
        target: T words and signs of the target, and its end.
        layers: for each decoder layer (H, T, S): row t is the mean over the tokens of target word t
            of the weights they give to all tokens of each source word; rows sum to 1.
    """

    source: list[str]
    target: list[str]
    layers: "list[Tensor]"


def alignment(model: "Model", source: str, target: str | None = None) -> Alignment:
    """The cross-attention of an encoder-decoder, word by word.

    A target's token is looked up where it is predicted, not where it is read (Bahdanau et al. 2015,
    arXiv:1409.0473, section 5.2.1, do so; what a model looks at need not be what it uses).

    Args:
        model: an encoder-decoder.
        source: a text.
        target: what it is to be aligned with; what the model makes of the source unless given.

    Raises:
        InputError: a model of another kind, an empty source or target.
        ContextLengthError: more tokens than the model has positions.
    """
    import torch

    from zoo.nn import EncoderDecoder, record_attention
    from zoo.pipelines.reading import Reader

    module = model.module
    if not isinstance(module, EncoderDecoder):
        raise InputError(f"{model.name} is no encoder-decoder: it aligns nothing")
    target = str(model(source)) if target is None else target
    tokenizer, config = tokenizer_of(model), model.config
    for text in (source, target):
        encode(tokenizer, text)
        if not text.strip():
            raise InputError("There is nothing to align: the source or the target is empty")
    prefix = prefix_of(config)
    (read,) = Reader(tokenizer, sys.maxsize, prefix=prefix).encode([source])
    written = tokenizer.encode(target)
    ids = torch.tensor([[config.start_id, *written.ids[:-1]]], device=model.device)  # (1, T)
    with torch.no_grad():
        sources = torch.tensor([read.ids], device=model.device)  # (1, S)
        memory = module.encode(sources)
        with record_attention() as layers:
            module.decode(ids, memory, torch.ones_like(sources).bool())
    rows, row_of = _words(target, written)
    columns, column_of = _words(prefix + source, read, prefix)
    merge = torch.nn.functional.one_hot(torch.tensor(row_of), len(rows)).float()  # (tokens, T)
    merge = (merge / merge.sum(0)).T
    gather = torch.nn.functional.one_hot(torch.tensor(column_of), len(columns)).float()
    cross = [merge @ weights[0].float().cpu() @ gather for weights in layers[1::2]]
    return Alignment(columns, rows, cross)


def _words(text: str, encoding: "Encoding", prefix: str = "") -> tuple[list[str], list[int]]:
    """The words and signs of a text and its end, and for each token which of them it is part of.

    A prefix that the text begins with is one word.
    """
    spans = [(0, len(prefix.rstrip()))] if prefix else []
    spans += [word.span() for word in WORD.finditer(text, len(prefix))]
    words = [text[start:end] for start, end in spans] + ["end"]
    places: list[int] = []
    for (start, end), special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
        ends = [place for place, span in enumerate(spans) if span[0] < end and start < span[1]]
        inside = ends[0] if ends else places[-1] if places else 0  # a blank goes with what it ends
        places.append(len(spans) if special else inside)
    return words, places


def token_labels(tokenizer: "Tokenizer", text: str, *, longest: int = 12) -> list[str]:
    """What each token of a text stands for, to be read by a person: blanks shown, long ones cut."""
    labels = []
    encoding = tokenizer.encode(text)
    for (start, end), token in zip(encoding.offsets, encoding.tokens, strict=True):
        label = text[start:end] or token  # a token that was added stands for no text
        shown = label.strip(" ").translate(SHOWN) or label.translate(SHOWN)
        labels.append(shown if len(shown) <= longest else shown[: longest - 1] + "…")
    return labels


def draw(
    maps: "Sequence[Tensor]",
    tokens: Sequence[str],
    out: Path,
    *,
    title: str = "",
    columns: Sequence[str] = (),
) -> None:
    """Draw a labelled heatmap for each layer and head.

    Args:
        maps: for each layer (H, T, T), as `attention_maps` gives them, or (H, T, S).
        tokens: T labels.
        out: where the picture goes; the suffix says which kind: .png or .svg.
        title: stands above it.
        columns: S labels, where what is looked at is another text.

    Raises:
        InputError: another suffix, or a folder that is not there.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing attention", "plot") from error
    if out.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"Cannot draw into {str(out)!r}: the name must end in .png or .svg")
    if not out.parent.is_dir():
        raise InputError(f"Cannot draw into {str(out)!r}: there is no folder {str(out.parent)!r}")

    layers, heads = len(maps), max(len(weights) for weights in maps)
    longest = max(len(tokens), len(columns))
    side = min(max(1.5, LABEL_INCHES * longest), 5.0)  # inches of a panel
    figure = Figure(figsize=(heads * side + 2.0, layers * side + 2.2), layout="constrained")
    panels = figure.subplots(layers, heads, squeeze=False)
    for layer, weights in enumerate(maps):
        for head, one in enumerate(weights):
            panel = panels[layer, head]
            at_edge = {"left": head == 0, "below": layer == layers - 1}
            image = draw_weights(
                panel, one, tokens, side=side, cmap="Blues", columns=columns, **at_edge
            )
            panel.set_title(f"layer {layer + 1} · head {head + 1}", fontsize=8)
        for panel in panels[layer, len(weights) :]:
            panel.set_visible(False)
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.01, ticks=SHADES)
    bar.set_label("attention weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    looking, seen = AXES[bool(columns)]
    figure.supylabel(looking, fontsize=9)
    figure.supxlabel(seen, fontsize=9)
    figure.suptitle(title, fontsize=10, parse_math=False, wrap=True)
    figure.savefig(out, dpi=150)

"""Attention weights of a text, as tensors and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.charts import LABEL_INCHES, SHADES, draw_weights
from zoo.errors import InputError, MissingExtraError
from zoo.pipelines import encode, tokenizer_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from zoo.model import Model

SHOWN = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣"})  # else invisible


def attention_maps(model: "Model", text: str) -> "list[Tensor]":
    """The attention weights on a text.

    Returns:
        For each layer (H, T, T): in row t the weights that token t gives to each token, which sum
        to 1 and are 0 for what comes after it.

    Raises:
        InputError: an empty text, or a model without a tokenizer.
        ContextLengthError: more tokens than the model has positions.
    """
    import torch

    from zoo.nn import record_attention

    ids = torch.tensor([encode(tokenizer_of(model), text)], device=model.device)  # (1, T)
    with torch.no_grad(), record_attention() as layers:
        model.module(ids)
    return [weights[0].float() for weights in layers]


def token_labels(tokenizer: "Tokenizer", text: str, *, longest: int = 12) -> list[str]:
    """What each token of a text stands for, to be read by a person: blanks shown, long ones cut."""
    labels = []
    encoding = tokenizer.encode(text)
    for (start, end), token in zip(encoding.offsets, encoding.tokens, strict=True):
        label = text[start:end] or token  # a token that was added stands for no text
        shown = label.strip(" ").translate(SHOWN) or label.translate(SHOWN)
        labels.append(shown if len(shown) <= longest else shown[: longest - 1] + "…")
    return labels


def draw(maps: "Sequence[Tensor]", tokens: Sequence[str], out: Path, *, title: str = "") -> None:
    """Draw a labelled heatmap for each layer and head.

    Args:
        maps: for each layer (H, T, T), as `attention_maps` gives them.
        tokens: T labels.
        out: where the picture goes; the suffix says which kind: .png or .svg.
        title: stands above it.

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

    rows, columns, T = len(maps), max(len(heads) for heads in maps), len(tokens)
    side = min(max(1.5, LABEL_INCHES * T), 5.0)  # inches of a panel
    figure = Figure(figsize=(columns * side + 2.0, rows * side + 2.2), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for layer, heads in enumerate(maps):
        for head, weights in enumerate(heads):
            panel = panels[layer, head]
            at_edge = {"left": head == 0, "below": layer == rows - 1}
            image = draw_weights(panel, weights, tokens, side=side, cmap="Blues", **at_edge)
            panel.set_title(f"layer {layer + 1} · head {head + 1}", fontsize=8)
        for panel in panels[layer, len(heads) :]:
            panel.set_visible(False)
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.01, ticks=SHADES)
    bar.set_label("attention weight", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.supylabel("the token that looks", fontsize=9)
    figure.supxlabel("the token it looks at", fontsize=9)
    figure.suptitle(title, fontsize=10, parse_math=False, wrap=True)
    figure.savefig(out, dpi=150)

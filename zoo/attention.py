"""Attention weights of a text or a picture, as tensors and as a drawing."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from zoo.charts import AXES, LABEL_INCHES, SHADES, draw_weights
from zoo.errors import ContextLengthError, InputError, MissingExtraError
from zoo.images import open_picture, pixels_of, squared
from zoo.pipelines import encode, prefix_of, tokenizer_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from tokenizers import Encoding, Tokenizer
    from torch import Tensor

    from zoo.images import Picture
    from zoo.model import Model

MOST_TOKENS = 2048  # squared, times heads and layers, numbers
WORD = re.compile(r"\w+|[^\w\s]")
SHOWN = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣"})  # else invisible


def attention_maps(model: "Model", text: "str | Picture") -> "list[Tensor]":
    """The attention weights on a text, or on a picture.

    Returns:
        For each layer (H, T, T): in row t the weights that token t gives to each token, which sum
        to 1 and, of a decoder, are 0 for what comes after it. For an encoder-decoder the layers of
        `alignment`, or of `gaze` with the patches row by row, (H, T, N). The tokens of a picture
        are its patches row by row, behind a class token if the model has one.

    Raises:
        InputError: an empty text, no picture, or a model without a tokenizer.
        ContextLengthError: more tokens than the model has positions, or than 2,048, whose maps
            take gigabytes.
    """
    import torch

    from zoo.nn import EncoderDecoder, VisionEncoderDecoder, record_attention

    if isinstance(model.module, VisionEncoderDecoder):
        return [weights.flatten(2) for weights in gaze(model, text).layers]
    if isinstance(model.module, EncoderDecoder):
        return alignment(model, cast(str, text)).layers
    read_pictures: Any = getattr(model.module, "read_pictures", None)
    if read_pictures is not None:
        given = read_pictures([open_picture(text)]).to(model.device)  # (1, C, S, S)
    elif hasattr(model.config, "image_size"):
        given = pixels_of([text], model.config).to(model.device)
    else:
        ids = encode(tokenizer_of(model), cast(str, text))
        encoder = getattr(model.config, "head", None) is not None
        most = min(MOST_TOKENS, model.config.max_seq_len) if encoder else MOST_TOKENS
        if len(ids) > most:
            raise ContextLengthError(
                f"The text has {len(ids):,} tokens, and {model.name}'s attention can be looked at "
                f"for {most:,}: give a part of the text"
            )
        given = torch.tensor([ids], device=model.device)  # (1, T)
    with torch.no_grad(), record_attention() as layers:
        model.module(given)
    if not layers:
        raise InputError(f"{model.name} computes its attention elsewhere, and shows none of it")
    return [weights[0].float() for weights in layers]


def rollout(maps: "Sequence[Tensor]") -> "Tensor":
    """What each token of the last layer draws from each token that was read, through all layers.

    Half of what a layer gives comes past its attention, along the stream: each map is the mean over
    heads, halved, with 1/2 on the diagonal; the product of all is the roll-out. Abnar & Zuidema
    2020, "Quantifying Attention Flow in Transformers", arXiv:2005.00928, section 3.

    Args:
        maps: for each layer (H, T, T), as `attention_maps` gives them, the first layer first.

    Returns:
        (T, T); rows sum to 1.
    """
    import torch

    through = torch.eye(maps[0].shape[-1])
    for layer in maps:
        through = (layer.mean(0) + torch.eye(len(through))) / 2 @ through
    return through


def seen(model: "Model", picture: "Picture") -> "Tensor":
    """How much each patch of a picture counts for the whole, by roll-out.

    Where the model reads its class token that is what this token draws from each patch, else the
    mean over the patches of what they draw. What is drawn is not why a label was chosen.

    Returns:
        (G, G), rows from top to bottom, summing to 1.

    Raises:
        InputError: no picture, or a model that reads none, or writes of them: `gaze` is for that.
    """
    from zoo.nn import EncoderDecoder

    if not hasattr(model.config, "image_size"):
        raise InputError(f"{model.name} reads no pictures")
    if isinstance(model.module, EncoderDecoder):
        raise InputError(f"{model.name} writes of pictures: zoo.attention.gaze says where it looks")
    if not model.config.grid:
        raise InputError(f"{model.name} does not cut pictures into patches: there is no roll-out")
    drawn = _of_patches(rollout(attention_maps(model, picture)), model)
    return drawn / drawn.sum()


def _of_patches(weights: "Tensor", model: "Model") -> "Tensor":
    """What the class token draws from each patch if it is read, else the patches' mean; (G, G)."""
    grid: int = model.config.grid
    first = len(weights) > grid * grid and getattr(model.config, "pooling", "first") == "first"
    patches = weights[:, -grid * grid :]  # (T, N)
    drawn = patches[0] if first else patches[-grid * grid :].mean(0)  # (N,)
    return drawn.view(grid, grid)


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
    longest = module.max_len if target is None else None  # its own answer may be cut off there
    target = str(model(source)) if target is None else target
    tokenizer, config = tokenizer_of(model), model.config
    for text in (source, target):
        encode(tokenizer, text)
        if not text.strip():
            raise InputError("There is nothing to align: the source or the target is empty")
    prefix = prefix_of(config)
    (read,) = Reader(tokenizer, sys.maxsize, prefix=prefix).encode([source])
    written = tokenizer.encode(target)
    told = [config.start_id, *written.ids[:-1]][:longest]
    ids = torch.tensor([told], device=model.device)  # (1, T)
    with torch.no_grad():
        sources = torch.tensor([read.ids], device=model.device)  # (1, S)
        memory = module.encode(sources)
        with record_attention() as layers:
            module.decode(ids, memory, torch.ones_like(sources).bool())
    rows, merge = _merged(target, written, len(told))
    columns, column_of = _words(prefix + source, read, prefix)
    gather = torch.nn.functional.one_hot(torch.tensor(column_of), len(columns)).float()
    looks = [weights[0, ..., -len(read.ids) :].float().cpu() for weights in layers[1::2]]
    # what stands before the source, as learned in prompt tuning, is no word of it
    cross = [merge @ (look / look.sum(-1, keepdim=True)) @ gather for look in looks]
    return Alignment(columns, rows, cross)


@dataclass(frozen=True)
class Gaze:
    """Where a decoder looks in a picture while it writes.

    Attributes:
        words: T words and signs of the caption, and its end.
        layers: for each decoder layer (H, T, G, G): for word t the mean over its tokens of the
            weights that they give to each patch, rows from top to bottom, summing to 1.
    """

    words: list[str]
    layers: "list[Tensor]"


def gaze(model: "Model", picture: "Picture", caption: str | None = None) -> Gaze:
    """The attention of a caption's words to the patches of its picture; as in `alignment`.

    Args:
        model: an encoder-decoder that reads pictures.
        picture: as `zoo.images.open_picture` takes it.
        caption: what is to be looked up; what the model writes of the picture unless given.

    Raises:
        InputError: a model of another kind, no picture, an empty caption.
        ContextLengthError: more tokens than the model has positions.
    """
    import torch

    from zoo.nn import VisionEncoderDecoder, record_attention

    module, config = model.module, model.config
    if not isinstance(module, VisionEncoderDecoder):
        raise InputError(f"{model.name} does not write what it sees in pictures")
    caption = str(model(picture)) if caption is None else caption
    tokenizer = tokenizer_of(model)
    encode(tokenizer, caption)
    written = tokenizer.encode(caption)
    read = [config.start_id, *written.ids[:-1]][: module.max_len]  # a caption may be cut off there
    ids = torch.tensor([read], device=model.device)  # (1, T)
    with torch.no_grad():
        memory = module.encode(pixels_of([picture], config).to(model.device))  # (1, N, D)
        with record_attention() as layers:
            module.decode(ids, memory, None)
    if not layers:
        raise InputError(f"{model.name} keeps no attention weights: it does not use zoo.nn.attend")
    words, merge = _merged(caption, written, len(read))
    grid = config.grid
    looks = [merge @ weights[0].float().cpu() for weights in layers[1::2]]  # (H, T, N)
    return Gaze(words, [look.view(*look.shape[:2], grid, grid) for look in looks])


def _merged(text: str, encoding: "Encoding", count: int) -> "tuple[list[str], Tensor]":
    """The words of a text and its end, and what makes the mean of each one's tokens (T, tokens).

    Only the first tokens, `count` of them, were read: words that go on behind them are left out.
    """
    import torch

    words, word_of = _words(text, encoding)
    merge = torch.nn.functional.one_hot(torch.tensor(word_of), len(words)).float()  # (tokens, T)
    merge = (merge / merge.sum(0)).T[:, :count]
    whole = merge.sum(1) > 0.99
    return [word for word, kept in zip(words, whole, strict=True) if kept], merge[whole]


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


def draw_seen(model: "Model", picture: "Picture", out: Path, *, title: str = "") -> None:
    """Draw a picture, and beside it what counts of it: the roll-out, and each layer's mean head.

    Of a model that writes of pictures: the mean head of its last layer at each word it writes.

    Args:
        model: reads pictures.
        picture: as `zoo.images.open_picture` takes it.
        out: where the drawing goes; the suffix says which kind: .png or .svg.
        title: stands above it.

    Raises:
        InputError: no picture, a model that reads none, another suffix, or no such folder.
        MissingExtraError: matplotlib is not installed.
    """
    new_figure = _figure(out)
    image = squared(open_picture(picture), model.config.image_size)
    panels = [("picture", None), *_panels(model, picture)]
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure = new_figure(figsize=(2.2 * columns, 2.4 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    edge = (0, model.config.image_size, model.config.image_size, 0)
    for panel, (name, weights) in zip(axes, panels, strict=False):
        panel.imshow(image, extent=edge)
        if weights is not None:
            panel.imshow(weights.numpy(), cmap="inferno", alpha=0.65, extent=edge)
        panel.set_title(name, fontsize=9, parse_math=False)
    for panel in axes:
        panel.set_axis_off()
    figure.suptitle(title, fontsize=10, parse_math=False, wrap=True)
    figure.savefig(out, dpi=150)


def _panels(model: "Model", picture: "Picture") -> "list[tuple[str, Tensor]]":
    """What is laid over a picture in a drawing, each (G, G) with its title."""
    from zoo.nn import EncoderDecoder

    if isinstance(model.module, EncoderDecoder):
        found = gaze(model, picture)
        return list(zip(found.words, found.layers[-1].mean(0), strict=True))
    whole = seen(model, picture)
    layers = enumerate(attention_maps(model, picture), start=1)
    maps = [(f"layer {number}", _of_patches(layer.mean(0), model)) for number, layer in layers]
    return [("roll-out", whole), *maps]


def _figure(out: Path) -> "type[Figure]":
    """What drawings are made of, where one can go to `out`."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing attention", "plot") from error
    if out.suffix.lower() not in (".png", ".svg"):
        raise InputError(f"Cannot draw into {str(out)!r}: the name must end in .png or .svg")
    if not out.parent.is_dir():
        raise InputError(f"Cannot draw into {str(out)!r}: there is no folder {str(out.parent)!r}")
    return Figure


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
    new_figure = _figure(out)
    layers, heads = len(maps), max(len(weights) for weights in maps)
    longest = max(len(tokens), len(columns))
    side = min(max(1.5, LABEL_INCHES * longest), 5.0)  # inches of a panel
    figure = new_figure(figsize=(heads * side + 2.0, layers * side + 2.2), layout="constrained")
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

"""Charts of training, of reading at other lengths and of attention, for pages in light and dark.

Lines differ by colour (Okabe & Ito's, which colour-blind people tell apart) and by dash and marker.
Matplotlib is imported inside the functions that draw: the readers beside them need it not.
"""

import json
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from zoo.errors import InputError, MissingExtraError
from zoo.folder import CONFIG, LOG, read_config
from zoo.numbers import spelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from zoo.card import Card

# `svg` turns INK into the colour of the text around the picture, whichever that is. Black itself
# cannot stand for it: the SVG writer leaves black out, as what a shape is drawn in anyway.
INK = "#010203"
# Okabe & Ito 2008 ("Color Universal Design") without yellow, which is lost on white
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    {"color": "#D55E00", "linestyle": "--", "marker": "s"},
    {"color": "#009E73", "linestyle": "-.", "marker": "^"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
    {"color": INK, "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#E69F00", "linestyle": (0, (8, 3)), "marker": "P"},
    {"color": "#56B4E9", "linestyle": (0, (1, 3)), "marker": "X"},
)
GLOW = "#2A8FD0"  # of attention; its contrast is above 3 to 1 on white and on near-black
LABEL_INCHES = 0.125  # room of one token's label at 7 points
# who looks at what in a map of attention: in one text, and from a text to its source
AXES = (
    ("the token that looks", "the token it looks at"),
    ("the word that is written", "the word of the source that is looked at"),
)
SHADES = [0, 0.05, 0.2, 0.5, 1]  # attention weights named beside a heatmap
PIXELS = 96  # of an inch, as CSS counts
MOST_LOG = 1 << 26  # characters of a training log; one of a million lines has as many
FONT = "system-ui, sans-serif"

Point = tuple[int, float, float]  # context in tokens, score, its standard error


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's `training.jsonl`, of a run that is still writing it too.

    Returns:
        A dictionary a line, up to the first that is not whole; none when there is no such file.

    Raises:
        InputError: the file is larger than any training log.
    """
    path = folder / LOG
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(MOST_LOG + 1)
    except FileNotFoundError:
        return []
    if len(text) > MOST_LOG:
        raise InputError(f"{path} is larger than any training log: more than {MOST_LOG} characters")
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # the line that is being written, or was cut off
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def losses(rows: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Steps and training losses (nats) of a log, without its summaries of whole epochs."""
    return [
        (row["step"], row["loss"])
        for row in rows
        if "loss" in row and "step" in row and "epoch" not in row
    ]


def validations(rows: Iterable[Mapping[str, Any]], metric: str = "") -> tuple[str, list[Point]]:
    """One metric of a log in words, and its steps, values and standard errors.

    Args:
        rows: lines of a log.
        metric: its name; unless given, or when the log lacks it, the one that stands first.
    """
    points, name = [], ""
    for row in rows:
        scores = row.get("validation")
        if scores and "step" in row:
            name = metric if metric in scores else next(iter(scores))
            points.append((row["step"], scores[name], scores.get(f"{name}_stderr", math.nan)))
    return spelled(name), points


def lengths_of(
    cards: Iterable["Card"], metric: str = "perplexity per word"
) -> dict[str, list[Point]]:
    """What cards say about reading at several lengths, ready for `lengths`.

    Args:
        cards: of any models; those without the metric are left out.
        metric: as cards name it.

    Returns:
        For each model's name its (context, value, standard error) in the order of the contexts. A
        score without a context was read at the length the model was trained on.
    """
    series = {}
    for card in cards:
        points = []
        for score in card.scores:
            context = score.context or trained_length(card)
            if score.key == metric.replace(" ", "_") and context is not None:
                error = math.nan if score.standard_error is None else score.standard_error
                points.append((context, score.value, error))
        if points:
            series[card.name] = sorted(points)
    return series


def trained_length(card: "Card") -> int | None:
    """Tokens that a model read at once in training; None when its configuration is not here."""
    if not (card.folder / CONFIG).is_file():
        return None
    length = read_config(card.folder).get("max_seq_len")
    return length if isinstance(length, int) else None


def training_curve(rows: Sequence[Mapping[str, Any]], metric: str = "") -> "Figure":
    """The training loss over the steps and, where the log has it, a validation metric below.

    Args:
        rows: lines of `training.jsonl`, as `read_curve` gives them.
        metric: which one, as in `validations`.

    Raises:
        InputError: no line holds a loss.
        MissingExtraError: matplotlib is not installed.
    """
    curve = losses(rows)
    if not curve:
        raise InputError("There is no loss to draw yet: the log holds no line with one")
    name, points = validations(rows, metric)
    figure = _figure(7.0, 4.8 if points else 3.2)
    panels = figure.subplots(2 if points else 1, 1, sharex=True, squeeze=False)[:, 0]
    steps, values = zip(*curve, strict=True)
    marker = STYLES[0]["marker"] if len(curve) < 30 else ""
    panels[0].plot(steps, values, **{**STYLES[0], "marker": marker}, markersize=4, linewidth=1.3)
    panels[0].set_ylabel("training loss (nats)")
    if points:
        _with_errors(panels[1], points, STYLES[1])
        panels[1].set_ylabel(f"validation\n{name}")
    for panel in panels:
        _plain(panel)
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    return figure


def lengths(
    series: Mapping[str, Sequence[Point]],
    *,
    metric: str = "perplexity per word",
    trained: int | None = None,
) -> "Figure":
    """A score over the number of tokens read at once, both on logarithmic axes.

    Args:
        series: name to (context in tokens, score, standard error).
        metric: what the score is, in words.
        trained: the length in training, marked by a line.

    Raises:
        InputError: there is no point, or one that has no place on a logarithmic axis.
        MissingExtraError: matplotlib is not installed.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        raise InputError("There is no score at any length to draw")
    for context, value, _ in points:
        if not (context > 0 and 0 < value < math.inf):
            raise InputError(
                f"Cannot draw {metric} {value} at {context} tokens: both must be above 0"
            )
    figure = _figure(7.0, 4.2)
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    panel = figure.subplots()
    for index, (name, line) in enumerate(series.items()):
        _with_errors(panel, line, STYLES[index % len(STYLES)], label=name)
    if trained is not None:
        panel.axvline(trained, color=INK, alpha=0.4, linewidth=1, zorder=0)
        panel.annotate(
            "trained at this length", (trained, 1), xycoords=("data", "axes fraction"),
            xytext=(4, 0), textcoords="offset points", va="top", fontsize=8, color=INK,
        )  # fmt: skip
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    contexts = sorted({context for context, _, _ in points})
    panel.set_xticks(contexts, [f"{context:,}" for context in contexts])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("tokens read at once")
    panel.set_ylabel(metric)
    _plain(panel)
    figure.legend(
        loc="outside lower center", ncols=min(3, len(series)), frameon=False, labelcolor=INK,
        handlelength=3.5, fontsize=9,
    )  # fmt: skip
    return figure


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, points: bool = True
) -> "Figure":
    """Lines through points, told apart by colour, dash and marker.

    Args:
        series: name to (x, y) pairs.
        x: what stands along the horizontal axis.
        y: what stands along the vertical axis.
        points: whether the points themselves are marked.

    Raises:
        InputError: there is nothing to draw.
        MissingExtraError: matplotlib is not installed.
    """
    if not any(series.values()):
        raise InputError("There is no point to draw")
    figure = _figure(7.0, 4.2)
    panel = figure.subplots()
    for index, (name, pairs) in enumerate(series.items()):
        style = dict(STYLES[index % len(STYLES)])
        # each colour comes again with the next one's dash
        style["linestyle"] = STYLES[(index + index // len(STYLES)) % len(STYLES)]["linestyle"]
        if not points:
            del style["marker"]
        panel.plot(*zip(*pairs, strict=True), **style, label=name, markersize=5, linewidth=1.6)
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    _plain(panel)
    figure.legend(
        loc="outside lower center", ncols=min(3, len(series)), frameon=False, labelcolor=INK,
        handlelength=3.5, fontsize=9,
    )  # fmt: skip
    return figure


def scatter(
    points: Mapping[str, Point], *, x: str, y: str, level: tuple[str, float] | None = None
) -> "Figure":
    """Named points over a logarithmic axis, each with a bar of one standard error up and down.

    Args:
        points: name to (x, y, standard error of y).
        x: what stands along the horizontal axis.
        y: what stands along the vertical axis.
        level: name and height of a line from side to side.

    Raises:
        InputError: there is nothing to draw.
        MissingExtraError: matplotlib is not installed.
    """
    if not points:
        raise InputError("There is no point to draw")
    figure = _figure(7.0, 4.2)
    panel = figure.subplots()
    for index, (name, point) in enumerate(points.items()):
        style = {**STYLES[index % len(STYLES)], "linestyle": "none"}
        if index >= len(STYLES):
            style["markerfacecolor"] = "none"  # the same colour and marker, hollow
        _with_errors(panel, [point], style, label=name)
    if level is not None:
        panel.axhline(level[1], label=level[0], color=INK, linestyle="--", linewidth=1)
    panel.set_xscale("log")
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    _plain(panel)
    figure.legend(
        loc="outside lower center", ncols=3, frameon=False, labelcolor=INK, fontsize=9,
        handlelength=1.5,
    )  # fmt: skip
    return figure


def heatmap(
    weights: Any, tokens: Sequence[str], title: str = "", columns: Sequence[str] = ()
) -> "Figure":
    """The attention of one head: a row for each token that looks, a column for each it looks at.

    Args:
        weights: (T, T) or (T, S), each row summing to 1.
        tokens: T labels, as `zoo.attention.token_labels` gives them.
        title: stands above it.
        columns: S labels, where a source is looked at; the tokens again unless given.

    Raises:
        InputError: there is no token, or not one for each row and column.
        MissingExtraError: matplotlib is not installed.
    """
    T, S = len(tokens), len(columns or tokens)
    if not T or tuple(weights.shape) != (T, S):
        both = f"{T} tokens and {S} columns" if columns else f"{T} tokens"
        raise InputError(f"{both} need {T} x {S} weights, got {tuple(weights.shape)}")
    side = min(max(2.5, LABEL_INCHES * max(T, S)), 6.0)
    figure = _figure(side + 2.0, side + 1.5)
    from matplotlib.colors import LinearSegmentedColormap

    # from nothing at all to blue: the paper of the page shows through where there is no attention
    colours = LinearSegmentedColormap.from_list("attention", [f"{GLOW}00", f"{GLOW}ff"])
    panel = figure.subplots()
    image = draw_weights(panel, weights, tokens, side=side, cmap=colours, columns=columns)
    looking, seen = AXES[bool(columns)]
    panel.set_ylabel(looking, fontsize=9, color=INK)
    panel.set_xlabel(seen, fontsize=9, color=INK)
    panel.set_title(title, fontsize=10, color=INK, parse_math=False, wrap=True)
    bar = figure.colorbar(image, ax=panel, shrink=0.6, pad=0.02, ticks=SHADES)
    bar.set_label("attention weight", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, color=INK, labelcolor=INK)
    bar.outline.set_edgecolor(INK)
    return figure


def draw_weights(
    panel: "Axes",
    weights: Any,
    tokens: Sequence[str],
    *,
    side: float,
    cmap: Any,
    left: bool = True,
    below: bool = True,
    columns: Sequence[str] = (),
) -> "AxesImage":
    """Draw one head's weights into a panel, its tokens along the edges.

    Args:
        panel: where.
        weights: (T, T) or (T, S), an array or a tensor.
        tokens: T labels.
        side: inches of the panel: how many labels have room.
        cmap: colours of the weights from 0 to 1.
        left: whether the rows are labelled.
        below: whether the columns are labelled.
        columns: S labels; the tokens again unless given.

    Returns:
        The image, for a colour bar.
    """
    from matplotlib.colors import PowerNorm

    columns = columns or tokens
    T, S = len(tokens), len(columns)
    every = math.ceil(max(T, S) * LABEL_INCHES / side)  # label each token, or every so manyth
    rows, across = range(0, T, every), range(0, S, every)
    values = weights.cpu().numpy() if hasattr(weights, "cpu") else weights
    # the square root shows small weights too; the bar beside says what a colour means
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    image = panel.imshow(values, cmap=cmap, norm=norm, aspect="equal", interpolation="none")
    # a dollar sign is a token, not a formula
    style: dict[str, Any] = {"fontsize": 7, "parse_math": False, "color": INK}
    panel.set_xticks(
        across if below else [], columns[::every] if below else [], rotation=90, **style
    )
    panel.set_yticks(rows if left else [], tokens[::every] if left else [], **style)
    panel.tick_params(length=2, color=INK)
    for spine in panel.spines.values():
        spine.set_edgecolor(INK)
    if every == 1:  # lines between cells, to follow a row from its label
        between, down = ([edge + 0.5 for edge in range(n - 1)] for n in (S, T))
        panel.vlines(between, -0.5, T - 0.5, color=INK, alpha=0.12, linewidth=0.5)
        panel.hlines(down, -0.5, S - 0.5, color=INK, alpha=0.12, linewidth=0.5)
    return image


_drawing = threading.Lock()  # matplotlib's settings belong to the whole process
_numbers = count(1)


def svg(figure: "Figure", title: str) -> str:
    """A figure as an `<svg>` element that stands in a page: transparent, in the page's own ink.

    It refers to nothing outside, its texts are text in the system's font, and its ids are its own,
    so that several can stand on one page. It is as wide as its place; where `--chart-min-width` is
    set around it, at least so wide, so that its texts can be read in a narrow place that scrolls.

    Args:
        figure: of this module.
        title: what it shows, for those who cannot see it.
    """
    from matplotlib import rc_context

    written = StringIO()
    with _drawing, rc_context({"svg.fonttype": "none", "svg.hashsalt": "txzoo"}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    # no stranger's XML: matplotlib wrote it, texts escaped
    root = ElementTree.fromstring(written.getvalue())
    prefix = f"chart{next(_numbers)}-"
    for parent in root.iter():
        for child in list(parent):
            if _local(child.tag) == "metadata":
                parent.remove(child)
    for element in root.iter():
        _make_its_own(element, prefix)
    width = figure.get_figwidth() * PIXELS
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    heading = ElementTree.Element("title", id=f"{prefix}title")
    heading.text = title
    root.insert(0, heading)
    root.attrib |= {
        "xmlns": "http://www.w3.org/2000/svg",
        "role": "img",
        "aria-labelledby": f"{prefix}title",
        "style": f"width: 100%; min-width: var(--chart-min-width, 0); max-width: {width:.0f}px; "
        "height: auto",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _make_its_own(element: ElementTree.Element, prefix: str) -> None:
    """Plain names without namespaces, ids with the prefix, the page's ink and font."""
    element.tag = _local(element.tag)
    for name, value in list(element.attrib.items()):
        del element.attrib[name]
        name = _local(name)
        if name == "id":
            value = prefix + value
        elif name == "href" and value.startswith("#"):
            value = f"#{prefix}{value[1:]}"
        elif name in ("clip-path", "style"):
            value = value.replace("url(#", f"url(#{prefix}").replace(INK, "currentColor")
            value = _with_system_font(value)
        element.set(
            name, value.replace(INK, "currentColor") if name in ("fill", "stroke") else value
        )


def _with_system_font(style: str) -> str:
    """A style whose font is the system's; the SVG writer names the one it measured with."""
    parts = []
    for part in style.split("; "):
        key, _, value = part.partition(":")
        if key == "font":  # size, then families
            size = next(word for word in value.split() if word.endswith("px"))
            part = f"font: {size} {FONT}"
        elif key == "font-family":
            part = f"font-family: {FONT}"
        parts.append(part)
    return "; ".join(parts)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _figure(width: float, height: float) -> "Figure":
    """An empty transparent figure; sizes in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing a chart", "plot") from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="none")


def _with_errors(
    panel: "Axes", points: Sequence[Point], style: Mapping[str, Any], **how: Any
) -> None:
    """A line through points, with a bar of one standard error up and down where it is known."""
    x, y, errors = zip(*points, strict=True)
    spread = [error if math.isfinite(error) else 0.0 for error in errors]
    panel.errorbar(x, y, yerr=spread, **style, **how, capsize=2, markersize=5, linewidth=1.6)


def _plain(panel: "Axes") -> None:
    """Ink on the left and below only, and a faint grid."""
    panel.set_facecolor("none")
    panel.grid(color=INK, alpha=0.15, linewidth=0.6)
    panel.tick_params(colors=INK, which="both", labelsize=9)
    for side, spine in panel.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_edgecolor(INK)
    for label in (panel.xaxis.label, panel.yaxis.label):
        label.set_color(INK)

"""The Attention tab: which token of a text looks at which, in one layer and head at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from zoo import Card
from zoo.attention import alignment, token_labels
from zoo.charts import AXES, heatmap, svg
from zoo.errors import InputError, ZooError
from zoo.folder import CONFIG, read_config
from zoo.nn import EncoderDecoder
from zoo.numbers import titled
from zoo.pipelines import encode, tokenizer_of
from zoo_gallery import markup
from zoo_gallery.snippets import PROMPT, endpoint, example, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, telling


def attention_tab(gallery: Gallery, card: Card, tab: gr.Tab) -> None:
    """Build the tab; the first map is drawn when it is opened."""
    layers, heads = sizes(card)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            text = gr.Textbox(example(card) or PROMPT, label="Text", lines=3, max_lines=8)
            layer = gr.Radio(numbers(layers), value=1, label="Layer")
            head = gr.Radio(numbers(heads), value=1, label="Head")
        with gr.Column(scale=3, min_width=280):
            drawing = gr.HTML(markup.note("The map is drawn when the weights are loaded."))
    with gr.Accordion("The numbers as a table", open=False):
        weights = gr.HTML()
    gr.Markdown(
        "Where a head looks need not be what the model uses: other weights can give the same."
    )
    pickers = [text, layer, head]
    gr.on(
        [tab.select, text.change, layer.input, head.input],
        _drawer(gallery, card),
        pickers,
        [layer, head, drawing, weights],
        trigger_mode="always_last",
        show_progress="minimal",
        show_progress_on=drawing,
        concurrency_id=COMPUTE,
        api_visibility="private",
    )
    gr.api(_asker(gallery, card), api_name=endpoint(card, "attention"), concurrency_id=COMPUTE)


def _drawer(gallery: Gallery, card: Card) -> Callable[..., Any]:
    """The function that draws what is picked; its errors stand where the map would."""

    def draw(text: str, layer: int, head: int) -> tuple[Any, Any, str, str]:
        try:
            tokens, columns, maps = look(gallery, card, text)
        except ZooError as error:
            return gr.skip(), gr.skip(), markup.error(str(error)), ""
        layer = min(layer, len(maps))
        head = min(head, len(maps[layer - 1]))
        shown = maps[layer - 1][head - 1]
        title = f"{card.name}, layer {layer}, head {head}"
        return (
            gr.Radio(numbers(len(maps)), value=layer),
            gr.Radio(numbers(len(maps[layer - 1])), value=head),
            markup.figure(svg(heatmap(shown, tokens, columns=columns), f"Attention of {title}")),
            numbers_table(shown.tolist(), tokens, title, columns),
        )

    return draw


def _asker(gallery: Gallery, card: Card) -> Callable[..., Any]:
    """The endpoint behind the tab."""

    def attention(text: str, layer: int = 1, head: int = 1) -> dict[str, Any]:
        """The attention weights of one head: a row for each token, each row sums to 1.

        Of a model that makes a text of another: a row for each word it writes.
        """
        with telling():
            tokens, columns, maps = look(gallery, card, text)
            if not (1 <= layer <= len(maps) and 1 <= head <= len(maps[layer - 1])):
                raise InputError(
                    f"There is no layer {layer}, head {head}: {card.name} has {len(maps)} layers "
                    f"of {len(maps[0])} heads, counted from 1"
                )
            found = {"tokens": tokens, "weights": maps[layer - 1][head - 1].tolist()}
            return {**found, "source": columns} if columns else found

    return attention


def look(gallery: Gallery, card: Card, text: str) -> tuple[list[str], list[str], Any]:
    """The T tokens of a text, nothing, and for each layer the weights (H, T, T).

    Of a model that makes a text of another: the T words that it writes, the S words of the text,
    and for each layer (H, T, S).

    Raises:
        ZooError: a text that is empty or too long, or a model that does not load.
    """
    check_length(text, gallery.limits.prompt_characters)
    model = gallery.models.get(reference(card))
    tokenizer = tokenizer_of(model)
    count, most = len(encode(tokenizer, text)), gallery.limits.attention_tokens
    if count > most:
        raise InputError(f"The text has {count} tokens; a map of at most {most} is drawn")
    if isinstance(model.module, EncoderDecoder):
        found = alignment(model, text)
        return found.target, found.source, found.layers
    maps = model.attention(text)
    if not maps:
        raise InputError(f"{card.name} keeps no attention weights: it does not use zoo.nn.attend")
    return token_labels(tokenizer, text), [], maps


def numbers_table(
    weights: Sequence[Sequence[float]],
    tokens: Sequence[str],
    title: str,
    columns: Sequence[str] = (),
) -> str:
    """The weights as a table; what a token cannot see, because it comes later, is left empty."""
    numbered = [f"{place} {token}" for place, token in enumerate(tokens, start=1)]
    seen = [f"{place} {word}" for place, word in enumerate(columns, start=1)] or numbered
    rows = [
        [
            numbered[row],
            *(f"{w:.2f}" if w or columns or column <= row else "" for column, w in enumerate(line)),
        ]
        for row, line in enumerate(weights)
    ]
    looking, _ = AXES[bool(columns)]
    return markup.table(f"Attention weights, {title}", [titled(looking), *seen], rows)


def sizes(card: Card) -> tuple[int, int]:
    """Layers and heads as the configuration says; 1 each when it is not here or does not say."""
    config = read_config(card.folder) if (card.folder / CONFIG).is_file() else {}
    layers, heads = (
        size if isinstance(size := config.get(key), int) and size > 0 else 1
        for key in ("n_layers", "n_heads")
    )
    return layers, heads


def numbers(count: int) -> list[int]:
    """1 to a count, to pick from."""
    return list(range(1, count + 1))

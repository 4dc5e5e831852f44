"""Try a model that goes on from a text: it is shown as it is written, and can be stopped."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import accumulate

import gradio as gr
from torch import nn

from zoo import Card
from zoo.conversation import asked
from zoo_gallery.snippets import PROMPT, endpoint, example, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, paced, telling

TOKENS = 60  # as many as a visitor gets who moves no slider


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: a prompt, how to draw, and what is written."""
    text = example(card) or PROMPT
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(scale=3, min_width=280):
            prompt = gr.Textbox(text, label="Prompt", lines=3, max_lines=12)
            with gr.Row():
                write = gr.Button("Write", variant="primary", min_width=80)
                stop = gr.Button("Stop", variant="stop", min_width=80)
                restore = gr.Button("Example", min_width=80)
            # without Gradio's copy button: it takes the label away from the text
            written = gr.Textbox(label="What it writes", lines=8, max_lines=24, interactive=False)
        with gr.Column(scale=2, min_width=280):
            temperature = gr.Slider(
                0, 2, 0.8, step=0.05, label="Temperature", info="0 takes the likeliest token"
            )
            top_p = gr.Slider(
                0.05, 1, 0.9, step=0.05, label="Top-p", info="Draw among the best that reach p"
            )
            top_k = gr.Slider(
                0, 200, 0, step=1, label="Top-k", info="Draw among the k best; 0 for all"
            )
            most = gallery.limits.new_tokens
            max_new_tokens = gr.Slider(
                1, most, min(TOKENS, most), step=1, label="Length", info="Tokens at most"
            )
            seed = gr.Number(
                1, label="Seed", precision=0, info="Same seed, same text; empty for any"
            )
    writing = gr.on(
        [write.click, prompt.submit],
        writer(gallery, card),
        [prompt, temperature, top_p, top_k, max_new_tokens, seed],
        written,
        api_name=endpoint(card, "run"),
        api_description=f"{card.name} goes on from a text; yields the text so far.",
        concurrency_id=COMPUTE,
        trigger_mode="once",
    )
    stop.click(None, cancels=writing, api_visibility="private")
    restore.click(lambda: text, None, prompt, queue=False, api_visibility="private")


def writer(gallery: Gallery, card: Card) -> Callable[..., Iterator[str]]:
    """The function behind the Write button of one model."""
    name = reference(card)

    def write(
        prompt: str,
        temperature: float = 0.8,
        top_p: float = 0.9,
        top_k: int = 0,
        max_new_tokens: int = TOKENS,
        seed: int | None = 1,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> Iterator[str]:
        with telling():
            check_length(prompt, gallery.limits.prompt_characters)
            model = gallery.models.get(name, lambda line: progress(None, desc=line))
            given = asked(model, prompt)
            length = len(model.called.read(given).ids)
            pieces = model(
                given,
                temperature=temperature,
                top_p=top_p,
                top_k=int(top_k),
                max_new_tokens=fitting(int(max_new_tokens), length, model.module),
                seed=seed,
                stream=True,
            )
            with closing(pieces):
                yield from paced(accumulate(pieces))

    return write


def fitting(wanted: int, prompt: int, module: nn.Module) -> int:
    """How many tokens have room after a prompt of so many; says so when there are fewer."""
    positions: int | None = getattr(module, "max_len", None)
    if positions is None or prompt > positions:  # the model itself says what is wrong then
        return wanted
    room = positions - prompt + 1
    if room < wanted:
        gr.Info(f"It has {positions} positions: after this prompt there is room for {room} tokens")
    return min(wanted, room)

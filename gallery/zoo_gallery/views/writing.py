"""What views share whose models write an answer to a source: how to search, and the answers."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import accumulate
from typing import Any

import gradio as gr

from zoo import Model
from zoo_gallery import markup
from zoo_gallery.views import paced, warned

BEAMS = 4  # at first, as many as the scores of cards are measured with


def search_controls() -> tuple[gr.Slider, gr.Slider]:
    """How many beams, and the length penalty."""
    info = "1 writes word by word as one watches"
    beams = gr.Slider(1, 8, BEAMS, step=1, label="Beams", info=info)
    info = "Above 1 prefers longer answers"
    return beams, gr.Slider(0, 2, 1, step=0.1, label="Length penalty", info=info)


def write_answer(
    model: Model, source: str, num_beams: int, length_penalty: float, most: int
) -> Iterator[tuple[str, str]]:
    """The answer as it grows, and a table of all answers where there are several beams.

    Args:
        model: an encoder-decoder.
        source: what it reads, as its pipeline takes it.
        num_beams: 1 for greedy decoding.
        length_penalty: of beam search.
        most: new tokens.
    """
    positions = getattr(model.module, "max_len", None)
    length = {"max_new_tokens": most if positions is None else min(most, positions)}
    if num_beams > 1:
        with warned():
            found = model(
                source,
                num_beams=num_beams,
                num_return_sequences=num_beams,
                length_penalty=length_penalty,
                return_scores=True,
                **length,
            )
        yield found[0]["text"], answers(found)
        return
    with warned():
        pieces = model(source, stream=True, **length)
    with closing(pieces):
        for text in paced(accumulate(pieces)):
            yield text, ""


def answers(found: Iterable[Mapping[str, Any]]) -> str:
    """A table of the answers of beam search, best first; other tokens may make the same text."""
    rows: dict[str, str] = {}
    for answer in found:
        rows.setdefault(answer["text"], f"{answer['score']:.3f}")
    titles = ["Answer", "Log-probability by length"]
    return markup.table("All answers, best first", titles, list(rows.items()), texts=True)

"""Try a model that fills in hidden words: the likeliest ones, as bars."""

from zoo import Card, Model
from zoo_gallery.state import Gallery
from zoo_gallery.views.bars import text_and_bars

GUESSES = 8


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: a text with one hidden word, and bars of what may stand there."""
    text_and_bars(
        gallery,
        card,
        guesses,
        verb="Fill in",
        label="Guesses",
        description=f"{card.name} fills in <mask>; returns the likeliest tokens.",
    )


def guesses(model: Model, text: str) -> dict[str, float]:
    """The likeliest tokens; of two that are spelled alike the likelier one."""
    found = model(text, top_k=GUESSES)
    return {entry["token_str"]: entry["score"] for entry in reversed(found)}

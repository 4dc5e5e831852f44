"""CLIP (Radford et al. 2021): pictures and texts in one space, by `open_clip`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo import Architecture, hookimpl

TINY = {  # of the kit's own sizes
    "d_embed": 16,
    "vision": {"layers": 2, "width": 24, "head_width": 8, "mlp_ratio": 1.0, "patch_size": 4},
    "text": {"layers": 2, "width": 24, "heads": 3, "mlp_ratio": 1.0},
}


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """One architecture for all towers that `open_clip` builds itself."""
    return [
        Architecture(
            "open-clip",
            target="zoo_clip.model:OpenClip",
            summary="CLIP and its relatives, two towers whose vectors meet, computed by open_clip: "
            "pip install 'txzoo[clip]'",
            paper="https://arxiv.org/abs/2103.00020",
            pipeline="zero-shot-image-classification",
            tiny=(TINY, {**TINY, "more": {"init_logit_bias": -1.0, "custom_text": True}}),
            brought={"clip-zero-shot": "txzoo pin-clip"},
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file, and those that `txzoo pin-clip` has brought."""
    brought = sorted(card.parent for card in pinned_folder().glob("*/README.md"))
    return [*Path(__file__).parent.glob("models/*/"), *brought]


def pinned_folder() -> Path:
    """Where `txzoo pin-clip` brings models to."""
    from zoo.hub import home

    return home() / "pinned-clip"


@hookimpl
def txzoo_commands(cli: Any) -> None:
    """Bring a model of `open_clip`'s registry here."""
    from zoo_clip.command import pin_clip

    cli.add_command(pin_clip)

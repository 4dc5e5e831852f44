"""The gallery: every model of the registry in a browser, by `txzoo gallery`."""

from collections.abc import Iterable
from typing import Any

from zoo import View, hookimpl
from zoo.data import PAIRED


@hookimpl
def txzoo_commands(cli: Any) -> None:
    """Add `txzoo gallery`."""
    from zoo_gallery.command import gallery

    cli.add_command(gallery)


@hookimpl
def txzoo_gallery_views() -> Iterable[View]:
    """The views of txzoo's own pipelines."""
    return [
        View(
            "text-generation",
            target="zoo_gallery.views.text_generation:view",
            summary="Writes on from a text while one watches",
        ),
        View(
            "text-classification",
            target="zoo_gallery.views.text_classification:view",
            summary="Shows each label's probability as a bar",
        ),
        View(
            "token-classification",
            target="zoo_gallery.views.token_classification:view",
            summary="Shows the spans of a text in the colours of their labels",
        ),
        View(
            "feature-extraction",
            target="zoo_gallery.views.feature_extraction:view",
            summary="Shows which texts are near each other, and how near",
        ),
        View(
            "fill-mask",
            target="zoo_gallery.views.fill_mask:view",
            summary="Shows the likeliest words for the hidden one as bars",
        ),
        View(
            "image-classification",
            target="zoo_gallery.views.image_classification:view",
            summary="Shows each label's probability as a bar, and what was looked at",
        ),
        View(
            "zero-shot-image-classification",
            target="zoo_gallery.views.zero_shot:view",
            summary="Labels and templates in words, and pictures searched by a text",
        ),
        View(
            "image-to-text",
            target="zoo_gallery.views.image_to_text:view",
            summary="Says what a picture shows, and where it looked at each word",
        ),
        *(
            View(
                pipeline,
                target="zoo_gallery.views.text2text:view",
                summary="Makes a text of another and lists what came close",
            )
            for pipeline in PAIRED
        ),
    ]

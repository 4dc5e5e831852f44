"""The command `txzoo pin-clip`."""

from pathlib import Path

import click


@click.command("pin-clip")
@click.argument("model", default="ViT-B-32")
@click.argument("pretrained", default="laion2b_s34b_b79k")
@click.option(
    "--out",
    default="clip-zero-shot",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The new folder.",
)
def pin_clip(model: str, pretrained: str, out: Path) -> None:
    """Bring a model of open_clip's registry here, as a model folder.

    MODEL and PRETRAINED are its names there, ViT-B-32 laion2b_s34b_b79k unless given. Weights,
    tokenizer and preprocessing are written together, each with its hash; afterwards no network is
    asked.
    """
    from zoo_clip.pinning import pin

    card = pin(model, pretrained, out=out)
    click.echo(f"{out}: zoo.load({f'./{out}' if not out.is_absolute() else str(out)!r}) opens it")
    click.echo(f"{card.name}: {card.parameters:,} parameters")

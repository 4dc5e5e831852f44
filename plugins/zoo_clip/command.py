"""The command `txzoo pin-clip`."""

from pathlib import Path

import click


@click.command("pin-clip")
@click.argument("model", default="ViT-B-32")
@click.argument("pretrained", default="laion2b_s34b_b79k")
@click.option(
    "--name",
    default="clip-zero-shot",
    show_default=True,
    help="What it is called from then on, in the cache.",
)
@click.option("--out", type=click.Path(path_type=Path), help="A folder of your own in its place.")
def pin_clip(model: str, pretrained: str, name: str, out: Path | None) -> None:
    """Bring a model of open_clip's registry here, as a model folder.

    MODEL and PRETRAINED are its names there, ViT-B-32 laion2b_s34b_b79k unless given. PRETRAINED
    may be a safetensors file, with the open_clip_config.json of its repository beside it. Weights,
    tokenizer and preprocessing are written together, each with its hash; afterwards no network is
    asked.
    """
    from zoo_clip.pinning import pin, place_of

    folder = place_of(name) if out is None else out
    card = pin(model, pretrained, out=folder)
    ref = name if out is None else str(out) if out.is_absolute() else f"./{out}"
    click.echo(f"{card.parameters:,} parameters in {folder}: zoo.load({ref!r}) opens it")

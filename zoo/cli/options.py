"""Options of several verbs: what computes a model, where, and with what adapter."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from zoo.model import Model

engine_option = click.option(
    "--engine", metavar="NAME", help="What computes: onnx, onnx-int8 or llama.cpp."
)
device_option = click.option(
    "--device", metavar="NAME", help="Where: cuda, mps, cuda:1; the processor unless given."
)
adapter_option = click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Put on the model: what was trained here, or by PEFT.",
)


def loaded(
    ref: str, adapter: Path | None, *, engine: str | None = None, device: str | None = None
) -> "Model":
    """A model by these options.

    Raises:
        UsageError: an adapter for what another engine computes.
        ZooError: as of `zoo.load` and `load_adapter`.
    """
    import zoo

    if adapter is not None and engine is not None:
        raise click.UsageError(
            f"{engine} computes what it was given: txzoo merge {ref} --adapter {adapter} --out "
            "FOLDER makes a model of both, which --engine then takes"
        )
    model = zoo.load(ref, engine=engine, device=device)
    return model if adapter is None else model.load_adapter(adapter)

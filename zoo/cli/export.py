"""The verb for a model that leaves the house: export."""

from pathlib import Path

import click

from zoo.cli import output
from zoo.errors import InputError
from zoo.numbers import short_bytes


@click.command()
@click.argument("ref", metavar="NAME")
@click.option("--format", default="transformers", show_default=True, help="The layout.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new folder.")
@output.json_option
@click.pass_context
def export(ctx: click.Context, ref: str, format: str, out: Path, as_json: bool) -> None:
    """Write a model as a folder that another project opens, and compare the two.

    Formats are transformers, onnx, onnx-int8 and gguf; and safetensors-int8, safetensors-int4 and
    safetensors-dynamic-int8, folders with quantised weights that txzoo itself opens. Where the
    other engine is installed it opens the folder, and its logits and 64 greedy tokens are held
    against the model's.
    Exit status 1 when they differ by more than rounding explains.
    """
    from zoo.export import check, format_of
    from zoo.export import export as write

    write(ref, out, format)
    size = sum(path.stat().st_size for path in out.iterdir())
    how = format_of(format).opened_by(out)
    found, reason = None, ""
    try:
        found = check(ref, out, format)
    except InputError as error:
        reason = str(error)
    if as_json:
        facts = {"folder": out, "format": format, "bytes": size, "opened_by": how}
        compared = {**vars(found), "ok": found.ok} if found else {"reason": reason}
        output.print_json({**facts, "compared": compared})
    else:
        click.echo(f"{out} ({short_bytes(size)}): {how}")
    if found is None:
        return click.echo(f"Not compared: {reason}", err=True)
    if not as_json:
        equal = f"{found.same} of {found.tokens}" if found.tokens else "-"
        what = "greedy tokens equal"
        if found.labels:
            equal, what = f"{found.agreed} of {found.labels}", "labels equal"
        row = (found.engine, str(found.texts), f"{found.difference:.2g}", f"{found.spread:.2g}")
        titles = ("engine", "texts", "largest logit difference", "spread of logits")
        output.print_table((*titles, what), [(*row, equal)], right=titles[1:])
    if found.misread:
        click.echo(f"{found.misread} of {found.texts} texts become other tokens there", err=True)
    if not found.ok:
        click.echo("The two differ by more than rounding explains: do not use the folder", err=True)
        ctx.exit(1)
    return None

"""The verb that hands over to EleutherAI's lm-evaluation-harness."""

import sys

import click


@click.command(
    "lm-eval",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def lm_eval(arguments: tuple[str, ...]) -> None:
    """Run EleutherAI's lm-evaluation-harness, which then knows the model `txzoo`.

    ARGUMENTS are those of its own command, lm_eval:
    --model txzoo --model_args name=alibi-lm --tasks TASK. It says what it takes with: run --help.
    """
    from zoo.harness import command  # its import registers the model

    before = sys.argv
    sys.argv = ["txzoo lm-eval", *arguments]
    try:
        command()
    finally:
        sys.argv = before

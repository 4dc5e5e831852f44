"""The verbs that speak with the Hub: publish, pull, cache."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from zoo.cli import output
from zoo.errors import InputError, UnknownNameError, ZooError
from zoo.numbers import plural, short_bytes

if TYPE_CHECKING:
    from zoo.hub import CachedModel
    from zoo.publishing import Parcel


@click.command()
@click.argument("ref", metavar="NAME")
@click.argument("repo", metavar="REPO")
@click.option("--private", is_flag=True, help="Make the repository for you alone.")
@click.option("--tag", help="Name for the commit, such as v1.")
@click.option("--revision", metavar="BRANCH", help="Another branch than the main one.")
@click.option("--no-verify", is_flag=True, help="Do not measure again what the card claims.")
@click.option("--dry-run", is_flag=True, help="Check, show what would be sent, and stop.")
@output.json_option
def publish(
    ref: str,
    repo: str,
    private: bool,
    tag: str | None,
    revision: str | None,
    no_verify: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send a model to the Hub, checked first.

    NAME is a name, or a path to a model folder; REPO is owner/name. The token is the one that the
    Hub's own client uses: from `hf auth login`, or HF_TOKEN.
    """
    from zoo.publishing import check_target, packed, send

    check_target(repo, revision, tag)
    with packed(ref, verify=not no_verify) as parcel:
        if not as_json:
            _show_parcel(parcel, repo)
        sent = None
        if not dry_run:
            sent = send(parcel, repo, private=private, revision=revision, tag=tag)
    if as_json:
        files = {name: asdict(record) for name, record in parcel.files.items()}
        result = asdict(sent) if sent else None
        output.print_json({"repo": repo, "files": files, "notes": parcel.notes, "sent": result})
    elif sent is None:
        click.echo("Nothing was sent (--dry-run)")
    else:
        click.echo(sent.url if sent.changed else f"{sent.url} (nothing new, no commit was made)")
        click.echo(f"Load it with: zoo.load('hf://{repo}@{tag or sent.commit}')")


def _show_parcel(parcel: "Parcel", repo: str) -> None:
    """What will be sent where."""
    click.echo(f"{parcel.folder} to {repo}")
    rows = [(name, short_bytes(r.bytes), r.sha256[:16]) for name, r in parcel.files.items()]
    output.print_table(("file", "size", "sha256 begins"), rows, right=("size",))
    if parcel.left:
        click.echo(f"Not sent: {', '.join(parcel.left)}")
    for note in parcel.notes:
        click.echo(f"Note: {note}", err=True)


@click.command()
@click.argument("ref")
@click.option("--revision", help="Branch, tag or commit.")
@output.json_option
def pull(ref: str, revision: str | None, as_json: bool) -> None:
    """Get a model from the Hub into the cache, to load it later without a network.

    REF is hf://owner/name[@revision], or the name of a model whose files are there.
    """
    from zoo.folder import check_files
    from zoo.loading import locate

    found = locate(ref, revision=revision)
    check_files(found.card, found.folder)
    if as_json:
        return output.print_json({"name": found.card.name, "folder": str(found.folder)})
    click.echo(f"{found.card.name}: {found.folder}")


@click.group()
def cache() -> None:
    """Look at the models that came from the Hub."""


@cache.command("list")
@output.json_option
def list_cache(as_json: bool) -> None:
    """List the models in the cache."""
    from zoo.hub import cache_folder, cached

    models = cached()
    if as_json:
        return output.print_json([{**asdict(m), "folder": str(m.folder)} for m in models])
    if not models:
        return click.echo(f"No model is in the cache ({cache_folder()})", err=True)
    output.print_table(
        ("model", "revision", "commit", "size"),
        [
            (f"hf://{m.repo}", ", ".join(m.refs), m.commit[:12], short_bytes(m.bytes))
            for m in models
        ],
        right=("size",),
    )


@cache.command()
@click.argument("ref")
def remove(ref: str) -> None:
    """Remove a model from the cache.

    REF is hf://owner/name for all of its revisions, hf://owner/name@revision for one.
    """
    from zoo.hub import remove

    models = _named(ref)
    freed = remove(models)
    click.echo(f"{plural(len(models), 'revision')} removed, {short_bytes(freed)} freed")


@cache.command()
@click.argument("ref", required=False)
@output.json_option
@click.pass_context
def verify(ctx: click.Context, ref: str | None, as_json: bool) -> None:
    """Hold the files in the cache against their hashes.

    Exit status 1 when one differs; it is removed, and the next load gets it anew.
    """
    from zoo.hub import cached

    rows = [(model, _problem(model)) for model in (_named(ref) if ref else cached())]
    if as_json:
        output.print_json(
            [{"ref": m.ref, "ok": not problem, "problem": problem} for m, problem in rows]
        )
    elif rows:
        output.print_table(
            ("model", "commit", "result"),
            [(f"hf://{m.repo}", m.commit[:12], "failed" if bad else "ok") for m, bad in rows],
        )
        for _, problem in rows:
            if problem:
                click.echo(problem)
    if any(problem for _, problem in rows):
        ctx.exit(1)


def _named(ref: str) -> "list[CachedModel]":
    """The cached revisions that an address names."""
    from zoo.hub import cached, parse_address

    repo, revision = parse_address(ref)
    models = cached()
    named = [
        model
        for model in models
        if model.repo == repo
        and (revision is None or revision in model.refs or model.commit.startswith(revision))
    ]
    if not named:
        known = {f"hf://{model.repo}" for model in models}
        raise UnknownNameError("model in the cache", ref, known)
    return named


def _problem(model: "CachedModel") -> str:
    """What is wrong with a cached revision; empty when nothing is."""
    from zoo.card import Card
    from zoo.folder import WEIGHTS, check_files
    from zoo.hub import check_snapshot
    from zoo.loading import info

    try:
        check_snapshot(model.folder)
        card: Card = info(model.folder)
        if (model.folder / WEIGHTS).exists():
            check_files(card, model.folder)
    except InputError:
        raise
    except ZooError as error:
        return str(error)
    return ""

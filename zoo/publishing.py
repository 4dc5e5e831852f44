"""`zoo.publish`: a model folder, checked, to the Hub in one commit."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.card import Card
from zoo.errors import HubError, InputError, PublishError
from zoo.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD, FILES, FileRecord, check_files, member
from zoo.hub import ADDRESS, LIBRARY, check_revision, git_hash, talking
from zoo.loading import locate
from zoo.registry import registry

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from zoo.model import Model

MAIN = "main"
OWN = (*FILES, ADAPTER_CONFIG, ADAPTER_WEIGHTS)  # what a folder of a model or an adapter may hold
TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}\b")
FEWEST_WORDS = 8
SECTIONS = {  # what a card's prose must tell, and how the heading over it is recognised
    "intended use": r"intended use|\buses?\b",
    "limits, risks and bias": r"limit|risk|bias",
    "training data and its licence": r"\bdata\b",
    "how and on what hardware it was trained": r"\btrained\b|\btraining\b(?! data)|hardware",
}


@dataclass(frozen=True)
class Parcel:
    """What will be sent.

    Attributes:
        card: of the model.
        folder: where the files lie.
        files: their sizes and hashes, the card's own among them.
        left: names of what else is in the folder and stays here.
        notes: what the card could say better, in words.
    """

    card: Card
    folder: Path
    files: Mapping[str, FileRecord]
    left: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """What became of a parcel.

    Attributes:
        url: the commit's address.
        commit: 40 hexadecimal digits.
        changed: False when the Hub had exactly this already, so that no commit was made.
    """

    url: str
    commit: str
    changed: bool


def publish(
    model_or_folder: "Model | str | Path",
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    verify: bool = True,
) -> str:
    """Send a model folder to the Hub, checked first; the same bytes again make no commit.

    Args:
        model_or_folder: a model, a name, or a path to a model folder.
        repo_id: `"owner/name"`, made unless it exists.
        private: make it for its owner alone.
        revision: the branch, the main one unless given.
        tag: name for the commit; a tag that names other bytes is never moved.
        verify: measure again what the card claims.

    Returns:
        The commit's URL.

    Raises:
        PublishError: the folder is not fit to be published; says everything that is missing.
        HubError: the Hub refuses or is not reached; nothing half is left under the tag.
    """
    check_target(repo_id, revision, tag)
    with packed(model_or_folder, verify=verify) as parcel:
        return send(parcel, repo_id, private=private, revision=revision, tag=tag).url


def check_target(repo_id: str, revision: str | None, tag: str | None) -> None:
    """Raise `InputError` unless this can be a repository, a branch and a tag."""
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if not ADDRESS.fullmatch(f"hf://{repo_id}") or "@" in repo_id:
        raise InputError(f"{repo_id!r} is not a repository on the Hub; it reads owner/name")
    with talking(f"publish to {repo_id}"):
        validate_repo_id(repo_id)
    check_revision(revision)
    check_revision(tag)


@contextmanager
def packed(model_or_folder: "Model | str | Path", *, verify: bool = True) -> Iterator[Parcel]:
    """Check a model folder and list what will be sent; a model is written to a folder first.

    Args:
        model_or_folder: as in `publish`.
        verify: as in `publish`.

    Raises:
        PublishError: as in `publish`.
    """
    if isinstance(model_or_folder, str | Path):
        yield _pack(model_or_folder, verify)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = model_or_folder.save_pretrained(Path(temporary, model_or_folder.name))
        yield _pack(folder, verify)


def send(
    parcel: Parcel,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
) -> Published:
    """Send a parcel in one commit, then tag that commit.

    Args:
        parcel: what `packed` gives.
        repo_id: as in `publish`.
        private: as in `publish`.
        revision: as in `publish`.
        tag: as in `publish`.

    Raises:
        HubError: as in `publish`.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard

    hub = HfApi()
    branch = revision or MAIN
    with talking(f"publish to {repo_id}", repo_id, revision):
        ModelCard((parcel.folder / CARD).read_text(encoding="utf-8")).validate()
        hub.create_repo(repo_id, private=private, exist_ok=True)
        state = hub.model_info(repo_id)
        if private and not state.private:
            raise HubError(f"{repo_id} is public already: make it private there, or give another")
        if tag is not None and (there := _tagged(hub, repo_id, tag)) is not None:
            return _same_again(hub, parcel, repo_id, tag, there)
        if branch != MAIN:
            hub.create_branch(repo_id, branch=branch, exist_ok=True)
            state = hub.model_info(repo_id, revision=branch)
        stale = {file.rfilename for file in state.siblings or ()} & set(OWN) - set(parcel.files)
        commit = hub.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, parcel.folder / name) for name in parcel.files),
                *(CommitOperationDelete(name) for name in sorted(stale)),
            ],
            commit_message=f"{parcel.card.name}, by {LIBRARY}",
            revision=branch,
            parent_commit=state.sha,
        )
        if tag is not None:
            hub.create_tag(repo_id, tag=tag, revision=commit.oid)
    return Published(commit.commit_url, commit.oid, commit.oid != state.sha)


def _pack(ref: str | Path, verify: bool) -> Parcel:
    found = locate(ref)
    card, folder = found.card, found.folder
    if card.hub is not None:
        raise InputError(f"{card.name} lies on the Hub already: hf://{card.hub.repo}")
    if found.foreign:
        raise PublishError(f"{folder} has no card of txzoo: load it and write one first")
    if not card.trained:
        raise PublishError(f"{card.name} has no weights: txzoo train {card.name} makes them")
    check_files(card, folder)
    names = [name for name in (*OWN, *card.files) if (folder / name).exists()]
    files = {name: FileRecord.of(member(folder, name)) for name in dict.fromkeys(names)}
    problems = [*_gaps(card), *_secrets(folder, files)]
    if verify and not problems:
        problems = _untrue(folder)
    if problems:
        raise PublishError(f"{folder} is not fit to be published: {'; '.join(problems)}")
    left = sorted(path.name for path in folder.iterdir() if path.name not in files)
    return Parcel(card, folder, files, tuple(left), tuple(_notes(card)))


def _gaps(card: Card) -> Iterator[str]:
    """What a card lacks that a stranger needs."""
    if card.data.get("library_name") != LIBRARY:
        yield f"{CARD} does not say library_name: {LIBRARY}, by which the Hub finds it"
    if LIBRARY not in (card.data.get("tags") or ()):
        yield f"{CARD} does not have {LIBRARY} among its tags, by which txzoo list --hub finds it"
    if "zoo.load(" not in card.text:
        yield f"{CARD} does not show how to load it, with zoo.load(...)"
    ref = card.base.ref if card.base is not None else ""
    if ref and not ref.startswith("hf://") and ref not in registry().models.names():
        yield f"its base is {ref}, which nobody else has: publish that first, and train from hf://"
    sections = _sections(card.text)
    for what, heading in SECTIONS.items():
        words = [text for title, text in sections if re.search(heading, title, re.IGNORECASE)]
        if len(" ".join(words).split()) < FEWEST_WORDS:
            yield f"{CARD} has no section on {what}"


def _sections(text: str) -> list[tuple[str, str]]:
    """The headings of a Markdown text below its title, and what stands under each."""
    parts = re.split(r"^##+[ \t]+(.+)$", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def _secrets(folder: Path, files: Mapping[str, FileRecord]) -> Iterator[str]:
    """Files of text that hold what looks like a token of the Hub."""
    for name in files:
        if not name.endswith(".safetensors") and TOKEN.search((folder / name).read_bytes()):
            yield f"{name} holds what looks like a token of the Hub: take it out and revoke it"


def _untrue(folder: Path) -> list[str]:
    """The claims of a card that do not hold, or that could not be looked at."""
    from zoo.evaluation import verify

    return [
        f"{check.claim}: the card says {check.claimed}, found {check.found}"
        if check.ok is False
        else f"{check.claim} was not measured again ({check.note}; --no-verify publishes it so)"
        for check in verify(str(folder.absolute())).checks
        if check.ok is not True
    ]


def _notes(card: Card) -> Iterator[str]:
    """What is not asked for, but missed by readers."""
    facts: Mapping[str, Any] = {**card.data, **card.training}
    if "hardware" not in facts:
        yield "the card does not say on what hardware it was trained (txzoo.training.hardware)"
    said = "co2_eq_emissions" in facts or any("energy" in key for key in facts)
    if not said and not re.search(r"\benergy\b|\bk?Wh\b", card.text, re.IGNORECASE):
        yield "the card does not say what energy its training took"
    if not card.scores:
        yield "the card has no scores: txzoo eval measures them"


def _tagged(hub: "HfApi", repo_id: str, tag: str) -> str | None:
    """The commit that a tag names, None when there is no such tag."""
    tags = hub.list_repo_refs(repo_id).tags
    return next((ref.target_commit for ref in tags if ref.name == tag), None)


def _same_again(hub: "HfApi", parcel: Parcel, repo_id: str, tag: str, commit: str) -> Published:
    """What is under a tag already, when it is exactly the parcel."""
    there = {entry.path: entry for entry in hub.list_repo_tree(repo_id, revision=commit)}
    same = set(there) & set(OWN) <= set(parcel.files) <= set(there)
    for name, record in parcel.files.items():
        large = getattr(there.get(name), "lfs", None)
        ours = record.sha256 if large else git_hash(parcel.folder / name)
        theirs = large.sha256 if large else getattr(there.get(name), "blob_id", None)
        same = same and ours == theirs
    if not same:
        raise HubError(
            f"{repo_id} has a tag {tag!r} already, on commit {commit[:12]} with other files; "
            f"a tag is not moved: choose another"
        )
    return Published(f"{hub.endpoint}/{repo_id}/commit/{commit}", commit, changed=False)

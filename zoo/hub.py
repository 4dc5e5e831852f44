"""The model folder on the Hub: addresses, fetching, the cache, and finding what is there.

All of it goes through the Hub's own client, which reads `HF_TOKEN`, `HF_HOME`, `HF_ENDPOINT` and
`HF_HUB_OFFLINE` as it always does. What this module adds: files are held against the hashes that
the Hub names them by, and every failure of the client becomes one line with a way out.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from zoo.errors import FolderError, HashMismatchError, HubError, InputError, ZooError
from zoo.folder import CARD, CONFIG, FILES, UNSAFE_SUFFIXES, WEIGHTS, sha256, unsafe

LIBRARY = "txzoo"
ADDRESS = re.compile(r"hf://([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)(?:@(.+))?")
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/+-]*")
ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MOST_FOUND = 500
LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"


@dataclass(frozen=True)
class HubModel:
    """A model found on the Hub; everything but `repo` is what its author says.

    Attributes:
        repo: `"owner/name"`.
        architecture: name of the architecture, empty when the card does not say.
        task: name of the task it was trained on, likewise.
        license: of its weights, likewise.
        parameters: their number, or None.
        private: whether only its owner sees it.
        gated: whether access has to be asked for.
    """

    repo: str
    architecture: str
    task: str
    license: str
    parameters: int | None
    private: bool
    gated: bool


@dataclass(frozen=True)
class CachedModel:
    """One revision of a model in the cache.

    Attributes:
        repo: `"owner/name"`.
        commit: 40 hexadecimal digits.
        refs: branches and tags that led to it, sorted.
        folder: its snapshot.
        bytes: the size of its files.
    """

    repo: str
    commit: str
    refs: tuple[str, ...]
    folder: Path
    bytes: int

    @property
    def ref(self) -> str:
        """The address that loads exactly this."""
        return f"hf://{self.repo}@{self.commit}"


def parse_address(ref: str, revision: str | None = None) -> tuple[str, str | None]:
    """The repository and the revision that `"hf://owner/name@revision"` names.

    Args:
        ref: the address.
        revision: given besides; must not contradict the address.

    Raises:
        InputError: it is no such address, or names another revision.
    """
    match = ADDRESS.fullmatch(ref)
    if match is None:
        raise InputError(f"{ref!r} is not an address on the Hub; it reads hf://owner/name@revision")
    repo, pinned = match.groups()
    if revision and pinned and revision != pinned:
        raise InputError(f"{ref!r} names one revision and revision={revision!r} another")
    check_revision(chosen := revision or pinned)
    return repo, chosen


def check_revision(revision: str | None) -> None:
    """Raise `InputError` unless a revision can be the name of a branch, a tag or a commit."""
    if revision is not None and not REVISION.fullmatch(revision):
        raise InputError(f"{revision!r} cannot be a branch, a tag or a commit of the Hub")


def home() -> Path:
    """Where txzoo keeps what it can make or fetch anew: `TXZOO_HOME`, or the user's cache."""
    given = os.environ.get("TXZOO_HOME")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base, "txzoo")


def cache_folder() -> Path:
    """Where fetched models are kept: `TXZOO_HOME`, else the Hub's own cache."""
    from huggingface_hub import constants

    return Path(os.environ.get("TXZOO_HOME") or constants.HF_HUB_CACHE)


def fetch(
    repo: str, revision: str | None, *, offline: bool | None = None, names: Iterable[str] = FILES
) -> Path:
    """Files of a repository, from the cache or the network, each held against its hash.

    Args:
        repo: `"owner/name"`.
        revision: branch, tag or commit; the main branch if None.
        offline: never ask the network; unless given, `HF_HUB_OFFLINE` decides.
        names: which files of a model folder.

    Returns:
        The folder in the cache that holds those that exist.

    Raises:
        HubError: it cannot be had; says what is missing and how to get it.
        HashMismatchError: a file is not what the Hub says; it is removed from the cache.
        UnsafeFileError: the repository holds weights as a pickle only.
    """
    check_revision(revision)
    from huggingface_hub import snapshot_download

    wanted = list(names)
    at = f" at revision {revision}" if revision else ""
    with talking(f"get {repo}{at} from the Hub", repo, revision, offline):
        folder = Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=wanted,
                local_files_only=bool(offline),
                cache_dir=cache_folder(),
                tqdm_class=None if WEIGHTS in wanted else _no_progress(),
            )
        )
    check_snapshot(folder, wanted)
    if WEIGHTS in wanted and not (folder / WEIGHTS).exists():
        _explain_missing_weights(repo, folder)
    return folder


def check_snapshot(folder: Path, names: Iterable[str] = FILES) -> None:
    """Hold files in the cache against the hashes that the Hub gave for them.

    The cache names a file's content by the SHA-256 that the Hub states for large files, and by
    git's SHA-1 for others. The client checks lengths only. A file that differs is removed, so that
    the next load fetches it anew.

    Args:
        folder: a snapshot; files in it that are no links (no such cache can be) are passed over.
        names: of its files.

    Raises:
        HashMismatchError: a file has other bytes.
    """
    for name in names:
        pointer = folder / name
        if not pointer.is_symlink() or not pointer.is_file():
            continue
        blob = folder / os.readlink(pointer)  # one step: it may lead on to the cache's shared store
        if not ETAG.fullmatch(blob.name):
            continue
        kind = "sha256" if len(blob.name) == 64 else "git hash"
        digest = sha256(pointer) if kind == "sha256" else git_hash(pointer)
        if digest == blob.name:
            continue
        for path in (blob.resolve(), blob, pointer):
            try:
                path.unlink(missing_ok=True)
            except OSError:  # a cache that only others may write
                break
        raise HashMismatchError(
            f"{pointer} has {kind} {digest[:12]}..., the Hub says {blob.name[:12]}...: the damaged "
            f"file was removed from the cache, load again to get it anew"
        )


def cached() -> list[CachedModel]:
    """The models in the cache that txzoo can read, sorted; other repositories are passed over."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(cache_folder()).repos
    except CacheNotFound:
        return []
    models = [
        CachedModel(
            repo.repo_id,
            revision.commit_hash,
            tuple(sorted(revision.refs)),
            revision.snapshot_path,
            revision.size_on_disk,
        )
        for repo in repos
        if repo.repo_type == "model"
        for revision in repo.revisions
        if _is_readable(revision.snapshot_path)
    ]
    return sorted(models, key=lambda model: (model.repo, model.commit))


def remove(models: Iterable[CachedModel]) -> int:
    """Remove revisions from the cache; returns how many bytes that freed.

    Raises:
        HubError: the cache cannot be changed.
    """
    from huggingface_hub import scan_cache_dir

    with talking(f"remove from the cache {cache_folder()}"):
        plan = scan_cache_dir(cache_folder()).delete_revisions(*(m.commit for m in models))
        plan.execute()
    return int(plan.expected_freed_size)


def search(query: str | None = None, author: str | None = None) -> list[HubModel]:
    """The models on the Hub that carry the tag of this library.

    Args:
        query: part of the name.
        author: user or organisation.

    Raises:
        HubError: the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    with talking("search the Hub"):
        found = HfApi().list_models(filter=LIBRARY, author=author, search=query, cardData=True)
        return [_found(model) for model in islice(found, MOST_FOUND)]


@contextmanager
def talking(
    what: str, repo: str = "", revision: str | None = None, offline: bool | None = None
) -> Iterator[None]:
    """Turn whatever the Hub's client raises into a `HubError` of one line without secrets.

    Args:
        what: is being done, for the error: `"get owner/name from the Hub"`.
        repo: that is talked about.
        revision: of it.
        offline: whether the network must not be asked.
    """
    try:
        yield
    except ZooError:
        raise
    except Exception as error:  # some thirty kinds: its own, its HTTP library's, the system's
        reason = _without_token(_reason(error, repo, revision, offline))
        raise HubError(f"Cannot {what}: {reason}") from error


def _reason(error: BaseException, repo: str, revision: str | None, offline: bool | None) -> str:
    """Why the client failed, and the way out."""
    from huggingface_hub import constants, errors, get_token

    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # "Error while uploading", from what really happened
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _not_cached(error, repo, revision, offline)
    if isinstance(error, errors.GatedRepoError):
        return f"access to {repo} has to be asked for at {constants.ENDPOINT}/{repo}; then {LOG_IN}"
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status == 401 and get_token():
        return f"the token is not valid: {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        way = "this token may not see it" if get_token() else LOG_IN
        return f"there is no model repository {repo}, or it is private: {way}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision or 'main'!r}"
    if status in (401, 403):
        way = "this needs a token with the right to write" if get_token() else LOG_IN
        return f"the Hub forbids it ({status}): {way}"
    if status == 412:
        return f"somebody else changed {repo} meanwhile: look at it, then try again"
    if status >= 500:
        return f"{constants.ENDPOINT} answers {status}: try again later"
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        words = f"{error.strerror} ({error.filename or cache_folder()})"
    return words


def _not_cached(error: Exception, repo: str, revision: str | None, offline: bool | None) -> str:
    """Why something is not to be had from the cache alone."""
    from huggingface_hub import constants

    part = "only a part of it is" if "incomplete" in str(error) else "it is not"
    state = f"{part} in the cache ({cache_folder()})"
    ref = f"hf://{repo}" + (f"@{revision}" if revision else "")
    if offline or constants.HF_HUB_OFFLINE:
        return f"{state} and this is offline; with a network, 'txzoo pull {ref}' gets it"
    cause = error.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", 0)
    problem = f"answers {status}" if status else f"cannot be reached ({type(cause).__name__})"
    return f"{constants.ENDPOINT} {problem} and {state}: try again later"


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return text.replace(token, "***") if token else text


def _no_progress() -> Any:
    """A progress bar that shows nothing, for what takes no time."""
    from huggingface_hub.utils.tqdm import tqdm

    tqdm_class: Any = tqdm

    class Silent(tqdm_class):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})

    return Silent


def _explain_missing_weights(repo: str, folder: Path) -> None:
    """Raise for a repository whose weights are there, but in no form that is read."""
    listing = folder.parent.parent / "trees" / f"{folder.name}.json"  # what the client saw there
    try:
        names = sorted(json.loads(listing.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, LookupError, TypeError):
        return  # an older client keeps none; the folder itself is looked at later
    for name in names:
        if Path(name).suffix in UNSAFE_SUFFIXES:
            raise unsafe(Path(repo, name))
    if f"{WEIGHTS}.index.json" in names:
        raise FolderError(f"{repo} holds weights in several files; save them as one {WEIGHTS}")


def git_hash(path: Path) -> str:
    """The name that git gives to a file's content."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is_readable(snapshot: Path) -> bool:
    """Whether a snapshot looks like a model of ours, or like a checkpoint that a plugin reads."""
    from zoo.registry import registry

    try:
        if "\ntxzoo:" in (snapshot / CARD).read_text(encoding="utf-8", errors="replace"):
            return True
    except OSError:
        pass  # no card: then it is the configuration that tells
    try:
        config = json.loads((snapshot / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    readable = {kind for _, a in registry().architectures.items() for kind in a.model_types}
    return isinstance(config, dict) and config.get("model_type") in readable


def _found(model: Any) -> HubModel:
    """What the Hub lists, as far as it is of the kind that it should be."""
    data = model.card_data.to_dict() if model.card_data else {}
    ours = data.get("txzoo")
    ours = ours if isinstance(ours, dict) else {}
    count = ours.get("parameters")
    return HubModel(
        model.id,
        _plain(ours.get("architecture")),
        _plain(ours.get("task")),
        _plain(data.get("license")),
        count if type(count) is int else None,
        bool(model.private),
        bool(model.gated),
    )


def _plain(value: Any) -> str:
    """A text that is safe to print, else an empty one."""
    return value if isinstance(value, str) and value.isprintable() else ""

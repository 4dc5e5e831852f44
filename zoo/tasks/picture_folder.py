"""A folder of a user's own pictures as a task: FOLDER/label/picture, or in splits.

Letters: B batch, N pictures, S pixels a side.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import InputError
from zoo.hookspecs import Task
from zoo.images import open_picture, squared
from zoo.tasks.classification import Floats
from zoo.tasks.files import fifth_of_each, find_folder, is_unicode, some, warn_of_shared
from zoo.tasks.image_classification import ImageClassification, Pictures
from zoo.tasks.labelled_file import in_order

if TYPE_CHECKING:
    from zoo.model import Model

# what a folder of a split may be called
SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
WHOLE = ""  # the pictures of a folder that is in no splits
MOST_KEPT = 1 << 30  # bytes of pixels in memory; what is more is decoded each time


@dataclass(frozen=True)
class Album:
    """Pictures with their labels, as found below one folder.

    Attributes:
        path: the folder, as it was given.
        name: of the folder.
        sha256: of the names and the contents of all pictures.
        files: where the pictures lie, label by label.
        names: of the files, seen from the folder: `cat/1.png`.
        labels: the label of each.
        digests: the SHA-256 of each one's bytes.
    """

    path: str
    name: str
    sha256: str
    files: list[Path]
    names: list[str]
    labels: list[str]
    digests: list[str]


class Files:
    """Some of an album's pictures, decoded when they are asked for and kept while memory allows.

    Args:
        album: where they are from.
        places: which ones of it.
        labels: of the task.

    Attributes:
        labels: places in the task's labels (N,).
        names: of the files, seen from the album's folder (N,).
        digests: of the files (N,).
        files: where they lie (N,).
    """

    def __init__(self, album: Album, places: Sequence[int], labels: Sequence[str]) -> None:
        place_of = {label: place for place, label in enumerate(labels)}
        self.labels = [place_of[album.labels[place]] for place in places]
        self.names = [album.names[place] for place in places]
        self.digests = [album.digests[place] for place in places]
        self.files = [album.files[place] for place in places]
        self._kept: dict[tuple[int, int], Tensor] = {}

    def __call__(self, places: Sequence[int], size: int) -> Tensor:
        """Pictures as uint8 (B, 3, S, S)."""
        return torch.stack([self._one(place, size) for place in places])

    def _one(self, place: int, size: int) -> Tensor:
        found = self._kept.get((place, size))
        if found is None:
            pixels = np.array(squared(open_picture(self.files[place]), size))
            found = torch.from_numpy(pixels).permute(2, 0, 1)
            if (len(self._kept) + 1) * found.numel() <= MOST_KEPT:
                self._kept[place, size] = found
        return found


class PictureFolder(ImageClassification):
    """Pictures whose labels are the names of their folders.

    Without a "test" a fifth of the pictures of each label is held out for it. Which ones depends on
    the seed and the pictures, not on their names; a picture that lies there twice is on one side.

    Args:
        train: what is learned from; None to measure only.
        test: what is measured on; None for the fifth.
        validation: what settings are chosen by, if there is such.
        labels: of the model that is measured; those of `train` unless given.
        seed: of the drawing.

    Raises:
        InputError: one label only, too few pictures of one, or other labels than `train` has.

    Warns:
        UserWarning: pictures of `test` lie in `train` too.
    """

    def __init__(
        self,
        train: Album | None,
        test: Album | None = None,
        validation: Album | None = None,
        *,
        labels: Sequence[str] = (),
        seed: int = 1,
    ) -> None:
        self.train, self.test, self.seed = train, test, seed
        if train is not None:
            _check_labels(train, alone=test is None)
        self.labels = tuple(labels) or tuple(in_order(train.labels if train else []))
        self.parts: dict[str, Files] = {}
        for split, album in (("train", train), ("validation", validation), ("test", test)):
            if album is not None:
                self._check_known(album)
                self.parts[split] = Files(album, range(len(album.files)), self.labels)
        if train is not None and test is not None:
            warn_of_shared(
                train.digests, test.digests, name=test.name, source=train.name, what="pictures"
            )
        elif train is not None:
            out = fifth_of_each(train.digests, train.labels, seed)
            for split, is_out in (("train", False), ("test", True)):
                places = [n for n, one in enumerate(train.digests) if (one in out) == is_out]
                self.parts[split] = Files(train, places, self.labels)
        self.splits = tuple(self.parts)

    def _check_known(self, album: Album) -> None:
        if unknown := set(album.labels) - set(self.labels):
            whose = "the model" if self.train is None else self.train.name
            raise InputError(
                f"{album.name} has the labels {some(in_order(album.labels))}; {whose} has "
                f"{some(self.labels)}, and so not {some(in_order(unknown))}"
            )

    def pictures(self, split: str) -> Files:
        """The pictures of a split."""
        return self.parts[split]

    def names(self, split: str) -> Sequence[str]:
        """Where the pictures of a split lie, seen from the folder."""
        return self.parts[split].names

    def facts(self) -> dict[str, Any]:
        """What a card says of the data, enough to read them again."""
        assert self.train is not None  # cards are of what was trained
        train, test = self.train, self.test
        found: dict[str, Any] = {"name": train.name, "path": train.path, "sha256": train.sha256}
        found["pictures"] = len(train.files)
        if test is None:
            return {**found, "held_out": len(self.parts["test"].names), "seed": self.seed}
        found |= {} if test.path == train.path else {"test_path": test.path}
        return found | {
            "test_name": test.name,
            "test_sha256": test.sha256,
            "test_pictures": len(test.files),
        }


class ZeroShotFolder(PictureFolder):
    """Pictures that a model of pictures and texts tells apart by the names of their folders.

    Args:
        album: what is measured.
    """

    def __init__(self, album: Album) -> None:
        super().__init__(None, album, labels=in_order(album.labels))

    def probabilities(self, model: "Model", pictures: Pictures, count: int) -> Floats:
        """The probability of each label, in the pipeline's own sentence (N, L).

        Raises:
            InputError: two folders whose names are one label.
        """
        from zoo.pipelines.picture_index import PictureIndex
        from zoo.pipelines.zero_shot import TEMPLATES, ZeroShotImageClassification, named

        assert isinstance(pictures, Files)
        pipeline = ZeroShotImageClassification(model)
        labels = named([spoken(label) for label in self.labels])
        texts = pipeline.classifier(labels, TEMPLATES)
        _, vectors = PictureIndex.of(pipeline).vectors(pictures.files[:count])
        found: Floats = pipeline.probabilities(vectors, texts).double().numpy()
        return found


def spoken(folder: str) -> str:
    """What the folder of a label calls it: folders have `_` where texts have a space."""
    return folder.replace("_", " ")


def open_pictures(data: Mapping[str, Any], seed: int, *, near: Path | None = None) -> PictureFolder:
    """The task that a recipe's [data] describes.

    Args:
        data: `path`, and perhaps `test_path`.
        seed: of the recipe.
        near: a folder where the folders are looked for too.

    Raises:
        DataNotFoundError: a folder is not there.
        InputError: something is wrong in a folder; says what.
    """
    found = read_pictures(data["path"], near=near)
    train = found.get("train", found.get(WHOLE))
    if train is None:
        raise InputError(f"{data['path']} has {', '.join(found)}, and no train to learn from")
    test = found.get("test")
    if data.get("test_path"):
        test = to_measure(read_pictures(data["test_path"], near=near), data["test_path"])
    return PictureFolder(train, test, found.get("validation"), seed=seed)


def to_measure(found: Mapping[str, Album], path: str) -> Album:
    """The part of a folder that models are measured on: "test", or all of one without splits."""
    album = found.get("test", found.get(WHOLE))
    if album is None:
        raise InputError(f"{path} has {', '.join(found)}, and no test to measure on")
    return album


def entry_of(
    task: PictureFolder, license: str = "unknown", *, pipeline: str = "image-classification"
) -> Task:
    """What a plugin would say of the task."""
    album = task.train or task.test
    return Task(
        album.name if album is not None else "pictures",
        pipeline=pipeline,
        target=f"{__name__}:PictureFolder",
        metrics=("accuracy", "macro_f1", "expected_calibration_error"),
        license=license,
    )


def read_pictures(path: str, *, near: Path | None = None) -> dict[str, Album]:
    """The pictures of a folder, by split.

    Args:
        path: a folder with a folder for each label; or one with train, validation (or val) and
            test, some of them, each of which is such a folder.
        near: a folder where it is looked for too.

    Returns:
        The album of each split; of a folder without splits one under `WHOLE`.

    Raises:
        DataNotFoundError: it is not there.
        InputError: it has no folders of labels, or no pictures in one of them.

    Warns:
        UserWarning: some of its files are no pictures; they are left out.
    """
    root = find_folder(path, near)
    inner = _folders(root)
    splits = {SPLITS[f.name]: f for f in inner if f.name in SPLITS and _folders(f)}
    name = root.resolve().name or "pictures"
    if not splits:
        return {WHOLE: _album(path, name, root)}
    if len(splits) < len(inner):
        raise InputError(
            f"{path} has the folders {some([f.name for f in inner])}: give train, validation and "
            "test alone, or folders of labels alone"
        )
    found = {}
    for split, folder in sorted(splits.items()):
        # train is called as the whole is: it is what the data are named by
        called = name if split == "train" else f"{name}/{folder.name}"
        found[split] = _album(path, called, folder)
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _album(path: str, name: str, root: Path) -> Album:
    folders = _folders(root)
    if not folders:
        raise InputError(
            f"{root} has no folders of labels: each label's pictures lie in a folder of its name, "
            f"such as {root / 'cat' / '1.png'}"
        )
    files: list[Path] = []
    names: list[str] = []
    labels: list[str] = []
    digests: list[str] = []
    others: list[str] = []
    empty: list[str] = []
    for folder in folders:
        if not is_unicode(folder.name):
            raise InputError(f"{root}: the name of the folder {folder.name!a} is not valid Unicode")
        before = len(files)
        for file in sorted(folder.rglob("*")):
            inside = file.relative_to(root)
            if not file.is_file() or any(part.startswith(".") for part in inside.parts):
                continue
            stat = file.stat()
            digest = _digest(file, stat.st_mtime_ns, stat.st_size)
            if digest is None:
                others.append(inside.as_posix())
                continue
            files.append(file)
            names.append(inside.as_posix())
            labels.append(folder.name)
            digests.append(digest)
        empty += [folder.name] if len(files) == before else []
    left_out = f"{len(others):,} of its files are no pictures that can be read: {some(others)}"
    if empty:
        raise InputError(
            f"{root} has no picture of {some(empty)}" + (f"; {left_out}" if others else "")
        )
    if others:
        warnings.warn(f"{name}: {left_out}. They are left out", stacklevel=3)
    lines = "\n".join(f"{digest} {one!a}" for digest, one in zip(digests, names, strict=True))
    whole = hashlib.sha256(lines.encode()).hexdigest()
    return Album(path, name, whole, files, names, labels, digests)


@lru_cache(maxsize=1 << 20)
def _digest(file: Path, changed: int, size: int) -> str | None:
    """The SHA-256 of a picture; None of a file that is none, or a damaged one.

    Args:
        file: a file.
        changed: when it was, so that it is read again then.
        size: of it, likewise.
    """
    try:
        open_picture(file)
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except (InputError, OSError):
        return None


def _check_labels(train: Album, *, alone: bool) -> None:
    """Raise `InputError` where there is nothing to tell apart, or too little to learn from.

    Args:
        train: what is learned from.
        alone: whether what is measured on comes from it too.
    """
    names = in_order(train.labels)
    if len(names) == 1:
        raise InputError(
            f"{train.name}: all {len(train.labels)} pictures have the label {names[0]!r}: there is "
            "nothing to tell apart"
        )
    if not alone:
        return
    label_of = dict(zip(reversed(train.digests), reversed(train.labels), strict=True))
    counts = Counter(label_of.values())
    if few := [name for name in names if counts[name] < 2]:
        raise InputError(
            f"{train.name} has too few different pictures of {some(few)}: a label takes two or "
            "more, one to learn from and one to measure on. Or give a folder to test on, "
            "--test-data or test_data="
        )

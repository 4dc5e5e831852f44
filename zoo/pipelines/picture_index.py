"""Vectors of a user's pictures, kept in the cache by what the pictures are, not by their names.

Letters: N pictures, D width of the space.
"""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.errors import InputError, ZooError
from zoo.folder import CONFIG, WEIGHTS, read_weights, sha256
from zoo.hub import cache_folder

if TYPE_CHECKING:
    from zoo.pipelines.zero_shot import ZeroShotImageClassification

FOLDER = "txzoo-pictures"  # in the cache


class PictureIndex:
    """The vectors of one model, in one file.

    Args:
        pipeline: what makes them.
        path: of the file; None to keep none.
    """

    def __init__(self, pipeline: "ZeroShotImageClassification", path: Path | None) -> None:
        self.pipeline, self.path = pipeline, path

    @classmethod
    def of(cls, pipeline: "ZeroShotImageClassification") -> "PictureIndex":
        """The index of a model; its file is named by the weights and how pictures are read.

        A model without the hash of its weights, such as one in training, keeps none.
        """
        hashes = [
            card.files[name].sha256
            for card in pipeline.cards
            for name in (WEIGHTS, CONFIG)
            if name in card.files
        ]
        if not hashes:
            return cls(pipeline, None)
        like = str(next(pipeline.module.parameters()).dtype)
        words = json.dumps([hashes, pipeline.config.to_dict(), like], sort_keys=True)
        name = hashlib.sha256(words.encode()).hexdigest()[:32]
        return cls(pipeline, cache_folder() / FOLDER / f"{name}.safetensors")

    def vectors(self, files: Sequence[Path]) -> tuple[list[Path], Tensor]:
        """The files that are pictures, and their vectors of length 1 (N, D).

        Raises:
            InputError: none of them can be read.

        Warns:
            UserWarning: some cannot.
        """
        known = self._read()
        digests = {path: sha256(path) for path in files}
        new = [path for path in files if digests[path] not in known]
        bad: list[str] = []
        for start in range(0, len(new), self.pipeline.batch):
            some = new[start : start + self.pipeline.batch]
            try:
                found: Any = zip(some, self.pipeline.embed_pictures(some), strict=True)
            except InputError:
                found = self._one_by_one(some, bad)
            known |= {digests[path]: vector for path, vector in found}
        if bad:
            warnings.warn(f"{len(bad)} of {len(files)} left out: {bad[0]}", stacklevel=3)
        if len(new) > len(bad):
            self._write(known)
        kept = [path for path in files if digests[path] in known]
        if not kept:
            raise InputError(f"none of {len(files)} files is a picture: {bad[0]}")
        return kept, torch.stack([known[digests[path]] for path in kept])

    def _one_by_one(self, files: Sequence[Path], bad: list[str]) -> list[tuple[Path, Tensor]]:
        found = []
        for path in files:
            try:
                found.append((path, self.pipeline.embed_pictures([path])[0]))
            except InputError as error:
                bad.append(str(error))
        return found

    def _read(self) -> dict[str, Tensor]:
        if self.path is None or not self.path.is_file():
            return {}
        try:
            return read_weights(self.path)
        except ZooError:  # half a file, of a full disk: it is made again
            return {}

    def _write(self, vectors: dict[str, Tensor]) -> None:
        if self.path is None:
            return
        from safetensors.torch import save_file

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent)
        except OSError as error:  # what was asked is answered without a cache
            return warnings.warn(f"vectors of pictures are not kept: {error}", stacklevel=4)
        os.close(handle)
        save_file({digest: vector.clone() for digest, vector in vectors.items()}, name)
        os.replace(name, self.path)

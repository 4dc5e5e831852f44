"""Captions of photographs, everyday sentences, and both together, in English and German.

Multi30k is task 1 of Elliott et al. 2016, "Multi30K: Multilingual English-German Image
Descriptions", raw text: 29,000 pairs, 1,014 for validation, and the 1,000 of test 2016. The
captions are those of Flickr30k, for research and education only, not for commercial use.

Tatoeba is the English-German file of manythings.org/anki of 2018-04-07 with 169,197 pairs, from
tatoeba.org, CC BY 2.0 FR; it has no splits. Here a hash of the English sentence decides, in lower
case and without punctuation: 1,500 sentences are the test, 1,500 the validation, with all their
translations as references. No English sentence is in two splits, and pairs of the training split
whose German sentence is in another split are left out. Many sentences differ in a name or a word
only: a score here tells of sentences like those in training.
"""

import gzip
import hashlib
import json
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import islice

from zoo.data import from_hub, local_file, require_file
from zoo.errors import DataNotFoundError
from zoo.tasks import Translation

Pair = tuple[str, str]  # English, German
Sources = list[tuple[str, list[str]]]  # a source and its translations
Read = Callable[[str, int, int], Sources]

MULTI30K_FILES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
MULTI30K_SHA256 = {  # of the pairs as JSON, that no score moves when the Hub's files do
    "train": "37b8813311aa93fb0d57ee5dced974c87dc30f1d6f3af6d3cdbdf9c8247ab8bb",
    "test": "0449a15a430ecca65d7b242c20dabb71ac314ef83b49c6095d1827258c3f3385",
}
TATOEBA = "tatoeba-deu-eng/deu-eng.zip"
HELD_OUT = 1500  # English sentences of each of the two splits
EN, DE = 0, 1


class EnglishGerman(Translation):
    """Sources of one or more data sets.

    Attributes:
        source: the language that is translated, `EN` or `DE`.
        target: the other one.
        parts: for each split, the data sets and which of their splits it is made of.
    """

    source, target = EN, DE
    parts: Mapping[str, Sequence[tuple[Read, str]]]

    def pairs(self, split: str) -> tuple[list[str], list[str]]:
        """The sources of a split, and the first translation of each."""
        found = self.sources(split)
        return [source for source, _ in found], [targets[0] for _, targets in found]

    def references(self, split: str) -> list[list[str]]:
        """All translations of each source."""
        return [targets for _, targets in self.sources(split)]

    def sources(self, split: str) -> Sources:
        """The sources of a split with their translations; in "train" one translation each."""
        found: Sources = []
        for read, part in self.parts[split]:
            found += read(part, self.source, self.target)
        return found


def captions(split: str, source: int, target: int) -> Sources:
    """Those of Multi30k."""
    return [(pair[source], [pair[target]]) for pair in multi30k(split)]


def everyday(split: str, source: int, target: int) -> Sources:
    """Those of Tatoeba; outside "train" each source once, with all its translations."""
    if split == "train":
        return [(pair[source], [pair[target]]) for pair in tatoeba()[split]]
    found: dict[str, dict[str, None]] = {}
    for pair in tatoeba()[split]:
        found.setdefault(pair[source], {})[pair[target]] = None
    return [(text, list(targets)) for text, targets in found.items()]


class Multi30kEnDe(EnglishGerman):
    """Captions into German; the test is that of 2016."""

    parts = {split: ((captions, split),) for split in MULTI30K_FILES}


class Multi30kDeEn(Multi30kEnDe):
    """Captions into English."""

    source, target = DE, EN


class TatoebaEnDe(EnglishGerman):
    """Everyday sentences into German."""

    parts = {split: ((everyday, split),) for split in ("train", "validation", "test")}


class TatoebaDeEn(TatoebaEnDe):
    """Everyday sentences into English."""

    source, target = DE, EN


class EnDe(EnglishGerman):
    """Captions and everyday sentences into German, learned from together, measured apart.

    The captions come three times in an epoch, so that both are about as many tokens of it.
    """

    splits = ("train", "validation", "tatoeba_validation", "test_2016", "tatoeba_test")
    test_splits = splits[3:]
    parts = {
        "train": (*3 * ((captions, "train"),), (everyday, "train")),
        "validation": ((captions, "validation"),),
        "tatoeba_validation": ((everyday, "validation"),),
        "test_2016": ((captions, "test"),),
        "tatoeba_test": ((everyday, "test"),),
    }


class CaptionsEnDe(EnDe):
    """The pairs of `EnDe`, the captions eight times in an epoch: most of what is learned from."""

    parts = {**EnDe.parts, "train": (*8 * ((captions, "train"),), (everyday, "train"))}


class DeEn(EnDe):
    """Captions and everyday sentences into English."""

    source, target = DE, EN


@cache
def multi30k(split: str) -> list[Pair]:
    """The captions of a split, from `TXZOO_DATA` or the Hub.

    Raises:
        DataNotFoundError: they cannot be had, or the Hub has others now.
    """
    paths = [
        local_file(f"multi30k/{MULTI30K_FILES[split]}.{language}.gz") for language in ("en", "de")
    ]
    files = [path for path in paths if path is not None]
    if len(files) < 2:
        rows = from_hub("bentrevett/multi30k", split=split, revision="main")
        found = [(row["en"].strip(), row["de"].strip()) for row in rows]
        digest = hashlib.sha256(json.dumps(found).encode()).hexdigest()
        if digest != MULTI30K_SHA256.get(split, digest):
            raise DataNotFoundError(
                f"bentrevett/multi30k ({split}) on the Hub is not what it was: its {len(found):,} "
                f"pairs have sha256 {digest[:12]}..., not {MULTI30K_SHA256[split][:12]}... Set "
                "TXZOO_DATA to a folder with the files of github.com/multi30k/dataset in multi30k/"
            )
        return found
    sides = []
    for path in files:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            sides.append([line.strip() for line in file])
    return list(zip(*sides, strict=True))


@cache
def tatoeba() -> dict[str, list[Pair]]:
    """The pairs of each split, from `TXZOO_DATA`."""
    path = require_file(TATOEBA, "The Tatoeba file deu-eng.zip of manythings.org/anki")
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("deu.txt").decode("utf-8").split("\n")
    # later files of the same place have a third column, whose sentence it is
    cells = [line.split("\t") for line in lines if line.strip()]
    return split_by_english([(row[EN], row[DE]) for row in cells], HELD_OUT)


def split_by_english(pairs: Iterable[Pair], held_out: int) -> dict[str, list[Pair]]:
    """Train, validation and test, so that no sentence of one is in another.

    Which English sentences are held out depends on them alone, not on their order. Of those that
    differ in case or punctuation only, the first one and its translations stand in the test.

    Args:
        pairs: English and German.
        held_out: how many English sentences test and validation have each.
    """
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(plain(pair[EN]), []).append(pair)
    order = sorted(groups, key=lambda text: hashlib.sha256(text.encode()).digest())
    found: dict[str, list[Pair]] = {}
    taken: set[str] = set()  # German sentences
    for split in ("test", "validation"):
        free = (
            text for text in order if taken.isdisjoint(plain(pair[DE]) for pair in groups[text])
        )
        chosen = [groups.pop(text) for text in list(islice(free, held_out))]
        order = [text for text in order if text in groups]
        found[split] = [pair for group in chosen for pair in group if pair[EN] == group[0][EN]]
        taken |= {plain(pair[DE]) for group in chosen for pair in group}
    rest = (pair for group in groups.values() for pair in group)
    return {"train": [pair for pair in rest if plain(pair[DE]) not in taken], **found}


def plain(text: str) -> str:
    """A sentence in lower case, its words alone."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))

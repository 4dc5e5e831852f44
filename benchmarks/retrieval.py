"""How often `zoo.retrieval` finds the place a question came from: by words, by meaning, by both.

    TXZOO_DATA=... python benchmarks/retrieval.py emotion-encoder ./all-MiniLM-L6-v2

The documents are the articles of a split of WikiText-2, a file each, without headings. Two kinds of
questions, drawn by the seed:

- sentences: from a paragraph of three sentences or more, one of 8 to 40 words is taken out and
  asked for (the inverse cloze task, Lee et al. 2019, arXiv:1906.00300). Right is a passage that
  has a line in common with the paragraph.
- headings: title of the article and heading of a section, neither of which stands in the files as
  such. Right is a passage that has a line in common with the section.

Recall at k is the share of questions for which a right passage is among the first k, with its
standard error (binomial). Words are counted (BM25) in passages of at most 128 words and signs;
each encoder cuts its own, in which its cosines alone and both together search.
"""

import argparse
import math
import platform
import random
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from zoo.numbers import with_error
from zoo.registry import registry, resolve
from zoo.retrieval import Library, Passage

RANKS = (1, 5, 10)
HEADING = re.compile(r"^(=(?: =)*) (.+?) (?:= )*=$")
SENTENCE = re.compile(r"(?<= [.!?]) ")
Question = tuple[str, str, range]  # what is asked, the file, the right lines


def write_articles(text: str, folder: Path, count: int, seed: int) -> dict[str, list[Question]]:
    """Write the articles of a text, each in a file; returns the questions of each kind."""
    chance = random.Random(seed)
    articles: list[list[tuple[str, str]]] = []  # of each its paragraphs with their headings
    title = section = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        heading = HEADING.match(line)
        if heading is None:
            articles[-1].append((f"{title} {section}".strip(), line))
        elif heading[1] == "=":
            articles.append([])
            title, section = heading[2], ""
        else:
            section = heading[2]
    places = [
        (number, place)
        for number, paragraphs in enumerate(articles)
        for place, (_, paragraph) in enumerate(paragraphs)
        if len(SENTENCE.split(paragraph)) >= 3 and _askable(paragraph)
    ]
    chosen = chance.sample(places, min(count, len(places)))
    sentences: list[Question] = []
    for number, place in sorted(chosen):
        heading_of, paragraph = articles[number][place]
        parts = SENTENCE.split(paragraph)
        asked = chance.choice(_askable(paragraph))
        parts.remove(asked)
        articles[number][place] = heading_of, " ".join(parts)
        line = 1 + 2 * place
        sentences.append((asked, f"{number:03}.txt", range(line, line + 1)))
    headings: list[Question] = []
    for number, paragraphs in enumerate(articles):
        file = f"{number:03}.txt"
        lines = "\n\n".join(paragraph for _, paragraph in paragraphs)
        (folder / file).write_text(lines + "\n", encoding="utf-8")
        for name in dict.fromkeys(name for name, _ in paragraphs):
            its = [place for place, (other, _) in enumerate(paragraphs) if other == name]
            if its[-1] - its[0] == len(its) - 1 and its[0] > 0:  # not the article's beginning
                headings.append((name, file, range(1 + 2 * its[0], 2 + 2 * its[-1])))
    headings = sorted(chance.sample(headings, min(count, len(headings))))
    return {"sentences": sentences, "headings": headings}


def _askable(paragraph: str) -> list[str]:
    return [one for one in SENTENCE.split(paragraph) if 8 <= len(one.split()) <= 40]


def first_right(found: Sequence[Passage], file: str, lines: range) -> float:
    """The rank of the first right passage, from 1 on."""
    for rank, passage in enumerate(found, 1):
        if passage.path == file and passage.first < lines.stop and passage.last >= lines.start:
            return rank
    return math.inf


def row(
    name: str, questions: Sequence[Question], search: Callable[[list[str]], list[list[Passage]]]
) -> None:
    """Print the recalls of one way of searching."""
    began = time.perf_counter()
    found = search([asked for asked, _, _ in questions])
    seconds = (time.perf_counter() - began) / len(questions)
    ranks = [
        first_right(passages, file, lines)
        for passages, (_, file, lines) in zip(found, questions, strict=True)
    ]
    cells = []
    for k in RANKS:
        share = sum(rank <= k for rank in ranks) / len(ranks)
        cells.append(with_error(share, math.sqrt(share * (1 - share) / len(ranks))))
    print(f"| {name} | {' | '.join(cells)} | {seconds * 1e3:.1f} |", flush=True)


def by_meaning(library: Library, questions: list[str]) -> list[list[Passage]]:
    """By cosines alone."""
    _, places = library.index.search(library.vectors(questions), max(RANKS))
    return [[library.passages[place] for place in row] for row in places.tolist()]


def by_search(library: Library, questions: list[str]) -> list[list[Passage]]:
    """As a person gets them: by words, and with an encoder by both."""
    found = [library.search(question, max(RANKS)) for question in questions]
    return [[hit.passage for hit in hits] for hits in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="*", help="what zoo.load takes")
    parser.add_argument("--split", default="test")
    parser.add_argument("--questions", type=int, default=500, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    text = resolve(registry().tasks.get("wikitext-2").target)().text(options.split)
    print(f"{platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        asked = write_articles(text, folder, options.questions, options.seed)
        for encoder in [None, *options.encoders]:
            began = time.perf_counter()
            library = Library.of(folder, encoder)
            name = library.encoder.name if library.encoder is not None else "words"
            seconds = time.perf_counter() - began
            counts = f"{len(library.passages):,} passages of {len(library.documents)} articles"
            print(f"\n{name}: {counts}, read in {seconds:.0f} s\n")
            for kind, questions in asked.items():
                titles = " | ".join(f"recall at {k}" for k in RANKS)
                print(f"| {len(questions)} {kind} | {titles} | ms a question |")
                print("|---|" + "---:|" * (len(RANKS) + 1))
                if encoder is not None:
                    row(f"{name} alone", questions, partial(by_meaning, library))
                row(
                    name if encoder is None else f"{name} and words",
                    questions,
                    partial(by_search, library),
                )


if __name__ == "__main__":
    main()

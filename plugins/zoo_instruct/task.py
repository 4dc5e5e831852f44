"""Instructions and preferences in English, and general text to begin with.

Sources: S. Raschka's 1,100 instructions of "Build a Large Language Model (From Scratch)" (2024,
chapter 7), and his pairs of a wanted and an unwanted answer to each; Wang et al. 2023,
"Self-Instruct", arXiv:2212.10560: 175 seed tasks and 252 of users; GPTeacher's role plays; prompts
of T0 (Sanh et al. 2022, arXiv:2110.08207).

Held out is what the sha256 of a question falls on, so that a question is on one side in all sets
and in both tasks: of a hundred classes 0 to 19 are "test", 20 to 24 "validation". Of T0, many of
whose prompts ask about one passage, nothing is held out. What has one right answer is also
exercised, by rule (`zoo_instruct.drills`).
"""

import hashlib
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from zoo.conversation import MARKS, Messages, Template
from zoo.data import local_file, require_file
from zoo.tasks import InstructionTuning, LanguageModeling, TokenBatches
from zoo.tasks.conversation_file import END, conversation_of, question_of, rows_of
from zoo.tasks.preferences import Preference, PreferenceTuning
from zoo_instruct.drills import drills

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FOLDER = "instruct"
RASBT, PAIRS = "rasbt_instruction-data.json", "rasbt_instruction-data-with-preference.json"
SEEDS, USERS = "self_instruct_seed_tasks.jsonl", "self_instruct_user_oriented_252.jsonl"
ROLES, T0 = "gpteacher_roleplay.json", "t0_train_50k.jsonl.gz"
TEST, VALIDATION = 20, 25  # classes below these, of 100
REVIEWS, LINES = 20_000, 2000  # of IMDb; read at once
OFTEN = 2  # an epoch reads what is not T0's
DRILLS = 60_000  # exercises that an epoch reads
MOST_T0 = 1200  # characters of a prompt of T0 with its answer: most others are whole articles
# what has one right answer, by how an instruction of Raschka's begins or what it asks for
CLOSED = re.compile(
    r"^(?!generate|create).*(\b(mis)?spell(ed|ing)\b|\b(opposite|antonym) (of|for|to)\b"
    r"|\b(passive|active)\b|\b(indirect|reported) speech\b"
    r"|\b(simple|past|present|future)( perfect| continuous)* tense\b"
    r"|\binto an? (question|command|imperative|negative|interrogative)\b)"
    r"|^convert|^(edit|correct|fix)\b.*\b(sentence|grammar|text|error)"
    r"|^what is the (simple )?(past|plural|square|cube|comparative|superlative|abbreviation"
    r"|contraction|chemical|formula|symbol|capital|atomic|boiling|melting|freezing)\b",
    re.IGNORECASE,
)


class Instruct(InstructionTuning):
    """Raschka's, Self-Instruct's and GPTeacher's instructions; to be learned from also T0's."""

    def conversations(self, split: str) -> Sequence[Messages]:
        """Those of "train", "validation" or "test"."""
        told = [one for name in (RASBT, SEEDS, USERS, ROLES) for one in read(name)]
        found = [one for one in told if split_of(one) == split]
        return [*found, *read(T0)] if split == "train" else found

    def learned(self) -> Sequence[Messages]:
        """The training split, what is not T0's `OFTEN` times, and `DRILLS` exercises.

        T0 has fifteen times as many as the others.
        """
        told = list(self.conversations("train"))
        others = told[: len(told) - len(read(T0))]
        held = [one for split in ("validation", "test") for one in self.closed(split)]
        asked = [question_of(messages) for messages in held]
        exercises = drills(DRILLS, asked, wikipedia("train"))
        return [*told, *(OFTEN - 1) * others, *exercises]

    def closed(self, split: str) -> Sequence[Messages]:
        """Of Raschka's what `CLOSED` finds: spelling, units, opposites, grammar, constants."""
        return [one for one in read(RASBT) if split_of(one) == split and is_closed(one)]


class InstructSmall(Instruct):
    """Raschka's instructions alone."""

    def learned(self) -> Sequence[Messages]:
        """Each once an epoch."""
        return self.conversations("train")

    def conversations(self, split: str) -> Sequence[Messages]:
        """Those of "train", "validation" or "test"."""
        return [one for one in read(RASBT) if split_of(one) == split]


class Preferences(PreferenceTuning):
    """Raschka's pairs: one answer polite, the other rude, to the same instruction."""

    def preferences(self, split: str) -> Sequence[Preference]:
        """Those of "train", "validation" or "test"."""
        return [one for one in read_pairs() if split_of(one.asked) == split]


class InstructText(LanguageModeling):
    """General text that a small decoder begins with: Wikipedia, film reviews, instructions.

    WikiText-2, 20,000 of IMDb's reviews without label, and what is said in the instructions to be
    learned from; each review and each conversation ends with `<|endoftext|>`. Measured is on
    WikiText-2.
    """

    def build_tokenizer(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """Trained on all of the text, with the tokens that templates want later."""
        tokenizer = super().build_tokenizer(settings)
        tokenizer.add_special_tokens([END, *MARKS["chatml"]])
        self.template = Template.called("chatml")  # in which it is asked before it is tuned
        return tokenizer

    def tokenizer_text(self) -> str:
        """The training split, without what ends a text."""
        return self.text("train").replace(END, "")

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> TokenBatches:
        """As of any text, but read in pieces of whole lines: at once it takes nine gigabytes."""
        lines = (self.start + self.text("train")).split("\n")
        pieces = ["\n".join(lines[at : at + LINES]) for at in range(0, len(lines), LINES)]
        ended = [*(f"{piece}\n" for piece in pieces[:-1]), pieces[-1]]
        ids = torch.cat([torch.tensor(tokenizer.encode(piece).ids) for piece in ended])
        rows = max(1, batch_tokens // length)
        return TokenBatches(ids, length=length, rows=rows, seed=seed)

    def text(self, split: str) -> str:
        """The text of "train", "validation" or "test"."""
        wiki = wikipedia("valid" if split == "validation" else split)
        return wiki if split != "train" else "".join([wiki, reviews(), said()])


def is_closed(messages: Messages) -> bool:
    """Whether an instruction has one right answer."""
    return CLOSED.search(question_of(messages).partition("\n")[0]) is not None


def split_of(messages: Messages) -> str:
    """Where a conversation belongs, by its question alone."""
    place = int.from_bytes(hashlib.sha256(question_of(messages).encode()).digest()[:8]) % 100
    return "test" if place < TEST else "validation" if place < VALIDATION else "train"


@cache
def read(name: str) -> list[Messages]:
    """The conversations of a file of `instruct/` in `TXZOO_DATA`, each question once."""
    found: dict[str, Messages] = {}
    for row in _rows(name):
        for one in _instances(row):
            if name == T0 and sum(len(value) for value in one.values()) > MOST_T0:
                continue
            if all(one.get(key, "x").strip() for key in ("output", "response", "completion")):
                messages = conversation_of(one)
                found.setdefault(question_of(messages), messages)
    return list(found.values())


@cache
def read_pairs() -> list[Preference]:
    """Raschka's pairs, each question once, without those whose two answers are one."""
    found: dict[str, Preference] = {}
    for row in _rows(PAIRS):
        messages = conversation_of({**row, "output": row["chosen"]})
        wanted, other = row["chosen"].strip(), row["rejected"].strip()
        if wanted != other:
            found.setdefault(question_of(messages), Preference(messages[:-1], wanted, other))
    return list(found.values())


def _rows(name: str) -> list[Any]:
    file = require_file(f"{FOLDER}/{name}", "The instruction data")
    return [row for _, row in rows_of(file, file.read_bytes())]


def _instances(row: Any) -> Iterable[dict[str, str]]:
    """A row as it is; of Self-Instruct one for each of its instances."""
    if "instances" not in row:
        keys = ("instruction", "input", "output", "response", "prompt", "completion")
        return [{key: row[key].removesuffix(END) for key in keys if key in row}]
    return [{"instruction": row["instruction"], **instance} for instance in row["instances"]]


@cache
def wikipedia(name: str) -> str:
    """WikiText-2, each line's words with one space between them, and a line end."""
    file = require_file(f"wikitext-2/{name}.txt", "WikiText-2")
    lines = file.read_text(encoding="utf-8").split("\n")[:-1]
    return "".join(" ".join(line.split()) + "\n" for line in lines)


@cache
def reviews() -> str:
    """The first of IMDb's reviews without label, where they are at hand, a line each."""
    file = local_file("imdb/unsup.jsonl.gz")
    if file is None:
        return ""
    texts = [str(row["text"]) for _, row in rows_of(file, file.read_bytes())[:REVIEWS]]
    return "".join(" ".join(text.replace("<br />", " ").split()) + f"{END}\n" for text in texts)


@cache
def said() -> str:
    """What is said in the training split of the instructions, in an order drawn once."""
    told = list(Instruct().conversations("train"))
    random.Random(0).shuffle(told)
    return "".join("\n".join(one["content"] for one in messages) + f"{END}\n" for messages in told)

"""What a kept key/value cache saves in a conversation: tokens read, and time to the first piece.

    python benchmarks/chat.py instruct-lm --rounds 7

The same conversation is held with the cache that `zoo.Chat` keeps from turn to turn and with a new
one for each message, the two taking turns. Printed: a Markdown table, medians over the rounds.
"""

import argparse
import statistics
import time

import torch

import zoo
from zoo.generation import Kept
from zoo.training.report import hardware

MESSAGES = (
    "Convert 5 kilometers to meters.",
    "What is the opposite of hot?",
    "Name a colour.",
    "Convert 3 liters to milliliters.",
    "What is the opposite of big?",
    "Name an animal.",
    "Convert 2 hours to minutes.",
    "What is the opposite of old?",
    "Name a city.",
    "Convert 4 meters to centimeters.",
)
WAYS = ("kept", "anew")


def turn(talk: zoo.Chat, message: str) -> tuple[float, int, str]:
    """Seconds to the first piece of an answer, tokens read for it, and the answer."""
    before = talk.read
    began = time.perf_counter()
    pieces = talk.stream(message)
    first = next(pieces, "")
    seconds = time.perf_counter() - began
    answer = first + "".join(pieces)
    if talk.left_out:
        raise SystemExit("the conversation has outgrown the window: give a smaller --new")
    return seconds, talk.read - before, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--new", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = zoo.load(options.model)
    seconds: dict[str, list[list[float]]] = {way: [[] for _ in MESSAGES] for way in WAYS}
    read: dict[str, list[int]] = {}
    for _ in range(options.rounds):
        talks = {way: zoo.Chat(model, max_new_tokens=options.new) for way in WAYS}
        read = {way: [] for way in WAYS}
        for number, message in enumerate(MESSAGES):
            answers = {}
            for way, talk in talks.items():
                if way == "anew":
                    talk.kept = Kept()
                took, tokens, answers[way] = turn(talk, message)
                seconds[way][number].append(took)
                read[way].append(tokens)
            assert answers["kept"] == answers["anew"], "the two write something else"
    print("| turn | tokens read, kept | anew | first piece, kept (ms) | anew | ratio |")
    print("|---|---|---|---|---|---|")
    for number in range(len(MESSAGES)):
        kept, anew = (statistics.median(seconds[way][number]) for way in WAYS)
        tokens = " | ".join(str(read[way][number]) for way in WAYS)
        times = f"{1000 * kept:.1f} | {1000 * anew:.1f} | {anew / kept:.1f}"
        print(f"| {number + 1} | {tokens} | {times} |")
    print(f"\ntokens read in all: {sum(read['kept'])} kept, {sum(read['anew'])} anew")
    print(f"{hardware(model.device)}, medians of {options.rounds}")


if __name__ == "__main__":
    main()

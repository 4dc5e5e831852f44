"""Ten prompts, and what models answer to each, unedited: before and after they were tuned.

    python benchmarks/ten_prompts.py instruct-lm
    python benchmarks/ten_prompts.py runs/instruct-base-lm runs/instruct-sft-lm instruct-lm

The prompts were chosen before any model had answered them. Printed: Markdown.
"""

import argparse

import zoo

PROMPTS = (
    "What is the opposite of hot?",
    "Correct the spelling: 'recieve'.",
    "Convert 5 kilometers to meters.",
    "Rewrite the sentence in passive voice: The cat chased the mouse.",
    "Name the capital of France.",
    "What is the boiling point of water in Celsius?",
    "Translate 'good morning' into French.",
    "Write a short poem about the sea.",
    "Spell the word 'freind' correctly.",
    "Classify the word: run",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names or folders")
    models = [zoo.load(ref) for ref in parser.parse_args().models]
    for prompt in PROMPTS:
        print(f"## {prompt}\n")
        for model in models:
            answer = zoo.Chat(model).say(prompt)
            print(f"`{model.name}`:\n\n````text\n{answer}\n````\n", flush=True)


if __name__ == "__main__":
    main()

"""An answer that a decoder writes from passages, with the places they stand at."""

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import InputError
from zoo.retrieval.documents import Passage

if TYPE_CHECKING:
    from zoo.conversation import Template
    from zoo.model import Model

DECODER = "instruct-lm"
NEW_TOKENS = 48
STOP = ("\n\n", "\nQuestion:", "Question :")  # where a decoder begins to ask itself
PROMPT = """\
{passages}

Question: {question}
Answer:"""
MESSAGE = """\
Answer the question from the passages.

{passages}

{question}"""


@dataclass(frozen=True)
class Answer:
    """What a decoder wrote.

    Attributes:
        text: the answer.
        passages: those it was written from, best first; the text may refer to them as [1], [2], ...
        prompt: all that the decoder read.
        left_out: how many further passages did not fit into what it reads.
    """

    text: str
    passages: list[Passage]
    prompt: str
    left_out: int

    @property
    def citations(self) -> list[str]:
        """A line for each passage: `"[1] guide.md:12-20"`."""
        return [f"[{number}] {one.place}" for number, one in enumerate(self.passages, 1)]


def answer(
    question: str,
    passages: Sequence[Passage],
    model: "Model | str | Path" = DECODER,
    **options: Any,
) -> Answer:
    """Let a decoder answer a question from passages.

    It reads as many of them, best first, as fit beside the question into the length it was trained
    on; when not even one does, the end of the first is left out. A model with a chat template is
    asked in a message.

    Args:
        question: what is asked.
        passages: best first.
        model: a text-generation model, or what `zoo.load` takes.
        **options: of `zoo.generation.GenerationOptions`; without any the answer is greedy, at most
            `NEW_TOKENS` long, and repeats itself little.

    Raises:
        InputError: the model writes no text, there are no passages, or the question alone is too
            long for it.
    """
    from zoo.loading import load
    from zoo.model import Model

    decoder = model if isinstance(model, Model) else load(model)
    if decoder.pipeline != "text-generation":
        raise InputError(
            f"{decoder.name} is a {decoder.pipeline} model: an answer takes a text-generation one"
        )
    options = {
        "max_new_tokens": NEW_TOKENS,
        "repetition_penalty": 1.3,
        "stop": STOP,
        **options,
    }
    if not passages:
        raise InputError(f"No passage was found for {question!r}: ask in other words")
    template = decoder.template
    room = decoder.config.max_seq_len - (options["max_new_tokens"] or 0)
    given = _fitting(question, passages, decoder, template, room)
    message = _message(question, given, template)
    prompt = _prompt(message, template)
    if template is None:
        text = decoder(prompt, return_full_text=False, **options)
    else:
        from zoo.chat import Chat

        del options["stop"]  # the template says where an answer ends
        text = Chat(decoder, **options).say(message)
    return Answer(text.strip(), given, prompt, len(passages) - len(given))


def _message(question: str, passages: Sequence[Passage], template: "Template | None") -> str:
    """Passages and question."""
    shown = "\n".join(f"[{number}] {one.text}" for number, one in enumerate(passages, 1))
    form = PROMPT if template is None else MESSAGE
    return form.format(passages=shown, question=" ".join(question.split()))


def _prompt(message: str, template: "Template | None") -> str:
    """All that the decoder reads."""
    if template is None:
        return message
    return template.render([{"role": "user", "content": message}], add_generation_prompt=True)


def _fitting(
    question: str,
    passages: Sequence[Passage],
    decoder: "Model",
    template: "Template | None",
    room: int,
) -> list[Passage]:
    """The first passages that fit, or the beginning of the first.

    Raises:
        InputError: there is no room for any.
    """
    from zoo.pipelines import tokenizer_of

    encode = tokenizer_of(decoder).encode

    def fits(given: Sequence[Passage]) -> bool:
        return len(encode(_prompt(_message(question, given, template), template)).ids) <= room

    for count in range(len(passages), 0, -1):
        if fits(passages[:count]):
            return list(passages[:count])
    words = passages[0].text.split() if passages else []

    def beginning(count: int) -> list[Passage]:
        return [dataclasses.replace(passages[0], text=" ".join(words[:count]))]

    count = bisect_right(range(1, len(words)), False, key=lambda n: not fits(beginning(n)))
    if count == 0:
        raise InputError(
            f"{decoder.name} reads {decoder.config.max_seq_len} tokens, too few for this question, "
            "a passage and an answer: ask in fewer words, or take a model that reads more"
        )
    return beginning(count)

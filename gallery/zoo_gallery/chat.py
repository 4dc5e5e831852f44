"""The page that talks: a conversation with a decoder, which is remembered, trimmed and saved."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import Any

import gradio as gr

from zoo import Card
from zoo.chat import Chat, checked
from zoo.conversation import as_json, check, read, read_conversation
from zoo.errors import InputError
from zoo.generation import DEFAULT_NEW_TOKENS, GenerationOptions
from zoo_gallery.markup import heading, paragraph
from zoo_gallery.snippets import reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, paced, telling

TOKENS = 80  # of an answer, at first
# of the sliders
RANGES = {"temperature": (0, 2), "top_p": (0.05, 1), "top_k": (0, 200)}
RANGES |= {"repetition_penalty": (1, 2)}
# what is scrolled can be reached with the keyboard
REACHED = "() => document.querySelector('[role=log]')?.setAttribute('tabindex', '0')"
# a file made in the browser: nothing is written where the gallery runs
FETCHED = """(text) => {
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([text], { type: 'application/json' }));
    link.download = 'conversation.json';
    link.click();
    URL.revokeObjectURL(link.href);
}"""
Shown = list[dict[str, str]]  # messages as gr.Chatbot takes them


@dataclass
class Session:
    """One visitor's conversation.

    Attributes:
        messages: what was said, without the system message.
        key: what its readings are found by; Gradio copies the first session, which has none.
        retries: how often the last message was answered again.
    """

    messages: Shown = field(default_factory=list)
    key: str = ""
    retries: int = 0

    def chat(self, gallery: Gallery, name: str, system: str, options: Mapping[str, Any]) -> Chat:
        """The conversation as the model goes on with it.

        Raises:
            ZooError: the model cannot be loaded, or the system message is too long for it.
        """
        check_length(system, gallery.limits.prompt_characters)
        chat = Chat(gallery.models.get(name), system=system.strip(), **options)
        self.key = self.key or uuid.uuid4().hex
        chat.kept, chat.retries = gallery.readings.of(self.key, name), self.retries
        chat.messages = [*chat.messages, *self.messages]
        return chat

    def follow(self, chat: Chat, pieces: Iterator[str], asked: str) -> Iterator[Shown]:
        """The conversation again and again while an answer is written; kept where it ends."""
        before = self.messages
        said = {"role": "user", "content": asked}
        try:
            with closing(pieces):  # type: ignore[type-var]
                for answer in paced(accumulate(pieces)):
                    yield [*before, said, {"role": "assistant", "content": answer.strip()}]
        finally:
            self.messages = [one for one in chat.messages if one["role"] != "system"]
            self.retries = chat.retries


def talkers(gallery: Gallery) -> tuple[list[Card], list[Card]]:
    """The decoders that have learned to answer, and those that go on from any text."""
    cards = [card for card in gallery.cards if card.pipeline == "text-generation" and card.trained]
    tuned = [card for card in cards if read(card.folder) is not None]
    return tuned, [card for card in cards if card not in tuned]


def page(gallery: Gallery) -> None:
    """Build the page in the current Blocks."""
    tuned, others = talkers(gallery)
    names = [reference(card) for card in (*tuned, *others)]
    said = (
        "What a model answers is what is likely, not what is true, and small ones know little. "
        "A conversation stays in memory, and is gone when the page is loaded again."
    )
    if not tuned:
        said = (
            "None of the installed models has learned to answer: they go on from what is said as "
            f"from any text. {said}"
        )
    gr.HTML(heading("Chat", "Talk to a model that writes.") + paragraph(said))
    if not names:
        return
    limits = gallery.limits
    session = gr.State(Session())
    with gr.Row():
        with gr.Column(scale=3, min_width=280):
            shown = gr.Chatbot(
                label="Conversation", height=420, render_markdown=False, buttons=[], layout="panel"
            )
            text = gr.Textbox(label="Message", lines=1, max_length=limits.prompt_characters)
            with gr.Row():
                send = gr.Button("Send", variant="primary", min_width=80)
                stop = gr.Button("Stop", variant="stop", min_width=80)
                retry = gr.Button("Retry", min_width=80)
                undo = gr.Button("Undo", min_width=80)
                clear = gr.Button("Clear", min_width=80)
        with gr.Column(scale=2, min_width=280):
            name = gr.Dropdown(names, value=names[0], label="Model")
            system = gr.Textbox(label="System message", lines=2)
            temperature = gr.Slider(
                *RANGES["temperature"],
                0.7,
                step=0.05,
                label="Temperature",
                info="0 takes the likeliest token",
            )
            top_p = gr.Slider(
                *RANGES["top_p"],
                0.9,
                step=0.05,
                label="Top-p",
                info="Draw among the best that reach p",
            )
            top_k = gr.Slider(
                *RANGES["top_k"],
                0,
                step=1,
                label="Top-k",
                info="Draw among the k best; 0 for all",
            )
            penalty = gr.Slider(
                *RANGES["repetition_penalty"],
                1,
                step=0.05,
                label="Repetition penalty",
                info="Above 1, repeat less",
            )
            most = limits.new_tokens
            tokens = gr.Slider(
                1, most, min(TOKENS, most), step=1, label="Length", info="Tokens at most"
            )
            seed = gr.Number(1, label="Seed", precision=0, info="Empty for any")
            with gr.Row():
                save = gr.Button("Save", min_width=80)
                load = gr.UploadButton("Load", file_types=[".json"], min_width=80)
            file = gr.Textbox(label="File", visible="hidden")
    sliders = [temperature, top_p, top_k, penalty, tokens, seed]
    given = [session, name, system, *sliders]

    def say(text: str, session: Session, *values: Any) -> Iterator[tuple[Shown, str]]:
        with telling():
            check_length(text, limits.prompt_characters)
            chat = session.chat(gallery, *settings(*values))
            pieces = chat.stream(text)
            tell_left_out(chat)
            for messages in session.follow(chat, pieces, text):
                yield visible(messages), ""

    def again(session: Session, *values: Any) -> Iterator[Shown]:
        with telling():
            chat = session.chat(gallery, *settings(*values))
            asked = session.messages[-2]["content"] if session.messages else ""
            pieces = chat.retry()
            tell_left_out(chat)
            session.messages = session.messages[:-2]
            for messages in session.follow(chat, pieces, asked):
                yield visible(messages)

    def take_back(session: Session) -> tuple[Shown, str]:
        with telling():
            if not session.messages:
                raise InputError("Nothing was said yet")
            asked = session.messages[-2]["content"]
            session.messages = session.messages[:-2]
            return visible(session.messages), asked

    def take_up(file: str, session: Session) -> tuple[Any, ...]:
        with telling():
            system, options = opened(file, session)
            kept = [gr.skip()] * len(sliders) if options is None else positions(options, most)
            return visible(session.messages), system, *kept

    def keep(session: Session, *values: Any) -> str:
        with telling():
            return saved(session, *settings(*values))

    def forget(session: Session) -> Shown:
        session.messages = []
        return session.messages

    options: Any = {"concurrency_id": COMPUTE, "api_visibility": "private"}
    asked = gr.on(
        [send.click, text.submit],
        say,
        [text, *given],
        [shown, text],
        trigger_mode="once",
        **options,
    )
    answered = retry.click(again, given, shown, trigger_mode="once", **options)
    stop.click(None, cancels=[asked, answered], api_visibility="private")
    undo.click(take_back, session, [shown, text], api_visibility="private")
    gr.on([clear.click, shown.clear], forget, session, shown, api_visibility="private")
    shown.change(None, None, None, js=REACHED, api_visibility="private")
    made = save.click(keep, given, file, api_visibility="private")
    made.success(None, file, None, js=FETCHED, api_visibility="private")
    load.upload(take_up, [load, session], [shown, system, *sliders], api_visibility="private")
    gr.api(answerer(gallery, names[0]), api_name="chat", concurrency_id=COMPUTE)


def visible(messages: Shown) -> Shown:
    """Messages as the page shows them: it takes them as HTML."""
    return [{**one, "content": escape(one["content"], quote=False)} for one in messages]


def tell_left_out(chat: Chat) -> None:
    """Say that a conversation has outgrown the window."""
    if chat.left_out:
        gr.Info(f"{chat.left_out} older messages are out of the window: the model reads the rest")


def settings(
    name: str,
    system: str,
    temperature: float,
    top_p: float,
    top_k: float,
    penalty: float,
    tokens: float,
    seed: float | None,
) -> tuple[str, str, dict[str, Any]]:
    """What stands beside the conversation, as `Session.chat` takes it."""
    options: dict[str, Any] = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": int(top_k),
        "repetition_penalty": penalty,
        "max_new_tokens": int(tokens),
    }
    return name, system, {**options, "seed": None if seed is None else int(seed)}


def positions(options: Mapping[str, Any], most: int) -> list[Any]:
    """Where the sliders stand for settings, as near as they reach; `most` tokens at most."""
    given = GenerationOptions.from_dict(checked(options))
    usual = 1.0 if given.temperature is None else given.temperature
    found = {
        "temperature": usual if given.samples else 0.0,
        "top_p": given.top_p or 1.0,
        "top_k": given.top_k or 0,
        "repetition_penalty": given.repetition_penalty,
    }
    near = [min(max(value, RANGES[name][0]), RANGES[name][1]) for name, value in found.items()]
    return [*near, min(given.max_new_tokens or DEFAULT_NEW_TOKENS, most), given.seed]


def saved(session: Session, name: str, system: str, options: Mapping[str, Any]) -> str:
    """The conversation as `txzoo chat` writes and reads it.

    Raises:
        InputError: nothing was said yet.
    """
    first = [{"role": "system", "content": system.strip()}] if system.strip() else []
    return as_json([*first, *session.messages], model=name, options=checked(options))


def opened(file: str, session: Session) -> tuple[str, dict[str, Any] | None]:
    """Go on with a conversation that was saved; its system message, and its settings if it has any.

    Raises:
        ZooError: as of `zoo.conversation.read_conversation`, or a setting that cannot be.
    """
    messages, options = read_conversation(Path(file))
    options = options and checked(options)
    system = [one["content"] for one in messages if one["role"] == "system"]
    session.messages = messages[len(system) :]
    return "".join(system), options


def answerer(gallery: Gallery, usual: str) -> Any:
    """The endpoint behind the page."""

    def chat(
        message: str,
        history: list[dict[str, str]],
        model: str = usual,
        system: str = "",
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_new_tokens: int = TOKENS,
        seed: int | None = 1,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
    ) -> str:
        """Answer a message; `history` has what was said before, role and content each."""
        with telling():
            check_length(message, gallery.limits.prompt_characters)
            most = min(int(max_new_tokens), gallery.limits.new_tokens)
            if history:
                check(history)
            session = Session(history)
            given = settings(
                model, system, temperature, top_p, top_k, repetition_penalty, most, seed
            )
            return session.chat(gallery, *given).say(message)

    return chat

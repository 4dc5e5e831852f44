"""The page that asks a visitor's own documents: passages, and an answer that cites them."""

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any

import gradio as gr
from gradio.context import get_blocks_context

from zoo.errors import InputError, MissingExtraError
from zoo.numbers import plural, short_count
from zoo.retrieval import Answer, Hit, Library, answer
from zoo.retrieval.answer import DECODER, NEW_TOKENS
from zoo_gallery import markup
from zoo_gallery.chat import talkers
from zoo_gallery.record_tabs import snippet
from zoo_gallery.snippets import literal, reference
from zoo_gallery.state import COMPUTE, Gallery, Limits
from zoo_gallery.views import check_count, check_length, telling, warned

EXAMPLE = Path(__file__).with_name("documents")  # written for this page
ASKED = "When is the lighthouse open in winter?"
PASSAGES = 5  # at first
NOBODY = ""  # writes an answer
LINGER = 600.0  # seconds an upload stays: Gradio has one file for all who upload the same
SAID = (
    "Upload texts, Markdown or HTML and ask. Found are the passages that share words with the "
    "question, ranked by BM25; a decoder writes an answer from them and says which it read. The "
    "bundled decoders are small: what they write is mostly not an answer, so read the passages."
)
KEPT = (
    "Your documents are yours alone. They stay in memory while this page is open, and an hour "
    "longer; the uploaded files are removed after {minutes:.0f} minutes."
)
Shown = tuple[str, str, str, str]  # passages, answer, Python and shell


def page(gallery: Gallery) -> None:
    """Build the page in the current Blocks."""
    summary = "Put a question to documents of your own."
    gr.HTML(markup.heading("Ask", summary) + markup.paragraph(SAID))
    if find_spec("bm25s") is None:
        gr.HTML(markup.note(str(MissingExtraError("Searching documents", "retrieval"))))
        return
    limits, blocks = gallery.limits, get_blocks_context()
    names = [reference(card) for cards in talkers(gallery) for card in cards]
    choices = [*((name, name) for name in names), ("None: passages only", NOBODY)]
    most = limits.passages
    library = gr.State(None)
    with gr.Row():
        with gr.Column(scale=3, min_width=280):
            with gr.Row():
                # not `gr.Files`: it puts buttons into a button, which readers cannot take
                files = gr.UploadButton("Upload documents", file_count="multiple", min_width=80)
                example = gr.Button("Try the example", min_width=80)
            read = gr.HTML(said_of(None))
            question = gr.Textbox(
                label="Question", lines=2, max_lines=4, max_length=limits.prompt_characters
            )
            ask = gr.Button("Ask", variant="primary")
        with gr.Column(scale=2, min_width=280):
            first = DECODER if DECODER in names else choices[0][1]
            name = gr.Dropdown(choices, value=first, label="Decoder", info="Writes the answer")
            count = gr.Slider(
                1, most, min(PASSAGES, most), step=1, label="Passages", info="Found at most"
            )
            allowed = f"{limits.texts} documents at once, {limits.document_megabytes} MB together."
            kept = KEPT.format(minutes=LINGER / 60)
            gr.HTML(markup.note(f"At most {allowed} {kept}", title="Documents:"))
    with gr.Row():
        with gr.Column(scale=3, min_width=280):
            found = gr.HTML("")
        with gr.Column(scale=2, min_width=280):
            written = gr.HTML("")
    with gr.Accordion("The same in Python and in a shell", open=False):
        python = snippet("Python", python_snippet(ASKED, first, PASSAGES), lines=8)
        shell = snippet("Shell", shell_snippet(ASKED, first, PASSAGES), lines=2)
    # as Gradio names them: it would leave an empty file beside each
    files.preprocess = lambda payload: [file.path for file in payload or ()]

    def take(files: Sequence[str], library: Library | None) -> Iterator[tuple[Any, str]]:
        yield library, markup.status("They are being read …")
        try:
            with telling():
                library = read_uploads(files, limits)
        except Exception:
            yield library, said_of(library)
            raise
        finally:
            later = Timer(LINGER, remove, [files, blocks])
            later.daemon = True
            later.start()
        yield library, said_of(library)

    def take_example() -> tuple[Library, str, str]:
        library = Library.of(EXAMPLE)
        return library, said_of(library), ASKED

    def reply(*values: Any) -> Iterator[Shown]:
        with telling():
            yield from replies(gallery, *values)

    given, shown = [library, question, name, count], [found, written, python, shell]
    options: Any = {"concurrency_id": COMPUTE, "api_visibility": "private"}
    options |= {"show_progress": "hidden", "trigger_mode": "once"}
    files.upload(take, [files, library], [library, read], **options)
    taken = example.click(take_example, None, [library, read, question], **options)
    taken.success(reply, given, shown, **options)
    gr.on([ask.click, question.submit], reply, given, shown, **options)


def read_uploads(files: Sequence[str], limits: Limits) -> Library:
    """The passages of uploaded files, each called as it was on its visitor's machine.

    Raises:
        InputError: they are too many or too large, or none can be read.
    """
    check_count(len(files), limits.texts, "documents")
    size, most = sum(Path(file).stat().st_size for file in files) / 1e6, limits.document_megabytes
    if size > most:
        raise InputError(
            f"The documents have {size:.1f} MB; this page takes {most} at most: leave some out"
        )
    return Library.of_files(named(files))


def named(files: Sequence[str]) -> Mapping[str, str]:
    """Files by their names; of two with one name the second is called `notes (2).md`."""
    found: dict[str, str] = {}
    for file in map(Path, files):
        name, number = file.name, 1
        while name in found:
            number += 1
            name = f"{file.stem} ({number}){file.suffix}"
        found[name] = str(file)
    return found


def remove(files: Sequence[str], blocks: Any) -> None:
    """Remove uploads that nobody sent again since, nor equal a file that a page shows."""
    shown = {name for block in blocks.blocks.values() for name in block.keep_in_cache}
    for file in map(Path, set(files) - shown):
        if file.is_file() and time.time() - file.stat().st_ctime >= LINGER:
            file.unlink(missing_ok=True)


def replies(
    gallery: Gallery, library: Library | None, question: str, name: str, count: float
) -> Iterator[Shown]:
    """The passages, then the answer beside them.

    Args:
        gallery: whose models and bounds.
        library: the documents.
        question: what is asked.
        name: of the decoder, or `NOBODY`.
        count: of passages, at most.

    Raises:
        InputError: there are no documents, no question or one that is too long, or the model writes
            no text.
    """
    limits = gallery.limits
    if library is None:
        raise InputError("There are no documents: upload some, or try the example")
    if not question.strip():
        raise InputError("There is no question: ask one")
    check_length(question, limits.prompt_characters)
    count = max(1, min(int(count), limits.passages))
    hits = library.search(question, count)
    code = (
        python_snippet(question, name, count).rstrip(),
        shell_snippet(question, name, count).rstrip(),
    )
    if not hits or name == NOBODY:
        yield passages(hits), "", *code
        return
    yield passages(hits), markup.status(f"{name} reads …"), *code
    model = gallery.models.get(name)
    with warned():
        tokens = min(NEW_TOKENS, limits.new_tokens)
        told = answer(question, [hit.passage for hit in hits], model, max_new_tokens=tokens)
    size = short_count(sum(p.numel() for p in model.module.parameters()))
    yield passages(hits), answered(told, f"{name}, {size} parameters"), *code


def said_of(library: Library | None) -> str:
    """What was read, and what was left out and why."""
    if library is None:
        return markup.status("No documents yet: upload some, or try the example.")
    names = ", ".join(library.documents)
    line = f"{plural(len(library.documents), 'document')} read: {names}"
    html = markup.status(f"{line} ({plural(len(library.passages), 'passage')}).")
    if library.skipped:
        left_out = {one.path: one.reason for one in library.skipped}
        html += markup.paragraph(f"Left out: {len(left_out)}") + markup.listed(left_out)
    return html


def passages(hits: Sequence[Hit]) -> str:
    """Passages with number, file and lines, best first."""
    if not hits:
        return markup.note("It shares no word with the documents: ask in other words.")
    items = "".join(
        f'<li id="passage-{number}"><strong>[{number}] {escape(hit.passage.place)}</strong>'
        f"<p>{escape(hit.passage.text)}</p></li>"
        for number, hit in enumerate(hits, 1)
    )
    return f'<h2>Passages</h2><ol class="zoo-passages">{items}</ol>'


def answered(told: Answer, writer: str) -> str:
    """An answer, who wrote it, and the passages that it was written from.

    Args:
        told: what was written.
        writer: the model.
    """
    links = ", ".join(
        f'<a href="#passage-{number}">{escape(place)}</a>'
        for number, place in enumerate(told.citations, 1)
    )
    more = f" {plural(told.left_out, 'passage')} did not fit." if told.left_out else ""
    return (
        f"<h2>Answer</h2>{markup.note(told.text or '(nothing)')}"
        f'<p class="zoo-cited">Written by {escape(writer)}, from {links}: check it there.{more}</p>'
    )


def python_snippet(question: str, name: str, count: int) -> str:
    """A Python script that asks the same of the documents in a folder."""
    lines = [
        "from zoo.retrieval import Library",
        "",
        'library = Library.of("documents")  # the folder that they are in',
        f"question = {literal(question)}",
        f"for hit in library.search(question, k={count}):",
        "    print(hit.passage.place, hit.passage.text)",
    ]
    if name != NOBODY:
        lines += [
            f"answer = library.ask(question, k={count}, model={literal(name)})",
            'print(answer.text, *answer.citations, sep="\\n")',
        ]
    return "\n".join([*lines, ""])


def shell_snippet(question: str, name: str, count: int) -> str:
    """A line for a shell that does the same."""
    words = ["txzoo", "ask", "--docs", "documents", "--k", str(count)]
    words += ["--no-answer"] if name == NOBODY else ["--model", name]
    return shlex.join([*words, "--", question]) + "\n"

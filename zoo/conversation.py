"""Conversations, and the templates that make one text of them.

A conversation is a list of messages `{"role": ..., "content": ...}` as chat models everywhere take
it. A template is a Jinja text in the form that `transformers` reads from a tokenizer's folder; two
are known by name. It runs in Jinja's sandbox: a stranger's template gets texts and gives a text.
"""

import datetime
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import FolderError, InputError, UnknownNameError
from zoo.folder import MOST_TEXT
from zoo.tokenization import END_OF_TEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model


class SharedToken(InputError):
    """A response begins or ends inside a token."""


Messages = Sequence[Mapping[str, str]]

ROLES = ("system", "user", "assistant")
TEMPLATE = "chat_template.jinja"  # beside a tokenizer; goes before the key in the file below
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"  # where older folders say them
FILES = (TEMPLATE, TOKENIZER_CONFIG, SPECIAL_TOKENS)
MOST_RENDERED = 1 << 22  # characters of a rendered conversation
WORD = "word"  # stands for what somebody says

# Taori et al. 2023, "Stanford Alpaca"; what stands there as a second heading, the input, is here
# part of the user's message, below its instruction
ALPACA = """\
{{- bos_token if bos_token else '' -}}
{%- if messages[0]['role'] == 'system' -%}
    {{- messages[0]['content'] -}}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {{- 'Below is an instruction that describes a task. Write a response that appropriately \
completes the request.' -}}
    {%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('user and assistant must take turns, and the user begins') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{- '\\n\\n### Instruction:\\n' + message['content'] + '\\n\\n### Response:\\n' -}}
    {%- else -%}
        {{- message['content'] + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
# OpenAI 2023, "Chat Markup Language"
CHATML = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
BUILT_IN = {"alpaca": ALPACA, "chatml": CHATML}
MARKS = {"alpaca": (), "chatml": ("<|im_start|>", "<|im_end|>")}  # tokens they want, besides an end


@dataclass(frozen=True)
class Template:
    """How a conversation is written as one text.

    Attributes:
        name: "alpaca" or "chatml", or where it was read.
        source: the Jinja text. It is given `messages`, `add_generation_prompt` and `tokens`.
        tokens: `bos_token`, `eos_token` and what else a tokenizer's folder names so.
    """

    name: str
    source: str
    tokens: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def called(cls, name: str, tokens: Mapping[str, str] | None = None) -> "Template":
        """A built-in one; without `tokens` a text ends with `<|endoftext|>` and begins with none.

        Raises:
            UnknownNameError: there is none of that name.
        """
        if name not in BUILT_IN:
            raise UnknownNameError("chat template", name, BUILT_IN)
        return cls(name, BUILT_IN[name], {"eos_token": END_OF_TEXT} if tokens is None else tokens)

    def render(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        """The text of a conversation, as `apply_chat_template(..., tokenize=False)` writes it.

        Args:
            messages: from the first one on.
            add_generation_prompt: end with what an answer is written behind.

        Raises:
            InputError: the conversation is not one, or the template refuses it or fails.
        """
        check(messages)
        plain = [{str(key): str(value) for key, value in one.items()} for one in messages]
        from jinja2 import TemplateError

        try:
            text = _compiled(self.source).render(
                messages=plain, add_generation_prompt=add_generation_prompt, **self.tokens
            )
        except TemplateError as error:
            raise InputError(f"The chat template {self.name} refuses this: {error}") from error
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"The chat template {self.name} fails: {reason}") from error
        if len(text) > MOST_RENDERED:
            raise InputError(
                f"The chat template {self.name} makes {len(text):,} characters of this, more than "
                f"{MOST_RENDERED:,}"
            )
        return str(text)

    def ending(self) -> str:
        """What stands behind an answer, the token that ends it above all.

        Raises:
            InputError: no place for an answer.
        """
        asked: Messages = [{"role": "user", "content": WORD}]
        answered = [*asked, {"role": "assistant", "content": WORD}]
        before = self.render(asked, add_generation_prompt=True)
        after = self._rest(self.render(answered), before)
        if WORD not in after:
            raise InputError(
                f"The chat template {self.name} has no place for a response: of an answer "
                f"{WORD!r} it makes {after!r}"
            )
        return after.partition(WORD)[2]

    def pieces(self, messages: Messages) -> list[tuple[str, bool]]:
        """The text of a conversation in pieces, and whether each is a response.

        A response is what `render(messages[:i + 1])` adds to `render(messages[:i],
        add_generation_prompt=True)`: the content of an assistant's message and what ends it.

        Raises:
            InputError: as `render`; the conversation has no answer; or a text does not go on from
                the one before, so that nobody can say which part is the response.
        """
        check(messages)
        pieces: list[tuple[str, bool]] = []
        done = ""
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            if place == 0:
                raise InputError("A conversation begins with its answer: what is it an answer to?")
            before = self.render(messages[:place], add_generation_prompt=True)
            after = self.render(messages[: place + 1])
            pieces += [(self._rest(before, done), False), (self._rest(after, before), True)]
            done = after
        if not pieces:
            raise InputError("The conversation has no message of the assistant: no response")
        return pieces

    def _rest(self, text: str, before: str) -> str:
        """What a text has beyond the one that it goes on from."""
        if not text.startswith(before):
            same = next(i for i, sign in enumerate(before) if text[i : i + 1] != sign)
            raise InputError(
                f"The chat template {self.name} has no place for a response: with it the text "
                f"reads {text[max(0, same - 20) : same + 20]!r} where it read "
                f"{before[max(0, same - 20) : same + 20]!r}"
            )
        return text[len(before) :]


def check(messages: Messages) -> None:
    """Raise `InputError` for what is no conversation.

    It must have a message, known roles, texts, and a system message only at its beginning.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise InputError(
            "A conversation is a list of messages such as {'role': 'user', 'content': 'Hello'}, "
            f"got {type(messages).__name__}"
        )
    if not messages:
        raise InputError("The conversation is empty: give at least one message")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise InputError(f"Message {number} must have a role and a content, got {message!r}")
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise InputError(f"Message {number}: unknown role {role!r}; roles: {', '.join(ROLES)}")
        if not isinstance(content, str):
            kind = type(content).__name__
            raise InputError(f"Message {number}: its content must be a text, got {kind}")
        if role == "system" and number > 1:
            raise InputError(f"Message {number}: a system message must be the first one")


def encode(
    template: Template, tokenizer: "Tokenizer", messages: Messages
) -> tuple[list[int], list[bool]]:
    """Tokens of a conversation with its answers, and which of them are responses.

    The ids are those that `apply_chat_template` of `transformers` gives for the conversation up to
    its last answer: no token is added to what the template writes.

    Raises:
        InputError: as `Template.pieces`.
        SharedToken: a response begins or ends inside a token.
    """
    pieces = template.pieces(messages)
    ids = tokenizer.encode("".join(text for text, _ in pieces), add_special_tokens=False).ids
    response = [False] * len(ids)
    text, start = "", 0
    for piece, answers in pieces:
        text += piece
        head = tokenizer.encode(text, add_special_tokens=False).ids
        if head != ids[: len(head)]:
            raise SharedToken(
                f"With the chat template {template.name} a response shares a token with what "
                f"stands beside it, near {text[-20:]!r}: it cannot be told apart"
            )
        response[start : len(head)] = [answers] * (len(head) - start)
        start = len(head)
    return ids, response


def prompt(template: Template, tokenizer: "Tokenizer", messages: Messages) -> list[int]:
    """Tokens that an answer to a conversation is written behind; errors as `Template.render`."""
    text = template.render(messages, add_generation_prompt=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def answer_end(template: Template, tokenizer: "Tokenizer") -> tuple[int | None, str]:
    """What ends an answer: a token or, where it takes several to spell it, their text.

    Raises:
        InputError: the template ends an answer with nothing, or with what the tokenizer cannot
            spell.
    """
    words = template.ending().strip()
    if not words:
        raise InputError(f"The chat template {template.name} ends an answer with nothing")
    ids = tokenizer.encode(words, add_special_tokens=False).ids
    if len(ids) == 1 and tokenizer.id_to_token(ids[0]) == words:
        return ids[0], ""
    if tokenizer.decode(ids, skip_special_tokens=False).strip() != words:
        raise InputError(
            f"The chat template {template.name} ends an answer with {words!r}, which this "
            "tokenizer cannot spell: take another template, or a model with such a token"
        )
    return None, words


def asked(model: "Model", text: str) -> str | list[dict[str, str]]:
    """A text as a model is called with it: a message, if it has a chat template of its own."""
    return text if model.template is None else messages_of(text)


def messages_of(text: str) -> list[dict[str, str]]:
    """The conversation that a text begins."""
    return [{"role": "user", "content": text}]


def template_of(model: "Model") -> Template | None:
    """A model's own template: of its folder, or of its base's where it is an adapter; else None."""
    found = (read(folder) for folder in _folders(model))
    return next((template for template in found if template is not None), None)


def tokens_of(model: "Model") -> dict[str, str]:
    """What a built-in template is given for a model: the tokens that begin and end its texts.

    Its folder names them; a model of this zoo ends a text with `<|endoftext|>`.
    """
    found = next(filter(None, (read_tokens(folder) for folder in _folders(model))), {})
    return {"eos_token": END_OF_TEXT, **found}


def _folders(model: "Model") -> list[Path]:
    """Where a model's template may lie: its folder, and its base's where it is an adapter.

    Where a card vouches for its files, a file that it does not name is nobody's.

    Warns:
        UserWarning: there is such a file.
    """
    found = []
    for card in model.cards:
        there = [name for name in FILES if card.files and (card.folder / name).exists()]
        strange = [name for name in there if name not in card.files]
        if strange:
            what = f"{card.folder / strange[0]} is not on the card: no template is read there"
            warnings.warn(what, stacklevel=2)
        else:
            found.append(card.folder)
    return found


def read(folder: Path) -> Template | None:
    """The template in a tokenizer's folder, as `transformers` finds it; None where there is none.

    Raises:
        FolderError: a file does not parse, or is not what it must be.
    """
    settings = _read_json(folder / TOKENIZER_CONFIG)
    source = settings.get("chat_template")
    where = folder / TOKENIZER_CONFIG
    if isinstance(source, list):  # several, each with its name
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = named.get("default")
    if (folder / TEMPLATE).is_file():
        where = folder / TEMPLATE
        source = _read_text(where)
    if source is None:
        return None
    if not isinstance(source, str):
        raise FolderError(f"{where}: chat_template must be a text, got {type(source).__name__}")
    return Template(f"of {folder.absolute().name}", source, read_tokens(folder))


def read_tokens(folder: Path) -> dict[str, str]:
    """`bos_token`, `eos_token` and the like in a tokenizer's folder.

    Raises:
        FolderError: a file does not parse.
    """
    found = {}
    for name in (SPECIAL_TOKENS, TOKENIZER_CONFIG):
        for key, value in _read_json(folder / name).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
    return found


def write(folder: Path, template: Template) -> Path:
    """Write a template into a model folder, so that `transformers` makes the same prompts there.

    Returns:
        The file.
    """
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **template.tokens,
        "chat_template": template.source,
    }
    path = folder / TOKENIZER_CONFIG
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return path


def as_json(messages: Messages, **beside: Any) -> str:
    """A conversation as `read_conversation` reads it, with what else is to be kept of it.

    Raises:
        InputError: as of `check`.
    """
    check(messages)
    values = {**beside, "messages": list(messages)}
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def read_conversation(path: Path) -> tuple[list[dict[str, str]], dict[str, Any] | None]:
    """A conversation that was saved as JSON, and the settings beside it; None where none are.

    Raises:
        FolderError: it is not there or does not parse.
        InputError: it is no conversation, or does not end with an answer.
    """
    if not path.is_file():
        raise FolderError(f"There is no file {path}")
    values = _read_json(path)
    messages = values.get("messages")
    if not isinstance(messages, list):
        raise InputError(f"{path} holds no conversation: a list under 'messages'")
    try:
        check(messages)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    options = values.get("options")
    if options is not None and not isinstance(options, dict):
        raise InputError(f"{path}: options must be an object, got {options!r:.60}")
    said = [one["role"] for one in messages if one["role"] != "system"]
    if said != ["user", "assistant"] * (len(said) // 2):
        raise InputError(f"{path}: user and assistant must take turns, and the answer be last")
    return [{"role": one["role"], "content": one["content"]} for one in messages], options


def _read_text(path: Path) -> str:
    if (size := path.stat().st_size) > MOST_TEXT:
        raise FolderError(f"{path} has {size} bytes, at most {MOST_TEXT} are read")
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise FolderError(f"{path} is not UTF-8: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise FolderError(f"{path}: must hold a JSON object, not {type(values).__name__}")
    return values


@cache
def _compiled(source: str) -> Any:
    """A template ready to be rendered: Jinja's sandbox, with what `transformers` puts into it."""
    from jinja2 import TemplateError, TemplateSyntaxError
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}`: some templates mark responses; the text is the same without."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            """What stands inside."""
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class Checked(Namespace):
        """A namespace without names that begin with an underscore, a way out of the sandbox."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            own, *rest = args
            values = dict(*rest, **kwargs)
            for name in values:
                refuse_hidden(name)
            Namespace.__init__(own, values)

        def __setitem__(self, name: str, value: Any) -> None:
            refuse_hidden(name)
            super().__setitem__(name, value)

    def refuse_hidden(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise SecurityError(f"{name!r} cannot be set on a namespace")

    def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def now(format: str) -> str:
        return datetime.datetime.now().strftime(format)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": now,
        "namespace": Checked,
        "dict": make_dict,
    }
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise InputError(f"A chat template is not valid Jinja, line {error.lineno}: {error}") from (
            error
        )

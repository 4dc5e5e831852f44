"""The zoo behind HTTP, in the shapes of OpenAI's interface, so that its clients need no change.

`/v1/models`, `/v1/completions`, `/v1/chat/completions`, `/v1/embeddings`, `/health`, `/metrics`.
"""

import asyncio
import base64
import hmac
import json
import math
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import h11
import numpy as np
import uvicorn
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from zoo.chat import Chat
from zoo.conversation import check, prompt
from zoo.engines import engine_of
from zoo.errors import ContextLengthError, InputError, UnknownNameError, ZooError
from zoo.generation import GenerationOptions
from zoo.loading import load
from zoo.pipelines import encode
from zoo.pipelines.feature_extraction import FeatureExtraction
from zoo.serving.batching import Busy, Engine, TooLate

if TYPE_CHECKING:
    from zoo.model import Model

COMPLETION = 16  # tokens of a completion unless asked for more, as OpenAI has it
EMBEDDED = 2048  # texts of one request
CHOICES = 16  # prompts times answers of one request
SPARE = 256  # open files besides connections, those among them that are being refused
BODY = 30.0  # seconds that a client has for the body of a request
OWN = ("temperature", "top_p", "seed", "stop")  # options under OpenAI's names, which are ours too
MORE = ("top_k", "repetition_penalty")  # ours, which its clients send as extra_body
READ = ("model", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens")
LEFT = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
# options of OpenAI's that are not done here, with the values that ask for nothing; so does null
WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0, 0.0),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "top_logprobs": (0,),
}
Names = Sequence[str]


@dataclass(frozen=True)
class Limits:
    """Bounds for what clients may ask.

    Attributes:
        context: tokens of a prompt and its answer.
        new_tokens: tokens of an answer.
        rows: answers of a model that are written side by side.
        waiting: prompts that may wait for a row.
        seconds: for an answer, and for all answers when the server is stopped.
        body: bytes of a request.
        connections: open at once.
        header_seconds: that a client has for its headers.
    """

    context: int = 8192
    new_tokens: int = 2048
    rows: int = 32
    waiting: int = 256
    seconds: float = 300.0
    body: int = 1 << 20
    connections: int = 1024
    header_seconds: float = 10.0


class Refused(Exception):
    """A request that is not answered: status, what the client did, and why."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


@dataclass
class Served:
    """A model that clients may name.

    Attributes:
        model: loaded.
        engine: writes, if it is a decoder.
        chat: knows its template, if it is one.
        embed: turns texts into vectors, if it is an encoder.
        lock: only one thread computes vectors.
    """

    model: "Model"
    engine: Engine | None = None
    chat: Chat | None = None
    embed: FeatureExtraction | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Serving:
    """Models, each loaded when it is first asked for.

    Args:
        names: what `zoo.load` takes.
        limits: bounds for clients.
        key: what they must send as `Authorization: Bearer KEY`; nothing unless given.
        engine: what computes decoders, as of `zoo.load`; `require_served` takes it.
    """

    def __init__(
        self,
        names: Names,
        limits: Limits | None = None,
        key: str | None = None,
        engine: str | None = None,
    ) -> None:
        self.names, self.limits, self.key = list(names), limits or Limits(), key
        self.engine = engine
        self.served: dict[str, Served] = {}
        self.since = int(time.time())
        self.loading = threading.Lock()
        self.registry = CollectorRegistry()
        own: Any = {"registry": self.registry}
        self.requests = Counter("txzoo_requests", "Answered.", ["route", "status"], **own)
        self.seconds = Histogram("txzoo_request_seconds", "From first to last.", ["route"], **own)
        self.tokens = Counter("txzoo_tokens", "Read and written.", ["model", "kind"], **own)
        self.running = Gauge("txzoo_running", "Answers being written.", ["model"], **own)
        self.waiting = Gauge("txzoo_waiting", "Prompts that wait.", ["model"], **own)

    def app(self) -> Starlette:
        """The application."""
        routes = {
            "/v1/models": (self.models, "GET"),
            "/v1/models/{name:path}": (self.one_model, "GET"),
            "/v1/completions": (self.completions, "POST"),
            "/v1/chat/completions": (self.chat_completions, "POST"),
            "/v1/embeddings": (self.embeddings, "POST"),
            "/health": (self.health, "GET"),
            "/metrics": (self.metrics, "GET"),
        }

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            for one in self.served.values():
                if one.engine is not None:
                    await asyncio.to_thread(one.engine.close)

        return Starlette(
            routes=[
                Route(path, self._guarded(path, answer), methods=[method])
                for path, (answer, method) in routes.items()
            ],
            lifespan=lifespan,
            exception_handlers={404: _no_route, 405: _no_route},
        )

    def _guarded(
        self, route: str, answer: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """A handler whose errors are answers, and which is counted."""

        async def handle(request: Request) -> Response:
            began = time.monotonic()
            try:
                if route.startswith("/v1/"):
                    self._require_key(request)
                response = await answer(request)
            except Refused as refused:
                response = _error(refused.status, refused.kind, str(refused))
                if refused.status in (408, 413):  # the rest of the body is not waited for
                    response.headers["Connection"] = "close"
            except Busy as error:
                response = _error(503, "overloaded_error", str(error))
                response.headers["Retry-After"] = "1"
            except TooLate as error:
                response = _error(504, "timeout_error", str(error))
            except (InputError, UnknownNameError, ContextLengthError) as error:
                response = _error(400, "invalid_request_error", " ".join(str(error).split()))
            except ZooError as error:
                response = _error(500, "server_error", " ".join(str(error).split()))
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception as error:
                response = _error(500, "server_error", f"{type(error).__name__}: {error}")
            self.requests.labels(route, response.status_code).inc()
            if isinstance(response, StreamingResponse):
                response.body_iterator = self._timed(route, began, response.body_iterator)
            else:
                self.seconds.labels(route).observe(time.monotonic() - began)
            return response

        return handle

    async def _timed(
        self, route: str, began: float, pieces: AsyncIterable[Any]
    ) -> AsyncIterator[Any]:
        """The pieces of an answer, which has taken its time when the last one is gone."""
        try:
            async for piece in pieces:
                yield piece
        finally:
            self.seconds.labels(route).observe(time.monotonic() - began)

    def _require_key(self, request: Request) -> None:
        if self.key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            raise Refused(401, "authentication_error", "A key is needed: Authorization: Bearer KEY")

    async def _body(self, request: Request) -> dict[str, Any]:
        """The JSON of a request, of which never more is held than it may have."""
        most = self.limits.body
        too_long = Refused(413, "invalid_request_error", f"The body has more than {most:,} bytes")
        said = request.headers.get("content-length", "0")
        if said.isdigit() and int(said) > most:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(BODY):
                async for piece in request.stream():
                    body += piece
                    if len(body) > most:
                        raise too_long
        except TimeoutError as error:
            raise Refused(
                408, "timeout_error", f"The body did not come within {BODY:.0f} s"
            ) from error
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "invalid_request_error", f"Not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise Refused(400, "invalid_request_error", "The body must be a JSON object")
        return values

    async def _served(self, values: Mapping[str, Any]) -> Served:
        """The model that a request names; loaded when it is the first one to do so."""
        name = values.get("model")
        if not isinstance(name, str) or name not in self.names:
            known = ", ".join(self.names)
            raise Refused(
                404, "not_found_error", f"There is no model {name!r} here; there are: {known}"
            )
        found = self.served.get(name)
        return await asyncio.to_thread(self._load, name) if found is None else found

    def _load(self, name: str) -> Served:
        with self.loading:
            if name not in self.served:
                model = load(name, engine=self.engine)
                one = Served(model)
                if model.pipeline == "text-generation":
                    limits = self.limits
                    one.engine = Engine(model, rows=limits.rows, waiting=limits.waiting)
                    one.chat = Chat(model)
                    engine = one.engine
                    self.running.labels(name).set_function(lambda: len(engine.running))
                    self.waiting.labels(name).set_function(lambda: len(engine.waiting))
                else:
                    one.embed = FeatureExtraction(model)
                self.served[name] = one
            return self.served[name]

    async def models(self, _: Request) -> Response:
        """Those that are served."""
        return JSONResponse({"object": "list", "data": [self._shown(n) for n in self.names]})

    async def one_model(self, request: Request) -> Response:
        """One of them."""
        name = request.path_params["name"]
        if name not in self.names:
            raise Refused(404, "not_found_error", f"There is no model {name!r} here")
        return JSONResponse(self._shown(name))

    def _shown(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.since, "owned_by": "txzoo"}

    async def health(self, _: Request) -> Response:
        """That it answers."""
        return JSONResponse({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """For Prometheus."""
        return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4")

    async def completions(self, request: Request) -> Response:
        """Texts that go on."""
        values = await self._body(request)
        _check_keys(values, ("prompt",))
        one = await self._served(values)
        engine = _engine(one)
        given = values.get("prompt", "")
        many = given if isinstance(given, list) and not _is_ids(given) else [given]
        ids = [_ids(engine, text) for text in many]
        options = self._options(values, COMPLETION)

        def choice(index: int, text: str, ended: str | None, _first: bool) -> dict[str, Any]:
            return {"index": index, "text": text, "finish_reason": ended, "logprobs": None}

        writing = Answers(self, one, ids, options, _copies(values, len(ids)))
        return await self._answer(request, values, writing, "text_completion", choice, choice)

    async def chat_completions(self, request: Request) -> Response:
        """Answers to a conversation."""
        values = await self._body(request)
        _check_keys(values, ("messages",))
        one = await self._served(values)
        engine, chat = _engine(one), one.chat
        assert chat is not None  # made with the engine
        messages = _messages(values.get("messages"))
        check(messages)
        ids = prompt(chat.template, engine.pipeline.tokenizer, messages)
        room = min(self.limits.context, chat.window) - len(ids)
        options = self._options(values, max(1, min(self.limits.new_tokens, room)), chat.stop)

        def whole(index: int, text: str, ended: str | None, _: bool) -> dict[str, Any]:
            message = {"role": "assistant", "content": text.strip(), "refusal": None}
            return {"index": index, "message": message, "finish_reason": ended, "logprobs": None}

        def piece(index: int, text: str, ended: str | None, first: bool) -> dict[str, Any]:
            delta: dict[str, Any] = {"role": "assistant"} if first else {}
            delta |= {"content": text} if text or first else {}
            return {"index": index, "delta": delta, "finish_reason": ended, "logprobs": None}

        writing = Answers(self, one, [ids], options, _copies(values, 1), chat.end_id)
        return await self._answer(request, values, writing, "chat.completion", whole, piece)

    async def embeddings(self, request: Request) -> Response:
        """Vectors of texts."""
        values = await self._body(request)
        _check_keys(values, ("input", "encoding_format", "dimensions"))
        one = await self._served(values)
        if one.embed is None:
            raise InputError(f"{one.model.name} is a decoder: it gives no embeddings")
        given: Any = values.get("input")
        texts = given if isinstance(given, list) else [given]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError("input must be a text or a list of texts, none of them empty")
        if len(texts) > EMBEDDED:
            raise InputError(f"input has {len(texts):,} texts, at most {EMBEDDED:,} are read")
        if values.get("dimensions") is not None:
            raise InputError("dimensions is not supported: vectors are as wide as the model")
        form = values.get("encoding_format", "float")
        if form not in ("float", "base64"):
            raise InputError(f"encoding_format must be float or base64, got {form!r}")

        def read() -> tuple[list[np.ndarray], int]:
            assert one.embed is not None
            with one.lock:
                rows = one.embed.reader()(texts)
                vectors = one.embed.outputs(rows)
                answers = [one.embed.answer(row, v) for row, v in zip(rows, vectors, strict=True)]
            count = sum(len(row.ids) + row.left_out for row in rows)
            return [answer.numpy().astype("<f4") for answer in answers], count

        vectors, count = await asyncio.to_thread(read)
        self.tokens.labels(one.model.name, "prompt").inc(count)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": vector.tolist()
                if form == "float"
                else base64.b64encode(vector.tobytes()).decode(),
            }
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse(
            {"object": "list", "data": data, "model": one.model.name, "usage": usage}
        )

    def _options(self, values: Mapping[str, Any], usual: int, stop: str = "") -> GenerationOptions:
        """How a request wants its answer written."""
        asked = (values.get("max_completion_tokens"), values.get("max_tokens"), usual)
        most = next(given for given in asked if given is not None)
        if type(most) is not int or not 1 <= most <= self.limits.new_tokens:
            raise InputError(
                f"max_tokens must be a whole number from 1 to {self.limits.new_tokens}, "
                f"got {most!r}"
            )
        given = {key: values[key] for key in (*OWN, *MORE) if values.get(key) is not None}
        given.setdefault("temperature", 1.0)
        stops = given.pop("stop", [])
        stops = [stops] if isinstance(stops, str) else stops
        if not isinstance(stops, list):
            raise InputError(f"stop must be a text or a list of texts, got {stops!r}")
        if given["temperature"] == 0:
            given = {key: given[key] for key in given if key not in ("top_p", "top_k")}
        options = {**given, "max_new_tokens": most, "stop": [*stops, *([stop] if stop else [])]}
        return GenerationOptions.from_dict(options)

    async def _answer(
        self,
        request: Request,
        values: Mapping[str, Any],
        writing: "Answers",
        kind: str,
        whole: Callable[[int, str, str | None, bool], dict[str, Any]],
        piece: Callable[[int, str, str | None, bool], dict[str, Any]],
    ) -> Response:
        """All of it in one piece, or as it is written."""
        head = {
            "id": f"{'chatcmpl' if kind.startswith('chat') else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": writing.name,
        }
        if values.get("stream"):
            stream_options = values.get("stream_options") or {}
            counted = isinstance(stream_options, dict) and stream_options.get("include_usage")
            name = f"{kind}.chunk" if kind.startswith("chat") else kind
            writing.begin()
            events = self._events(writing, {**head, "object": name}, piece, bool(counted))
            return StreamingResponse(events, media_type="text/event-stream")
        writing.begin(whole=True)
        gone = asyncio.create_task(_gone(request))
        reading = asyncio.create_task(writing.all())
        try:
            await asyncio.wait({gone, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise ClientDisconnect
            answers = reading.result()
        finally:
            gone.cancel()
            reading.cancel()
            writing.cancel()
        choices = [whole(n, text, ended, True) for n, (text, ended) in enumerate(answers)]
        return JSONResponse({**head, "object": kind, "choices": choices, "usage": writing.usage()})

    async def _events(
        self,
        writing: "Answers",
        head: dict[str, Any],
        piece: Callable[[int, str, str | None, bool], dict[str, Any]],
        counted: bool,
    ) -> AsyncIterator[str]:
        """Server-sent events; a client that is gone ends them."""
        began: set[int] = set()
        more = {"usage": None} if counted else {}
        try:
            async for index, text, ended in writing:
                choice = piece(index, text, ended, index not in began)
                began.add(index)
                yield _event({**head, "choices": [choice], **more})
            if counted:
                yield _event({**head, "choices": [], "usage": writing.usage()})
        except Exception as error:
            yield _event({"error": {"message": str(error), "type": type(error).__name__}})
        finally:
            writing.cancel()
        yield "data: [DONE]\n\n"


def require_served(engine: str) -> None:
    """Say at once which engine cannot write the answers of a server.

    Raises:
        InputError: there is none of the name, or it keeps what it has read in a memory of its own.
        MissingExtraError: it is not installed.
    """
    if engine == "llama.cpp":  # installed or not
        raise InputError(
            "llama.cpp keeps what it has read to itself, so that texts cannot come and go: "
            "txzoo export NAME --format gguf writes what its own server, llama-server, serves"
        )
    engine_of(engine)


def _connections(asked: int) -> int:
    """As many of the connections asked for as the process may have files open for."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return asked
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = asked + SPARE
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return asked
    if soft != hard:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(asked, soft - SPARE))


def listen(host: str, port: int) -> socket.socket:
    """A socket for `server(...).run(sockets=[...])`.

    Raises:
        InputError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(f"Cannot listen on {host}, port {port}: {error}") from error
    # its connections inherit that: else the body of an answer waits until the client has
    # acknowledged the head, which takes it 40 ms
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


class Answers:
    """The answers of one request, as they are written.

    Args:
        serving: whose limits hold.
        one: the model.
        prompts: token ids of each.
        options: of all of them.
        copies: answers a prompt.
        end_id: the token that ends an answer, the model's own unless given.

    Raises:
        ContextLengthError: a prompt and its answer are longer than may be.
    """

    def __init__(
        self,
        serving: Serving,
        one: Served,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        copies: int,
        end_id: int | None = None,
    ) -> None:
        longest, most = max(map(len, prompts)), serving.limits.context
        if longest + (options.max_new_tokens or 0) > most:
            raise ContextLengthError(
                f"{longest} prompt tokens and {options.max_new_tokens} new ones are more than "
                f"{most}, which is the most that this server reads"
            )
        self.serving, self.engine, self.name = serving, _engine(one), one.model.name
        self.asked = [(ids, copy) for ids in prompts for copy in range(copies)]
        self.options, self.end_id = options, end_id
        self.requests: list[Any] = []
        self.pieces: asyncio.Queue[tuple[int, str, str | Exception | None]] = asyncio.Queue()
        self.read = sum(map(len, prompts))

    def begin(self, *, whole: bool = False) -> None:
        """Ask for all of them; raises as `Engine.submit`.

        Args:
            whole: each comes in one piece at its end, so that the loop that computes is not held
                up by the one that hands on.
        """
        loop = asyncio.get_running_loop()

        def taker(index: int) -> Callable[[str, str | Exception | None], None]:
            said: list[str] = []

            def put(piece: str, ended: str | Exception | None) -> None:
                said.append(piece)
                if whole and ended is None:
                    return
                text = "".join(said)
                said.clear()
                with suppress(RuntimeError):  # the server is gone
                    loop.call_soon_threadsafe(self.pieces.put_nowait, (index, text, ended))

            return put

        try:
            for index, (ids, copy) in enumerate(self.asked):
                self.requests.append(
                    self.engine.submit(
                        ids,
                        self.options,
                        taker(index),
                        end_id=self.end_id,
                        seconds=self.serving.limits.seconds,
                        copy=copy,
                    )
                )
        except ZooError:
            self.cancel()
            raise

    async def __aiter__(self) -> AsyncIterator[tuple[int, str, str | None]]:
        """Index, piece, and at the end of each answer why it ended."""
        left = len(self.asked)
        while left:
            index, piece, ended = await self.pieces.get()
            if isinstance(ended, Exception):
                raise ended
            left -= ended is not None
            yield index, piece, ended

    async def all(self) -> list[tuple[str, str | None]]:
        """Each answer, and why it ended."""
        texts = [""] * len(self.asked)
        ends: list[str | None] = [None] * len(self.asked)
        async for index, piece, ended in self:
            texts[index] += piece
            ends[index] = ended or ends[index]
        return list(zip(texts, ends, strict=True))

    def usage(self) -> dict[str, int]:
        """How many tokens were read and written."""
        written = sum(request.written for request in self.requests)
        return {
            "prompt_tokens": self.read,
            "completion_tokens": written,
            "total_tokens": self.read + written,
        }

    def cancel(self) -> None:
        """Nobody waits any more, or all is there."""
        usage = self.usage()
        for kind in ("prompt", "completion"):
            self.serving.tokens.labels(self.name, kind).inc(usage[f"{kind}_tokens"])
        for request in self.requests:
            self.engine.cancel(request)


async def _gone(request: Request) -> None:
    """Wait until the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _no_route(request: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    what = f"There is no {request.method} {request.url.path} here"
    return _error(status, "not_found_error", what)


def _error(status: int, kind: str, message: str) -> Response:
    body = {"message": message, "type": kind, "param": None, "code": None}
    return JSONResponse({"error": body}, status_code=status)


def _event(values: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(values, ensure_ascii=False)}\n\n"


def _engine(one: Served) -> Engine:
    if one.engine is None:
        raise InputError(f"{one.model.name} is a {one.model.pipeline} model: it writes no text")
    return one.engine


def _check_keys(values: Mapping[str, Any], own: Names) -> None:
    """Raise `InputError` for what would change the answer and is not done here."""
    known = (*READ, *OWN, *MORE, *LEFT, *own)
    for key, value in values.items():
        neutral = WITHOUT_EFFECT.get(key, ())
        same = any(value == one and type(value) is type(one) for one in neutral)  # True == 1
        if key not in known and value is not None and not same:
            raise InputError(f"{key} is not supported here: leave it out")


def _copies(values: Mapping[str, Any], prompts: int) -> int:
    copies = values.get("n") or 1
    if type(copies) is not int or not 1 <= copies * prompts <= CHOICES:
        raise InputError(f"n times the prompts must be from 1 to {CHOICES}, got n={copies!r}")
    return copies


def _is_ids(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(type(one) is int for one in given)


def _ids(engine: Engine, text: Any) -> list[int]:
    """Tokens of a prompt, which is a text or tokens."""
    if _is_ids(text):
        V = int(engine.module.config.vocab_size)  # type: ignore[union-attr, arg-type]
        if not all(0 <= token < V for token in text):
            raise InputError(f"prompt: tokens must lie from 0 to {V - 1}")
        return list(text)
    if not isinstance(text, str):
        raise InputError("prompt must be a text, a list of texts, or tokens")
    return encode(engine.pipeline.tokenizer, text)


def _messages(given: Any) -> list[dict[str, str]]:
    """Messages whose content is a text; OpenAI's parts of text are joined."""
    if not isinstance(given, list) or not given:
        raise InputError("messages must be a list with one message at least")
    found: list[dict[str, Any]] = []
    for one in given:
        if not isinstance(one, dict):
            raise InputError(f"A message must be an object, got {one!r:.80}")
        content = one.get("content")
        if isinstance(content, list):
            if not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
                raise InputError("A message must be text: parts of other kinds are not read")
            content = "".join(part["text"] for part in content)
        found.append({"role": str(one.get("role")), "content": content})
    return found


class Patient(H11Protocol):
    """A connection that is closed where headers do not come, or there are too many others."""

    limits = Limits()
    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.close()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Something came: all of the headers, or not yet."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait()
        elif self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self.timer is not None:
            self.timer.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self.timer is None:
            self.timer = self.loop.call_later(self.limits.header_seconds, self.transport.close)


def server(
    names: Names,
    *,
    limits: Limits | None = None,
    key: str | None = None,
    engine: str | None = None,
) -> uvicorn.Server:
    """A server, whose `run(sockets=[...])` serves until the process is told to stop.

    Told so, it takes no new connection, and writes what it has begun.

    Args:
        names: what `zoo.load` takes.
        limits: bounds for clients.
        key: what they must send; nothing unless given.
        engine: what computes decoders; PyTorch unless given.
    """
    limits = limits or Limits()
    limits = replace(limits, connections=_connections(limits.connections))
    config = uvicorn.Config(
        Serving(names, limits, key, engine).app(),
        http=type("Connection", (Patient,), {"limits": limits}),
        log_level="warning",
        access_log=False,
        backlog=SPARE // 4,  # so many are accepted at once, three times before the first are closed
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )
    return uvicorn.Server(config)

"""Decoding steps without their Python: what a module calls for a token is recorded, then replayed.

A step of a small decoder is some hundred calls of PyTorch that take a microsecond or two each, and
as much again goes by in modules, attributes and shapes. From one token to the next the calls are
the same but for whole numbers that grow with the text. So two steps are recorded, call by call, and
one at the end of the cache; where the three agree, the calls are written down as a plain function,
a `Program`, and that computes the steps from then on. The next text has its first step recorded,
and held against the program.

Nothing is assumed of a module: where its steps do not agree, or hand a number of a tensor to Python
to decide by, it computes each of them itself, as ever. CUDA graphs and `torch.fx` do likewise; here
it is done for the length of a text that grows.

Letters: R rows, V vocabulary.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.nn.cache import Cache
from zoo.nn.threads import enough_threads

LEAST = 16  # tokens to come for which a recorded step is worth while
MOST = 8  # programs that are kept for a module: one for each number of rows

# what hands numbers of a tensor to Python, or makes a shape of them
READS = {
    *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "_local_scalar_dense"),
    *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__iter__", "__array__"),
    *("__contains__", "data_ptr", "storage", "untyped_storage", "masked_select", "bincount"),
    *("nonzero", "argwhere", "unique", "unique_consecutive"),
}
WRITES = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "set_data"}
SHAPES = (torch.Size, torch.device, torch.dtype, int, bool)  # no numbers of a tensor


@dataclass(frozen=True, slots=True)
class Value:
    """In place of a tensor: the result of an earlier call; the first is the token ids."""

    place: int


@dataclass(frozen=True, slots=True)
class Given:
    """In place of a tensor: one that was there before the step, such as a weight or the cache."""

    place: int


@dataclass(frozen=True, slots=True)
class Length:
    """In place of a number: the columns filled so far, and so many more."""

    more: int


class Call(NamedTuple):
    """A call of PyTorch.

    Attributes:
        function: of PyTorch.
        args: what it was given, with tensors replaced.
        kwargs: by name.
        results: how many tensors; -1 for one that stands alone.
        looks: whether the results lie in the memory of the first tensor that it was given.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    results: int
    looks: bool


class Unfit(Exception):
    """Steps differ by more than the length, or what they do is not all to be seen."""


class Recorder(TorchFunctionMode):
    """While it is entered, calls of PyTorch are kept: function, arguments and result.

    Args:
        ids: the input of the step.
        length: columns filled before it.
    """

    def __init__(self, ids: Tensor, length: int) -> None:
        super().__init__()
        self.ids, self.length = ids, length
        self.calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        self.casts = False  # by itself, which no call shows

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = kwargs or {}
        # a list may be changed afterwards
        kept = tuple([list(part) if type(part) is list else part for part in args])
        result = func(*args, **kwargs)
        if type(result) not in SHAPES or _name(func) in READS:
            self.calls.append((func, kept, kwargs, result))
        self.casts |= torch.is_autocast_enabled(self.ids.device.type)
        return result


class Step:
    """A recorded step in a form that can be compared.

    Args:
        recorder: of the step.
        logits: its result.
        memory: of the cache.

    Raises:
        Unfit: it decides by numbers in tensors.
    """

    def __init__(self, recorder: Recorder, logits: Tensor, memory: Tensor) -> None:
        self.length, self.memory = recorder.length, memory
        self.calls: list[Call] = []
        self.given: list[Tensor] = []
        self.results = [recorder.ids]  # all are kept, so that none takes another's identity
        self._known: dict[int, Value | Given] = {id(recorder.ids): Value(0)}
        self._own: set[int] = set()
        self.writes: list[Tensor] = []  # what was there before, and was changed
        if recorder.casts:
            raise Unfit
        for function, args, kwargs, result in recorder.calls:
            self._add(function, args, kwargs, result)
        self.end = self._described(logits)

    def _add(self, function: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        described = self._described(args)
        named = tuple([(key, self._described(part)) for key, part in kwargs.items()])
        name = _name(function)
        silent = result is None and not _writes(name)  # what it does is not known
        if name in READS or silent or _picks(name, args):
            if any(type(leaf) is Value for leaf in _leaves((described, named))):
                raise Unfit
            return
        if not _writes(name) and any(result is part for part in args[:1]):
            return  # such as dropout when a model answers, and float() of float32
        alone = isinstance(result, Tensor)
        results = [result] if alone else result if isinstance(result, (tuple, list)) else []
        if result is None:  # such as of `x[0] = 1`: what was changed stands in its place
            alone, results = True, [args[0]]
        tensors = [isinstance(each, Tensor) for each in results]
        if not any(tensors):
            return
        if not all(tensors):
            raise Unfit
        target = kwargs["out"] if "out" in kwargs else args[0] if _writes(name) else None
        if target is not None and id(target) not in self._own:
            self.writes.append(target)
        base = next((leaf for leaf in _leaves(args) if isinstance(leaf, Tensor)), None)
        looks = base is not None and target is None and _shares(results[0], base)
        for each in results:
            if result is not None:
                self._known[id(each)] = Value(len(self.results))
            self.results.append(each)
            self._own.add(id(each))
        call = Call(function, described, named, -1 if alone else len(results), looks)
        given = _leaves((args, tuple(kwargs.values())))
        plain = all(type(x) in (Tensor, nn.Parameter) for x in given if isinstance(x, Tensor))
        self.calls.append(_direct(call) if plain else call)  # quantised ones answer it themselves

    def _described(self, part: Any) -> Any:
        """An argument with its tensors replaced."""
        if isinstance(part, Tensor):
            known = self._known.get(id(part))
            if known is None:
                known = self._known[id(part)] = Given(len(self.given))
                self.given.append(part)
            return known
        kind = type(part)
        if kind is tuple or kind is torch.Size:
            return tuple([self._described(each) for each in part])
        if kind is list:
            return [self._described(each) for each in part]
        if kind is slice:
            return slice(*[self._described(end) for end in (part.start, part.stop, part.step)])
        if kind is dict:
            raise Unfit
        return part

    def which(self) -> list[int | None]:
        """Which tensors it was given; None for the cache's memory, of which there may be two."""
        return [None if each is self.memory else id(each) for each in self.given]

    def layouts(self) -> list[Any]:
        """What must be alike in tensors that take the place of others."""
        return [(each.shape, each.stride(), each.dtype, each.device) for each in self.given]


def _agreed(steps: Sequence[Step]) -> list[Call]:
    """The calls that steps have in common.

    Raises:
        Unfit: they have others too.
    """
    alike = [(len(step.calls), step.end, step.which()) for step in steps]
    if any(each != alike[0] for each in alike):
        raise Unfit
    lengths = [step.length for step in steps]
    return [
        Call(*_common([tuple(call) for call in calls], lengths))
        for calls in zip(*(step.calls for step in steps), strict=True)
    ]


class Program:
    """The calls that steps of different lengths have in common.

    Args:
        steps: three, the last one at the end of the cache.

    Raises:
        Unfit: they are not the same calls.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.calls = _agreed(steps)
        self.end = steps[0].end
        self.longest = max(step.length for step in steps)
        self.layouts = steps[0].layouts()

    def fits(self, step: Step, columns: int) -> bool:
        """Whether a step, recorded at any length, makes these calls; for so many columns."""
        return (
            columns <= self.longest + 1
            and len(step.calls) == len(self.calls)
            and step.end == self.end
            and step.layouts() == self.layouts
            and all(
                call is here or call == here
                for call, here in zip(step.calls, _at(self.calls, step.length), strict=True)
            )
        )

    def bound(self, given: Sequence[Tensor]) -> Callable[[Tensor, int], Tensor]:
        """The function of token ids (R, 1) and a length, by the tensors that a step was given."""
        registers: list[Any] = [None, *given]  # the ids come first
        known: dict[Any, int] = {Value(0): 0, **{Given(n): n + 1 for n in range(len(given))}}
        lengths: list[tuple[int, int]] = []  # registers, and by how much more than the length
        moves: list[tuple[Callable[..., Any], Callable[[Any], Any], int, int]] = []

        def register(part: Any) -> int:
            """Where an argument stands; one that is put together of others is so each time."""
            if type(part) in (Value, Given, Length) and part in known:
                return known[part]
            parts = (part.start, part.stop, part.step) if type(part) is slice else part
            making = type(part) in MAKERS and any(
                type(leaf) in (Value, Given, Length) for leaf in _leaves(part)
            )
            of = _getter([register(each) for each in parts]) if making else None
            registers.append(None if making else part)
            place = len(registers) - 1
            if of is not None:
                moves.append((MAKERS[type(part)], of, place, 0))
            elif type(part) is Length:
                known[part] = place
                lengths.append((place, part.more))
            return place

        fixed, value = {0: False}, 1
        for call in self.calls:
            own = range(value, value + abs(call.results))
            value = own.stop
            leaves = list(_leaves((call.args, tuple(part for _, part in call.kwargs))))
            same = call.looks and all(
                fixed[leaf.place] if isinstance(leaf, Value) else not isinstance(leaf, Length)
                for leaf in leaves
            )
            fixed |= dict.fromkeys(own, same)
            before = len(moves)
            same_each_time: dict[str, Any] = {}
            named: dict[str, int] = {}
            for key, part in call.kwargs:
                changes = type(part) is Length or type(part) in MAKERS
                if changes or (type(part) is Value and not fixed[part.place]):
                    named[key] = register(part)
                else:
                    same_each_time[key] = registers[register(part)]
            of = _getter([*(register(part) for part in call.args), *named.values()])
            function = _with_names(call.function, len(call.args), list(named))
            if same_each_time:
                function = partial(function, **same_each_time)
            place = len(registers)
            registers += [None] * len(own)
            known |= {Value(n): place + n - own.start for n in own}
            moves.append((function, of, place, place + len(own) if call.results >= 0 else 0))
            if same:  # a look at memory that stays the same is taken once
                _move(registers, moves[before:])
                del moves[before:]
        end = known[self.end]

        def step(ids: Tensor, length: int) -> Tensor:
            now = registers.copy()
            now[0] = ids
            for place, more in lengths:
                now[place] = length + more
            _move(now, moves)
            logits: Tensor = now[end]
            return logits

        return step


def _together(*parts: Any) -> tuple[Any, ...]:
    return parts


def _listed(*parts: Any) -> list[Any]:
    return list(parts)


MAKERS: dict[type, Callable[..., Any]] = {tuple: _together, list: _listed, slice: slice}


def _getter(places: Sequence[int]) -> Callable[[Any], Any]:
    """Takes what stands in these places of a list, as a sequence."""
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0, 0))


def _with_names(
    function: Callable[..., Any], positions: int, names: Sequence[str]
) -> Callable[..., Any]:
    """A function of arguments by position alone, of which the last ones have these names."""
    if not names:
        return function

    def named(*parts: Any, **others: Any) -> Any:
        by_name = dict(zip(names, parts[positions:], strict=True))
        return function(*parts[:positions], **by_name, **others)

    return named


def _move(registers: list[Any], moves: Sequence[tuple[Any, Any, int, int]]) -> None:
    """Make calls, from registers into registers."""
    for function, of, place, stop in moves:
        if stop:
            registers[place:stop] = function(*of(registers))
        else:
            registers[place] = function(*of(registers))


_programs: WeakKeyDictionary[nn.Module, list[Program]] = WeakKeyDictionary()
_unfit: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_lock = threading.Lock()


class Steps:
    """The logits of one token a row after another: recorded at first, then replayed.

    Rows go through one object for as long as there are as many of them.

    Args:
        compute: takes ids (R, 1), gives logits, and fills the cache by a column; calls `module`.
        module: the decoder.
        cache: its keys and values.
    """

    def __init__(
        self, compute: Callable[[Tensor], Tensor], module: nn.Module, cache: Cache
    ) -> None:
        self.compute, self.module, self.cache = compute, module, cache
        self.recorded: list[Step] = []
        self.tries = 3
        # positions may end before the cache does
        self.columns = min(cache.max_len, getattr(module, "max_len", None) or cache.max_len)
        # for each memory that the cache has: it changes between two where rows change places
        self.replays: dict[int, Callable[[Tensor, int], Tensor]] = {}
        # other caches and hooks may do what no call shows
        self.willing = (
            type(cache).update is Cache.update
            and module not in _unfit
            and not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
        )

    def __call__(self, ids: Tensor) -> Tensor:
        """What `compute` gives for ids (R, 1)."""
        # somebody watches the calls, or changes them
        if torch._C._len_torch_function_stack() or torch.is_autocast_enabled(ids.device.type):
            return self.compute(ids)
        replay = self.replays.get(id(self.cache.memory))
        if replay is not None and self.cache.length < self.columns:
            with enough_threads(self.module, ids.numel()):
                logits = replay(ids, self.cache.length)
            self.cache.advance(1)
            return logits
        if not self.willing or self.columns - self.cache.length < LEAST:
            return self.compute(ids)
        recorder = Recorder(ids, self.cache.length)
        with recorder:
            logits = self.compute(ids)
        try:
            self._learn(ids, Step(recorder, logits, self.cache.memory))
        except Unfit:
            # again, for tables that have grown, here or in the last column
            self.recorded, self.tries = [], self.tries - 1
            if not self.tries:
                self.willing = False
                _unfit[self.module] = True
        return logits

    def _learn(self, ids: Tensor, step: Step) -> None:
        """Take the program that a step fits, or make one of this step and the one before."""
        with _lock:
            known = list(_programs.setdefault(self.module, []))
        fitting = (each for each in known if each.fits(step, self.columns))
        program = next(fitting, None)
        self.recorded.append(step)
        if program is None and len(self.recorded) == 2:
            program = self._made(ids)
            with _lock:
                _programs[self.module] = [program, *known][:MOST]
        if program is not None:
            self.replays[id(self.cache.memory)] = program.bound(step.given)
            self.recorded = []

    def _made(self, ids: Tensor) -> Program:
        """A program of two steps and a third in the last column, which is written again later."""
        self._check_state()
        length = self.cache.length
        self.cache.length = self.columns - 1
        recorder = Recorder(ids, self.cache.length)
        try:
            with recorder:
                logits = self.compute(ids)
        except Exception as error:  # a module may have other limits than it says
            raise Unfit from error
        finally:
            self.cache.length = length
        return Program([*self.recorded, Step(recorder, logits, self.cache.memory)])

    def _check_state(self) -> None:
        """Make sure that a step leaves nothing to the next but keys and values in the cache.

        Raises:
            Unfit: it makes other calls, takes what the one before gave, or changes what is not its
                own.
        """
        before, after = self.recorded
        _agreed(self.recorded)
        given = set(map(id, after.given))
        if any(id(each) in given for each in before.results) or not all(
            _shares(each, before.memory) for each in before.writes
        ):
            raise Unfit


def _direct(call: Call) -> Call:
    """A call that PyTorch answers in Python first: what that calls, without the Python."""
    named = dict(call.kwargs)
    if call.function is F.layer_norm and len(call.args) == 2:
        parts = (named.get("weight"), named.get("bias"), named.get("eps", 1e-5))
        enabled = torch.backends.cudnn.enabled
        return call._replace(
            function=torch.layer_norm, args=(*call.args, *parts, enabled), kwargs=()
        )
    if call.function is F.embedding and len(call.args) == 2 and named.get("max_norm") is None:
        # padding_idx and what it concerns are of gradients, of which a step has none
        return call._replace(function=torch.embedding, args=call.args[::-1], kwargs=())
    return call


def _common(parts: Sequence[Any], lengths: Sequence[int]) -> Any:
    """What steps of these lengths have in one place of a call.

    Raises:
        Unfit: they have nothing in common.
    """
    first = parts[0]
    kind = type(first)
    if any(type(part) is not kind for part in parts):
        raise Unfit
    if kind is slice:
        return slice(*_common([(part.start, part.stop, part.step) for part in parts], lengths))
    if kind in (tuple, list):
        if any(len(part) != len(first) for part in parts):
            raise Unfit
        return kind([_common(each, lengths) for each in zip(*parts, strict=True)])
    if all(part == first for part in parts):
        return first
    more = [part - n for part, n in zip(parts, lengths, strict=True)] if kind is int else []
    if not more or any(each != more[0] for each in more):
        raise Unfit
    return Length(more[0])


def _at(part: Any, length: int) -> Any:
    """Calls, or a part of them, at a length; the same object where it is in none."""
    if isinstance(part, Length):
        return length + part.more
    if type(part) is slice:
        ends = (part.start, part.stop, part.step)
        return slice(*_at(ends, length))
    if type(part) in (tuple, list, Call):
        new = [_at(each, length) for each in part]
        if all(a is b for a, b in zip(part, new, strict=True)):
            return part
        return Call(*new) if type(part) is Call else type(part)(new)
    return part


def _name(function: Callable[..., Any]) -> str:
    """Of a function; of a property, whose getter it is, and of an operator, its own."""
    name = str(getattr(function, "__name__", ""))
    if name in ("__get__", "__set__"):
        return str(getattr(getattr(function, "__self__", None), "__name__", name))
    return name.split(".")[0]


def _writes(name: str) -> bool:
    """Whether a function of this name changes the first tensor that it is given."""
    return (name.endswith("_") and not name.endswith("__")) or name in WRITES


def _picks(name: str, args: Sequence[Any]) -> bool:
    """Whether a call picks as many elements as a mask has: a shape that depends on numbers."""
    masks = (torch.bool, torch.uint8)
    return name == "__getitem__" and any(
        isinstance(leaf, Tensor) and leaf.dtype in masks for leaf in _leaves(args[1])
    )


def _shares(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    with torch._C.DisableTorchFunction():
        try:
            place = one.untyped_storage().data_ptr()
            return place == other.untyped_storage().data_ptr() != 0
        except (NotImplementedError, RuntimeError):
            return False


def _leaves(part: Any) -> Iterator[Any]:
    """What stands in tuples, lists and slices."""
    if type(part) in (tuple, list):
        for each in part:
            yield from _leaves(each)
    elif type(part) is slice:
        yield from _leaves((part.start, part.stop, part.step))
    else:
        yield part

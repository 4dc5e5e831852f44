"""Decoders in llama.cpp: the file that `zoo.export.gguf` writes.

llama.cpp keeps keys and values in a memory of its own, sequence by sequence. So the cache that a
module is called with holds ids here, in the first of its numbers, and llama.cpp's memory is only
what has been worked out already: before each call it is brought to the texts that the cache tells.
Whatever moves rows or takes columns back thus works as with any other decoder.

Letters: B batch, T length, P columns before, V vocabulary.
"""

import ctypes
import logging
import threading
import weakref
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from zoo.engines.base import EngineDecoder, Opened, read_facts, threads_for
from zoo.errors import FolderError, InputError
from zoo.export.gguf import FILE, TOKENIZER_KEY
from zoo.nn import Cache

STEP = 256  # tokens that are computed at once
MOST_ROWS = 256  # its own limit

Numbers = NDArray[np.float32]


class LlamaDecoder(EngineDecoder):
    """A model of llama.cpp.

    Args:
        model: its handle, which is freed with this.
        facts: of the model.
        threads: that compute.
    """

    engine = "llama.cpp"

    def __init__(self, model: Any, facts: Mapping[str, Any], threads: int) -> None:
        super().__init__(facts)
        self.memory = Memory(model, self.config.vocab_size, threads)
        weakref.finalize(self, self.memory.close)
        self.lock = threading.Lock()  # there is one memory for all who call

    def read(self, ids: Tensor, cache: Cache) -> Tensor:
        """As of the base."""
        (B, T), P = ids.shape, cache.length
        if B > MOST_ROWS:
            raise InputError(f"llama.cpp reads {MOST_ROWS} texts side by side at most, got {B}")
        held = cache.memory[0, 0, :, 0, : P + T, 0]  # (B, P + T), whole numbers
        held[:, P:] = ids
        before = [0] * B if cache.padding is None else cache.padding.tolist()
        with self.lock:
            self.memory.reserve(B, cache.max_len)
            return self.memory.read(ids, held.numpy(), before)


class Memory:
    """What llama.cpp has worked out: a text for each of its sequences.

    Args:
        model: the handle.
        size: of the vocabulary.
        threads: that compute.
    """

    def __init__(self, model: Any, size: int, threads: int) -> None:
        self.model, self.size, self.threads = model, size, threads
        self.context: Any = None
        self.sequences = self.columns = 0  # that there is room for
        self.batch = llama_cpp.llama_batch_init(STEP, 0, 1)
        self.tokens, self.positions, counts, self.asked = (
            np.ctypeslib.as_array(field, (STEP,))
            for field in (self.batch.token, self.batch.pos, self.batch.n_seq_id, self.batch.logits)
        )
        counts[:] = 1
        # what is known: the columns of the rows of the last call, their padding and sequences
        self.held: Numbers = np.empty((0, 0), dtype=np.float32)
        self.before: list[int] = []
        self.places: list[int] = []
        self.length = 0

    def close(self) -> None:
        """Free all of it."""
        if self.context is not None:
            llama_cpp.llama_free(self.context)
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_model_free(self.model)

    def reserve(self, rows: int, columns: int) -> None:
        """Make room for so many texts of such a length; what it knows is lost when it grows."""
        if rows <= self.sequences and columns <= self.columns:
            return
        rows, columns = max(rows, self.sequences), max(columns, self.columns)
        columns = -columns // STEP * -STEP  # in whole steps
        settings = llama_cpp.llama_context_default_params()
        settings.n_seq_max, settings.n_ctx = rows, rows * columns
        settings.n_batch = settings.n_ubatch = STEP
        settings.n_threads = settings.n_threads_batch = self.threads
        settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        settings.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it rounds to half
        settings.kv_unified, settings.no_perf = False, True
        if self.context is not None:
            llama_cpp.llama_free(self.context)
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.sequences, self.columns = rows, columns
        self.held, self.before = np.empty((rows, columns), dtype=np.float32), []
        if self.context is None:
            self.sequences = 0
            raise InputError(f"llama.cpp finds no memory for {rows} texts of {columns} tokens")
        self.kept = llama_cpp.llama_get_memory(self.context)

    def read(self, ids: Tensor, held: Numbers, before: list[int]) -> Tensor:
        """Logits (B, T, V) of ids; zeros on padding.

        Args:
            ids: new ones (B, T).
            held: ids of all that each row has read (B, P + T), the new ones too.
            before: columns of padding of each row.
        """
        (B, T), P = ids.shape, held.shape[1] - ids.shape[1]
        known = before == self.before and self.length == P
        if known and np.array_equal(held[:, :P], self.held[:B, :P]):
            done = [max(P - unused, 0) for unused in before]
        else:
            done = self._arrange([text_of(held[row, before[row] : P]) for row in range(B)])
            self.held[:B, :P] = held[:, :P]
        places, self.before = self.places, []  # unless all of it goes well, nothing is known
        if all(unused + length == P for unused, length in zip(before, done, strict=True)):
            rows: list[list[int]] = ids.tolist()
        else:  # a text that has to be read again, or padding among what is new
            rows = [text_of(held[row, before[row] + done[row] :]) for row in range(B)]
        entries = [
            (token, done[row] + at, places[row], len(tokens) - at <= T)
            for row, tokens in enumerate(rows)
            for at, token in enumerate(tokens)
        ]
        steps = range(0, len(entries), STEP)
        parts = [self._decode(entries[start : start + STEP]) for start in steps]
        found = parts[0] if len(parts) == 1 else torch.cat(parts)
        if len(found) == B * T:
            logits = found.view(B, T, -1)
        else:
            logits = torch.zeros(B, T, self.size)
            counts = [min(len(tokens), T) for tokens in rows]
            for row, part in enumerate(torch.split(found, counts)):
                logits[row, T - len(part) :] = part
        self.held[:B, P : P + T] = held[:, P:]
        self.before, self.length = before, P + T
        return logits

    def _decode(self, entries: Sequence[tuple[int, int, int, bool]]) -> Tensor:
        """Compute some tokens; the logits (n, V) of those that are asked for.

        Args:
            entries: of each its id, its position, its sequence, and whether it is asked for.
        """
        n = len(entries)
        self.tokens[:n], self.positions[:n], places, asked = zip(*entries, strict=True)
        self.asked[:n] = asked
        for entry, place in enumerate(places):
            self.batch.seq_id[entry][0] = place
        self.batch.n_tokens = n
        if status := llama_cpp.llama_decode(self.context, self.batch):
            raise InputError(f"llama.cpp gave up on {n} tokens with status {status}")
        if not (count := sum(asked)):
            return torch.empty(0, self.size)
        found = llama_cpp.llama_get_logits(self.context)
        return torch.from_numpy(np.ctypeslib.as_array(found, (count, self.size))).clone()

    def _arrange(self, texts: list[list[int]]) -> list[int]:
        """Find a sequence for each text, and cut it where it goes on otherwise.

        A sequence that several texts begin with is copied.

        Returns:
            How many tokens of each text its sequence has.
        """
        known = {
            place: text_of(self.held[row, unused : self.length])
            for row, (place, unused) in enumerate(zip(self.places, self.before, strict=False))
        }
        same = [{place: common(text, other) for place, other in known.items()} for text in texts]
        best = [max(found, key=found.__getitem__, default=-1) for found in same]
        done = [found[place] if place >= 0 else 0 for found, place in zip(same, best, strict=True)]
        free = set(range(self.sequences))
        self.places = [-1] * len(texts)
        for row, place in enumerate(best):
            if place in free and done[row]:
                self.places[row] = place
                free.remove(place)
        for row, place in enumerate(best):
            if self.places[row] < 0:
                self.places[row] = min(free)
                free.remove(self.places[row])
                llama_cpp.llama_memory_seq_rm(self.kept, self.places[row], -1, -1)
                if done[row]:
                    llama_cpp.llama_memory_seq_cp(self.kept, place, self.places[row], -1, -1)
        for place, length in zip(self.places, done, strict=True):
            llama_cpp.llama_memory_seq_rm(self.kept, place, length, -1)
        for place in free:
            llama_cpp.llama_memory_seq_rm(self.kept, place, -1, -1)
        return done


def text_of(numbers: Numbers) -> list[int]:
    """Ids that are kept as numbers."""
    found: list[int] = numbers.astype(np.int32).tolist()
    return found


def common(a: list[int], b: list[int]) -> int:
    """How many tokens two texts begin with alike."""
    if a == b[: len(a)]:
        return len(a)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def opened(folder: Path) -> Opened:
    """The decoder of an exported folder.

    Raises:
        FolderError: it is damaged, or not of ours.
    """
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)  # it tells all it does
    llama_cpp.llama_backend_init()
    path = folder / FILE
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    if model is None:
        raise FolderError(
            f"{path} is damaged, or no GGUF that llama.cpp computes; remove its folder and write "
            "it again"
        )
    try:
        told = metadata(model)
        facts = read_facts(told, path)
        tokenizer = Tokenizer.from_str(told[TOKENIZER_KEY])
        module = LlamaDecoder(model, facts, threads_for(path.stat().st_size))
    except BaseException:
        llama_cpp.llama_model_free(model)
        raise
    return Opened(module, tokenizer, facts)


def metadata(model: Any) -> dict[str, str]:
    """What a GGUF says of the model it is of, but for its vocabulary."""

    def text(read: Any, entry: int) -> str:
        size = read(model, entry, None, 0) + 1
        room = ctypes.create_string_buffer(size)
        read(model, entry, room, size)
        return room.value.decode()

    return {
        text(llama_cpp.llama_model_meta_key_by_index, entry): text(
            llama_cpp.llama_model_meta_val_str_by_index, entry
        )
        for entry in range(llama_cpp.llama_model_meta_count(model))
    }

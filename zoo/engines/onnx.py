"""ONNX Runtime: the graphs that `zoo.export.onnx` writes; a decoder's keys and values are outside.

Letters: B batch, T length, P columns of the past, G key/value heads, E width of a head, L layers,
V vocabulary, C channels, I pixels a side.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from zoo.engines.base import EngineDecoder, EngineModule, Opened, read_facts, threads_for
from zoo.errors import FolderError
from zoo.export.onnx import DECODER, ENCODER, GRAPH
from zoo.folder import TOKENIZER
from zoo.loading import MOST_REASON
from zoo.nn import Cache, EncoderDecoder, SourceCache
from zoo.plugins import one_line


def step(session: Any, inputs: Sequence[str], given: Sequence[Any], cache: Cache, T: int) -> Tensor:
    """Run a graph that reads a past and gives it back with T more columns, which the cache gets.

    Args:
        session: of ONNX Runtime.
        inputs: names of what it takes: what is `given`, then the past, then what else it sees.
        given: what stands before the past, and what stands behind it.
        cache: what was read so far; its columns are filled, not counted.
        T: how many columns come.

    Returns:
        Logits (B, T, V).
    """
    before, behind = given
    P = cache.length
    filled = cache.memory[..., :P, :].flatten(0, 1)  # (2 L, B, G, P, E), each layer in turn
    past = filled.contiguous().numpy()
    values = dict(zip(inputs, [*before, *past, *behind], strict=True))
    logits, *present = session.run(None, values)
    new = np.stack([part[:, :, P:] for part in present])  # (2 L, B, G, T, E)
    room = cache.memory[..., P : P + T, :]
    room.copy_(torch.from_numpy(new).view_as(room))
    return torch.from_numpy(logits)


class OnnxDecoder(EngineDecoder):
    """A graph that reads ids and a past; keys and values are kept in the cache.

    Args:
        session: of ONNX Runtime.
        facts: of the model.
    """

    engine = "ONNX Runtime"

    def __init__(self, session: Any, facts: Mapping[str, Any]) -> None:
        super().__init__(facts)
        self.session = session
        self.inputs = [given.name for given in session.get_inputs()]

    def read(self, ids: Tensor, cache: Cache) -> Tensor:
        """As of the base."""
        B, T = ids.shape
        P = cache.length
        mask = np.ones((B, P + T), dtype=np.int64)
        if cache.padding is not None:
            mask[np.arange(P + T) < cache.padding.numpy()[:, None]] = 0
        return step(self.session, self.inputs, ([ids.numpy(), mask], []), cache, T)


class OnnxEncoder(EngineModule):
    """A graph that reads whole texts. Arguments as those of `OnnxDecoder`."""

    engine = "ONNX Runtime"

    def __init__(self, session: Any, facts: Mapping[str, Any]) -> None:
        super().__init__(facts)
        self.session = session

    def forward(self, ids: Tensor, real: Tensor | None = None) -> Tensor:
        """What its head says of token ids (B, T); `real` (B, T) is True where none is padding."""
        mask = torch.ones_like(ids) if real is None else real.long()
        given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        return torch.from_numpy(self.session.run(None, given)[0])


class OnnxPictures(OnnxEncoder):
    """A graph that looks at pictures."""

    def forward(self, pixels: Tensor) -> Tensor:  # type: ignore[override]
        """Logits of the labels of pixels (B, C, I, I), normalised."""
        return torch.from_numpy(self.session.run(None, {"pixel_values": pixels.numpy()})[0])


class OnnxEncoderDecoder(EngineModule, EncoderDecoder):
    """Two graphs: one reads a source, the other writes a target that looks at it.

    The memory (P, 2 L, G, S, E) of sources is what each layer of the target looks at. Letters
    besides: P sources, R targets, S source length.

    Args:
        reads: the session of the encoder's graph.
        writes: of the decoder's.
        facts: of the model.
    """

    engine = "ONNX Runtime"

    def __init__(self, reads: Any, writes: Any, facts: Mapping[str, Any]) -> None:
        super().__init__(facts)
        self.reads, self.writes = reads, writes
        self.inputs = [given.name for given in writes.get_inputs()]

    def read(self, source: Tensor, real: Tensor) -> Tensor:
        """As of the base."""
        given = {"input_ids": source.numpy(), "attention_mask": real.long().numpy()}
        return torch.from_numpy(np.stack(self.reads.run(None, given), axis=1))

    def write(
        self, ids: Tensor, memory: Tensor, real: Tensor | None, cache: SourceCache | None
    ) -> Tensor:
        """As of the base."""
        (R, T), (P, parts, _, S, _) = ids.shape, memory.shape
        if cache is None:
            cache = SourceCache.of(self.config, R, T, like=self.place)
        mask = torch.ones(P, S, dtype=torch.long) if real is None else real.long()

        def of_rows(of_sources: Tensor) -> Tensor:
            return of_sources.repeat_interleave(R // P, dim=0)

        def looked_at(layer: int) -> tuple[Tensor, Tensor]:
            return of_rows(memory[:, 2 * layer]), of_rows(memory[:, 2 * layer + 1])

        seen = [
            each
            for layer in range(parts // 2)
            for each in cache.source(layer, partial(looked_at, layer))
        ]
        given = [ids.numpy(), of_rows(mask).numpy()], [each.numpy() for each in seen]
        return step(self.writes, self.inputs, given, cache, T)


def opened(folder: Path) -> Opened:
    """The model of an exported folder.

    Raises:
        FolderError: it is damaged, or not of ours.
    """
    graphs = (GRAPH,) if (folder / GRAPH).exists() else (ENCODER, DECODER)
    sessions = [session_of(folder / graph) for graph in graphs]
    path = folder / graphs[0]
    facts = read_facts(sessions[0].get_modelmeta().custom_metadata_map, path)
    tokenizer = folder / TOKENIZER
    told = Tokenizer.from_file(str(tokenizer)) if tokenizer.exists() else None
    return Opened(_module(sessions, facts), told, facts)


def _module(sessions: Sequence[Any], facts: Mapping[str, Any]) -> EngineModule:
    """What the graphs are called by."""
    session = sessions[0]
    if len(sessions) > 1:
        return OnnxEncoderDecoder(session, sessions[1], facts)
    inputs = {given.name.partition(".")[0] for given in session.get_inputs()}
    if "past_key_values" in inputs:
        return OnnxDecoder(session, facts)
    return (OnnxPictures if "pixel_values" in inputs else OnnxEncoder)(session, facts)


def session_of(path: Path) -> Any:
    """A graph, opened by ONNX Runtime with as many threads as are worth it.

    Raises:
        FolderError: it is damaged.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    options.intra_op_num_threads = threads_for(size)
    try:
        return onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own kinds of errors, which derive from nothing else
        raise FolderError(
            f"{path} is no graph that can be run; remove its folder and write it again: "
            f"{one_line(error)[:MOST_REASON]}"
        ) from error

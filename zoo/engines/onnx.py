"""ONNX Runtime: the graphs that `zoo.export.onnx` writes; a decoder's keys and values are outside.

Letters: B batch, T length, P columns of the past, G key/value heads, E width of a head, L layers,
V vocabulary, C channels, I pixels a side.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from zoo.engines.base import EngineDecoder, EngineModule, Opened, read_facts, threads_for
from zoo.errors import FolderError
from zoo.export.onnx import GRAPH
from zoo.folder import TOKENIZER
from zoo.loading import MOST_REASON
from zoo.nn import Cache
from zoo.plugins import one_line


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
        filled = cache.memory[..., :P, :].flatten(0, 1)  # (2 L, B, G, P, E), each layer in turn
        past = filled.contiguous().numpy()
        given = dict(zip(self.inputs, [ids.numpy(), mask, *past], strict=True))
        logits, *present = self.session.run(None, given)
        new = np.stack([part[:, :, P:] for part in present])  # (2 L, B, G, T, E)
        room = cache.memory[..., P : P + T, :]
        room.copy_(torch.from_numpy(new).view_as(room))
        return torch.from_numpy(logits)


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


def opened(folder: Path) -> Opened:
    """The model of an exported folder.

    Raises:
        FolderError: it is damaged, or not of ours.
    """
    import onnxruntime

    path = folder / GRAPH
    options = onnxruntime.SessionOptions()
    size = sum(file.stat().st_size for file in folder.glob(f"{GRAPH}*"))
    options.intra_op_num_threads = threads_for(size)
    try:
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own kinds of errors, which derive from nothing else
        raise FolderError(
            f"{path} is no graph that can be run; remove its folder and write it again: "
            f"{one_line(error)[:MOST_REASON]}"
        ) from error
    facts = read_facts(session.get_modelmeta().custom_metadata_map, path)
    tokenizer = folder / TOKENIZER
    told = Tokenizer.from_file(str(tokenizer)) if tokenizer.exists() else None
    inputs = {given.name.partition(".")[0] for given in session.get_inputs()}
    kind: type[OnnxDecoder | OnnxEncoder] = OnnxEncoder
    if "past_key_values" in inputs:
        kind = OnnxDecoder
    elif "pixel_values" in inputs:
        kind = OnnxPictures
    return Opened(kind(session, facts), told, facts)

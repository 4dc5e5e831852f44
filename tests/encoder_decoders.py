"""What the tests of encoder-decoders share: pairs, `transformers`, cached targets."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from zoo.nn import EncoderDecoder, SourceCache

CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def widen(module: Any, tables: float = 0.2) -> Any:
    """Weights so large that every part shows in the logits: norms and biases too.

    Args:
        module: ours or theirs.
        tables: how much is added to what has "bias" in its name.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:  # tables of sines are frozen parameters
                parameter.add_((tables if "bias" in name else 0.2) * torch.randn_like(parameter))
    return module.eval()


def pairs(
    lengths: Sequence[int], T: int, *, tokens: tuple[int, int], pad: int, start: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sources of these lengths, padded on the right; which tokens are real; targets of T."""
    source = torch.randint(*tokens, (len(lengths), max(lengths)))
    ids = torch.randint(*tokens, (len(lengths), T))
    ids[:, 0] = start
    real = torch.arange(source.shape[1]) < torch.tensor(lengths)[:, None]
    return source.where(real, pad), real, ids


@torch.no_grad()
def logits_of(module: Any, source: Tensor, ids: Tensor, real: Tensor | None = None) -> Tensor:
    """What ours gives, or theirs; all but padding is real unless given."""
    found: Tensor
    if isinstance(module, EncoderDecoder):
        found = module(source, ids, real)
    else:
        found = theirs_of(module, source, ids, real).logits
    return found


@torch.no_grad()
def theirs_of(
    theirs: Any, source: Tensor, ids: Tensor, real: Tensor | None = None, **options: Any
) -> Any:
    """The output of a model of `transformers`."""
    real = source != theirs.config.pad_token_id if real is None else real
    return theirs(source, attention_mask=real.long(), decoder_input_ids=ids, **options)


def attention_of(theirs: Any, source: Tensor, ids: Tensor) -> list[Tensor]:
    """The weights of theirs in our order: of each layer to the target, then to the source."""
    theirs.set_attn_implementation("eager")
    output = theirs_of(theirs, source, ids, output_attentions=True)
    both = zip(output.decoder_attentions, output.cross_attentions, strict=True)
    return [weights for layer in both for weights in layer]


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of a checkpoint."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config, load_file(folder / "model.safetensors")


def opened(module: Any, folder: Path) -> Any:
    """What `transformers` opens of ours: nothing is missing, left over or of another shape."""
    import transformers

    settings, tensors = module.to_transformers()
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    theirs, report = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert [type(theirs).__name__] == settings["architectures"]
    assert not any(report.values()), report
    return theirs.eval()


def word_tokenizer(words: Sequence[str], special: int, unknown: str, end: str) -> Tokenizer:
    """One word, one token; a text ends with `end`. The first words are `special`."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unknown))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(list(words[:special]))
    made.post_processor = processors.TemplateProcessing(
        f"$A {end}", special_tokens=[(end, words.index(end))]
    )
    return made


def answers_of(
    theirs: Any, tokenizer: Tokenizer, texts: Sequence[str], **options: Any
) -> list[str]:
    """What `generate` of `transformers` makes of texts."""
    rows = [tokenizer.encode(text).ids for text in texts]
    pad = theirs.config.pad_token_id
    ids = torch.tensor([row + [pad] * (max(map(len, rows)) - len(row)) for row in rows])
    for name, value in {"forced_eos_token_id": None, **options}.items():
        setattr(theirs.generation_config, name, value)
    done = theirs.generate(ids, attention_mask=(ids != pad).long(), max_new_tokens=10)
    return [tokenizer.decode(row.tolist()) for row in done]


@torch.no_grad()
def check_pieces(
    module: EncoderDecoder, source: Tensor, ids: Tensor, pieces: Sequence[int]
) -> None:
    """Targets that go on from a cache have the logits of whole ones; the memory is read once."""
    whole, real = module(source, ids), module.real(source)
    cache = SourceCache.of(module.config, *ids.shape)
    memory, found = module.encode(source, real), []
    for piece in ids.split(list(pieces), 1):
        found.append(module.decode(piece, memory, real, cache))
        memory = torch.full_like(memory, math.nan)  # what it gave is kept by the cache
    torch.testing.assert_close(torch.cat(found, 1), whole, **CLOSE)
    assert cache.length == ids.shape[1]


@torch.no_grad()
def check_places(module: EncoderDecoder, source: Tensor, tokens: tuple[int, int]) -> None:
    """Three targets of each of three sources, side by side, and places changed among them."""
    ids, real = torch.randint(*tokens, (9, 8)), module.real(source)
    alone = source.repeat_interleave(3, 0)
    whole = module(alone, ids)
    places = torch.tensor([2, 2, 0, 3, 5, 5, 7, 6, 8])
    expected = module(alone, torch.cat([ids[places, :5], ids[:, 5:]], 1))
    assert (expected - whole)[:, 5:].abs().max() > 0.1  # places matter
    cache = SourceCache.of(module.config, 9, 8)
    memory = module.encode(source, real)  # (3, S, D): nothing is repeated
    torch.testing.assert_close(module.decode(ids, memory, real), whole, **CLOSE)
    for step in range(8):
        if step == 5:
            cache.reorder(places)
        found = module.decode(ids[:, step : step + 1], memory, real, cache)
        wanted = (whole if step < 5 else expected)[:, step : step + 1]
        torch.testing.assert_close(found, wanted, **CLOSE)

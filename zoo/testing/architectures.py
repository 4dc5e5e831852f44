"""Checks of an architecture: what all promise, and what decoders do besides.

A decoder is one whose `forward` takes a cache: it goes on from a text. Others, such as encoders,
see all of it at once. An encoder-decoder (`zoo.nn.EncoderDecoder`) is held to a decoder's promises
in what it writes to one source, and to an encoder's in how it reads sources. What reads pictures
takes `pixels` in place of token ids; an encoder-decoder may, in place of its source's.

Letters: B batch, T query length, S key length, V vocabulary, C channels.
"""

import inspect
import json
import tempfile
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.config import Config
from zoo.errors import ConfigError, ContextLengthError
from zoo.folder import WEIGHTS, load_into, read_weights, save_folder
from zoo.model import Model
from zoo.nn import Cache, EncoderDecoder, SourceCache, record_attention
from zoo.registry import resolve
from zoo.testing.kit import Failed, NotApplicable, Subject
from zoo.tokenization import build_tokenizer

V, LENGTH = 29, 12  # vocabulary and training length
SIZES = {  # the field's words, as far as a config has them
    "vocab_size": V,
    "max_seq_len": LENGTH,
    "d_model": 24,
    "n_layers": 2,
    "n_encoder_layers": 2,
    "n_heads": 3,
    "n_kv_heads": 3,
    "d_head": 8,
    "d_ff": 20,
    "dropout": 0.1,
    "image_size": 16,
}
TEXTS = 5  # of a model of pictures and texts
SOURCE = (7, 3, 11, 2, 5)  # what encoder-decoders write to
NOISE = 0.2  # added to fresh weights, so that every part of a module shows in its logits
CLOSE = 1e-4  # largest difference between equal logits in float32, as a share of their spread


def classes(subject: Subject) -> None:
    """The class and its `config_class`."""
    kind = resolve(subject.thing.target)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise Failed(f"{subject.thing.target} must be a class of torch.nn.Module, got {kind!r}")
    config = getattr(kind, "config_class", None)
    if not (isinstance(config, type) and issubclass(config, Config) and is_dataclass(config)):
        raise Failed(f"{kind.__name__}.config_class must be a zoo.Config, got {config!r}")
    parameters = config.__dataclass_params__  # type: ignore[attr-defined]
    if not (parameters.frozen and all(field.kw_only for field in fields(config))):
        raise Failed(f"{config.__name__} must be @dataclass(frozen=True, kw_only=True)")


def signature(subject: Subject) -> None:
    """`forward(self, ids, cache=None)`, or `ids` or `pixels` where the rest is optional."""
    if reads_sources(subject):
        return  # the base class says how it is called
    parameters = list(inspect.signature(resolve(subject.thing.target).forward).parameters.values())
    names = [parameter.name for parameter in parameters[1:]]
    if names[:1] not in (["ids"], ["pixels"]):
        raise NotApplicable(
            "forward takes neither ids nor pixels: the kit knows architectures of text, whose "
            "encoder-decoders are zoo.nn.EncoderDecoder, and of pictures"
        )
    if "cache" in names and (names[1] != "cache" or parameters[2].default is not None):
        raise Failed("forward must read forward(self, ids, cache=None)")
    if any(parameter.default is parameter.empty for parameter in parameters[2:]):
        raise Failed(f"forward must do with {names[0]} alone: give its other arguments defaults")


def reads_sources(subject: Subject) -> bool:
    """Whether it is an encoder-decoder."""
    return issubclass(resolve(subject.thing.target), EncoderDecoder)


def sees(subject: Subject) -> bool:
    """Whether it reads pictures, and writes nothing of them."""
    return looks(resolve(subject.thing.target)) and not reads_sources(subject)


def looks(kind: type[nn.Module]) -> bool:
    """Whether a class reads pictures; an encoder-decoder as its sources."""
    return "pixels" in inspect.signature(kind.forward).parameters


def meets(module: nn.Module) -> bool:
    """Whether it reads pictures and texts, and says how well they fit."""
    names = inspect.signature(type(module).forward).parameters
    return {"pixels", "ids"} <= names.keys() and not isinstance(module, EncoderDecoder)


def require_text(subject: Subject) -> None:
    """Raise for what reads pictures."""
    if sees(subject):
        raise NotApplicable("it reads pictures, not a text")


def decodes(subject: Subject) -> bool:
    """Whether it goes on from a text: a decoder, or an encoder-decoder from its target."""
    kind = resolve(subject.thing.target)
    return reads_sources(subject) or "cache" in inspect.signature(kind.forward).parameters


def require_decoder(subject: Subject) -> None:
    """Raise for what does not go on from a text."""
    if not decodes(subject):
        raise NotApplicable("forward takes no cache: it is no decoder")


def builds(subject: Subject) -> None:
    """From the kit's sizes and those the entry gives as `tiny`."""
    module = make(subject)
    for name in ("config",) if sees(subject) else ("config", "max_len"):
        if not hasattr(module, name):
            raise Failed(f"{type(module).__name__} has no attribute {name}")


def config(subject: Subject) -> None:
    """Plain values there and back; frozen; near misses of keys named."""
    made = make(subject).config
    kind = type(made)
    values = made.to_dict()
    again = kind.from_dict(json.loads(json.dumps(values)))
    if again.to_dict() != values:
        raise Failed(f"{kind.__name__} comes back from JSON as {again}, it was {made}")
    try:
        kind.from_dict({**values, "no_such_key": 1})
    except ConfigError:
        pass
    else:
        raise Failed(f"{kind.__name__} takes a key that it does not have: no_such_key")
    try:
        setattr(made, next(iter(values)), 1)
    except FrozenInstanceError:
        return
    raise Failed(f"{kind.__name__} can be changed after it is made")


def shapes(subject: Subject) -> None:
    """Logits in the module's own precision, the input left as it was."""
    module, any_shape = make(subject), not decodes(subject)
    for B, T in ((1, 1), (3, 1), (1, LENGTH), (2, LENGTH), (4, 5)):
        ids = inputs(module, B, T)
        before = ids.clone()
        logits = forward(module, ids)
        wanted = (B, T, V)
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
        if shape != wanted and not (any_shape and shape[:1] == (B,)):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise Failed(f"ids {(B, T)} give {found}, logits must be (B, T, V) = {wanted}")
        if meets(module) and shape != (B, TEXTS):
            raise Failed(f"{B} pictures and {TEXTS} texts give {shape}, must be (B, texts)")
        if sees(subject) and not meets(module) and shape != (B, len(module.config.labels)):
            raise Failed(f"{B} pictures give {shape}, logits must be (B, labels)")
        if logits.dtype != torch.float32 or not logits.isfinite().all():
            raise Failed(f"{tuple(ids.shape)} give logits of {logits.dtype}, or not all are finite")
        if not torch.equal(ids, before):
            raise Failed("forward changes its input in place")


def deterministic(subject: Subject) -> None:
    """No dropout, no noise, no state kept from the text before."""
    module = make(subject)
    ids = inputs(module, 2)
    first = forward(module, ids)
    forward(module, inputs(module, 3))
    if not torch.equal(forward(module, ids), first):
        raise Failed("the same input gives other logits the second time, in eval mode")


def causal(subject: Subject) -> None:
    """Changing token t leaves the logits before t as they are; an encoder's see the whole text."""
    module = make(subject)
    if sees(subject):
        pixels = inputs(module, 1)
        changed = pixels.clone()
        for corner in (0, -1):
            changed[..., corner, corner] += 1
            if torch.equal(forward(module, changed), forward(module, pixels)):
                raise Failed("another pixel in a corner leaves the logits as they are")
        return
    if reads_sources(subject) and looks(type(module)):
        pixels = sources_of(module)
        for corner in (0, -1):
            changed = pixels.clone()
            changed[..., corner, corner] += 1
            if torch.equal(module.encode(changed), module.encode(pixels)):
                raise Failed("another pixel in a corner leaves what is read as it is")
    elif reads_sources(subject):
        source = torch.tensor([SOURCE])
        seen = module.encode(source)
        for t in range(1, len(SOURCE)):
            changed = source.clone()
            changed[0, t] = source[0, t] + 1
            if torch.equal(module.encode(changed)[:, 0], seen[:, 0]):
                raise Failed(f"another source token {t} leaves the first as it is: it is not seen")
    ids = random_ids(1, LENGTH)
    before = forward(module, ids)
    if not decodes(subject):
        changed = ids.clone()
        changed[0, -1] = ids[0, -1] % (V - 1) + 1
        if torch.equal(forward(module, changed)[:, 0], before[:, 0]):
            raise Failed("another last token leaves the first result as it is: it is not seen")
        return
    for t in range(1, LENGTH):
        changed = ids.clone()
        changed[0, t] = ids[0, t] % (V - 1) + 1
        after = forward(module, changed)
        same(after[:, :t], before[:, :t], f"another token {t} changes logits before it")


def rows_alone(subject: Subject) -> None:
    """No row of a batch looks at another."""
    module = make(subject)
    ids = inputs(module, 4)
    together = forward(module, ids)
    for row in range(len(ids)):
        alone = forward(module, ids[row : row + 1])
        same(together[row : row + 1], alone, f"row {row} has other logits in a batch than alone")


def cached(subject: Subject) -> None:
    """Keys and values kept, whatever the pieces."""
    require_decoder(subject)
    module = make(subject)
    ids = random_ids(3, LENGTH)
    whole = forward(module, ids)
    for pieces in ([LENGTH], [1] * LENGTH, [5, 1, 1, LENGTH - 7], [1, LENGTH - 1]):
        logits = in_pieces(module, ids, pieces)
        same(logits, whole, f"pieces of {pieces} tokens through a cache give other logits")


def padded(subject: Subject) -> None:
    """A short row beside long ones: padded on the left in a cache, on the right without one."""
    require_text(subject)
    module = make(subject)
    ids, padding = random_ids(4, LENGTH), torch.tensor([4, 0, LENGTH - 1, 7])
    ways = () if reads_sources(subject) else ([LENGTH], [LENGTH - 2, 1, 1], [1] * LENGTH)
    for pieces in ways:  # all targets of an encoder-decoder begin alike
        logits = in_pieces(module, ids, pieces, padding)
        for row, start in enumerate(padding.tolist()):
            alone = forward(module, ids[row : row + 1, start:])
            what = f"{start} columns of padding on the left change a row's logits"
            same(logits[row : row + 1, start:], alone, what)
    right = forward(module, ids)
    for row, length in enumerate((3, LENGTH, 1, 8)):
        alone = forward(module, ids[row : row + 1, :length])
        what = "padding on the right changes a row's logits"
        same(right[row : row + 1, :length], alone, what)


def padded_by_token(subject: Subject) -> None:
    """What an encoder is told by `config.pad_id`."""
    require_text(subject)
    sources = reads_sources(subject)
    if sources and looks(resolve(subject.thing.target)):
        raise NotApplicable("its sources are pictures, nothing of which is padding")
    if decodes(subject) and not sources:
        raise NotApplicable("a decoder's padding is told by its cache: see A315")
    module = make(subject)
    ids = random_ids(4, LENGTH) % (V - 2) + 1
    sizes = (3, LENGTH, 1, 8)
    for row, length in enumerate(sizes):
        ids[row, length:] = getattr(module.config, "pad_id", 0)
    if sources:
        written = random_ids(4, 5)
        with torch.no_grad():
            together = module(ids, written)
            for row, length in enumerate(sizes):
                alone = module(ids[row : row + 1, :length], written[row : row + 1])[0]
                same(together[row], alone, "padding of a source changes the logits to it")
        return
    together = forward(module, ids)
    for row, length in enumerate(sizes):
        alone = forward(module, ids[row : row + 1, :length])[0]
        found = together[row, :length] if together.dim() == 3 else together[row]
        same(found, alone, "padding on the right changes a row's logits")


def reordered(subject: Subject) -> None:
    """What beam search does: rows of the cache move, with their padding."""
    require_decoder(subject)
    module = make(subject)
    ids, more = random_ids(3, LENGTH - 3), random_ids(3, 2)
    order, padding = torch.tensor([2, 0, 0]), torch.tensor([0, 3, 5])
    if reads_sources(subject):
        padding = torch.zeros_like(padding)
    cache = cache_of(module, 3, LENGTH, padding)
    forward(module, ids, cache)
    cache.reorder(order)
    logits = forward(module, more, cache)
    for row, source in enumerate(order.tolist()):
        text = torch.cat([ids[source, padding[source] :], more[row]])[None]
        wanted = forward(module, text)[0, -2:]
        same(logits[row], wanted, "after cache.reorder(rows) a row does not go on as it should")


def lengths(subject: Subject) -> None:
    """`max_len` says the truth."""
    require_text(subject)
    module = make(subject)
    most = module.max_len
    if most is None:
        long = forward(module, random_ids(1, 3 * LENGTH))
        if not long.isfinite().all():
            raise Failed(f"max_len is None, but {3 * LENGTH} tokens give logits not finite")
        return
    if not isinstance(most, int) or most < LENGTH:
        raise Failed(f"max_len is {most!r}, it must be None or at least max_seq_len = {LENGTH}")
    ways: list[Callable[[Tensor], Any]] = [partial(forward, module)]
    if reads_sources(subject) and not looks(type(module)):
        ways.append(module.encode)
    for read in ways:
        read(random_ids(1, most))
        try:
            read(random_ids(1, most + 1))
        except ContextLengthError:
            continue
        raise Failed(
            f"{most + 1} tokens are read though max_len is {most}: raise ContextLengthError"
        )


def seeded(subject: Subject) -> None:
    """Training starts from `torch.manual_seed(recipe.seed)`."""
    one, other = make(subject), make(subject)
    for name, parameter in one.state_dict().items():
        if not torch.equal(parameter, other.state_dict()[name]):
            raise Failed(f"{name} differs between two modules made from one seed")


def gradients(subject: Subject) -> None:
    """A parameter without one never learns."""
    module = make(subject).train()
    ids = torch.cat([torch.arange(V), random_ids(7 * LENGTH - V)]).view(7, LENGTH)
    call(module, inputs(module, 7) if sees(subject) else ids).square().mean().backward()
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue  # a constant, such as sinusoids
        if parameter.grad is None or not parameter.grad.abs().max() > 0:
            raise Failed(f"no gradient reaches {name}")
        if not parameter.grad.isfinite().all():
            raise Failed(f"the gradient of {name} is not finite")


def learns(subject: Subject) -> None:
    """Four random rows, learned by heart: the next tokens, or random targets."""
    module = make(subject, noise=0.0, dropout=0.0).train()
    rows = random_ids(4, LENGTH + 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        given = inputs(module, 4) if sees(subject) else rows[:, :-1]
        logits = call(module, given).flatten(0, -2)  # (B T, V), or of an encoder (B, L)
        targets = rows[:, 1:].flatten()[: len(logits)] % logits.shape[-1]
        loss: Any = nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if not losses[-1] < 0.75 * losses[0]:
        raise Failed(
            f"80 steps take the loss on four rows from {losses[0]:.2f} to {losses[-1]:.2f}"
        )


def saved(subject: Subject) -> None:
    """Through a model folder; also when weights are tied."""
    module = make(subject)
    ids = inputs(module, 2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "model")
        values = module.config.to_dict()
        save_folder(folder, module=module, architecture=subject.thing.name, config=values)
        again = make(subject, seed=1)
        load_into(again, read_weights(folder / WEIGHTS), folder / WEIGHTS)
    if not torch.equal(forward(again, ids), forward(module, ids)):
        raise Failed("saved and loaded, it gives other logits: something is not in its state_dict")


def rounded(subject: Subject) -> None:
    """The root mean square of what 8 bits a number cost, against the spread of the logits."""
    module = make(subject)
    ids = inputs(module, 4)
    exact = forward(module, ids)
    rough = forward(module.bfloat16(), ids.bfloat16() if sees(subject) else ids)
    if rough.dtype != torch.bfloat16:
        raise Failed(f"in bfloat16 it gives logits of {rough.dtype}")
    error = ((rough.float() - exact).square().mean().sqrt() / exact.std()).item()
    if not error < 0.05:
        raise Failed(f"in bfloat16 its logits are off by {error:.0%} of their spread")


def attention(subject: Subject) -> None:
    """What `Model.attention` shows."""
    module = make(subject)
    with record_attention() as layers:
        forward(module, inputs(module, 2))
    if not layers:
        raise NotApplicable("it does not use zoo.nn.attend, so it has no attention maps")
    for number, weights in enumerate(layers):
        if (weights.sum(-1) - 1).abs().max() > 1e-4:
            raise Failed(f"attention rows of layer {number} do not sum to 1")
        square = weights.shape[-2:] == (LENGTH, LENGTH)
        if decodes(subject) and square and weights.triu(1).abs().max() > 0:
            raise Failed(f"layer {number} attends to what comes after")


def recorded(subject: Subject) -> None:
    """Shown is what happens."""
    module = make(subject)
    ids = inputs(module, 2)
    fused = forward(module, ids)
    with record_attention():
        plain = forward(module, ids)
    same(plain, fused, "with attention recorded it gives other logits")


def streamed(subject: Subject) -> None:
    """Through the pipeline: pieces joined, and a text in a batch, are the text."""
    require_decoder(subject)
    from zoo.pipelines.image_to_text import ImageToText
    from zoo.pipelines.text2text import Text2Text
    from zoo.pipelines.text_generation import TextGeneration

    words = [chr(ord("a") + index) for index in range(26)]
    text = " ".join(words) + "\n.\n"
    tokenizer = build_tokenizer(text, {"kind": "character"})
    module = make(subject, vocab_size=tokenizer.get_vocab_size())
    model = Model(
        name=subject.thing.name,
        module=module,
        config=module.config,
        tokenizer=tokenizer,
        pipeline=subject.thing.pipeline,
        card=None,
    )
    write: Any = (Text2Text if reads_sources(subject) else TextGeneration)(model)
    given: tuple[Any, Any] = ("z", "a b c")
    if looks(type(module)):
        write = ImageToText(model)
        given = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 200, np.uint8)
    options: dict[str, Any] = {"max_new_tokens": LENGTH - 5, "temperature": 0}
    whole = write(given[1], **options)
    pieces = "".join(write(given[1], stream=True, **options))
    if pieces != whole:
        raise Failed(f"streamed it writes {pieces!r}, at once {whole!r}")
    batch = write(list(given), **options)
    if batch[1] != whole:
        raise Failed(f"in a batch it writes {batch[1]!r}, alone {whole!r}")


def converted(subject: Subject) -> None:
    """`to_transformers`, then `from_transformers`."""
    kind = resolve(subject.thing.target)
    if not hasattr(kind, "to_transformers") or not hasattr(kind, "from_transformers"):
        if subject.thing.model_types:
            raise Failed(f"names model_types but {kind.__name__} lacks the two converters")
        raise NotApplicable("it has no converters")
    module = make(subject)
    try:
        settings, tensors = module.to_transformers()
    except ConfigError as error:
        raise NotApplicable(f"this config has no such layout: {error}") from error
    again = kind.from_transformers(settings, tensors).eval()
    ids = inputs(module, 2)
    same(forward(again, ids), forward(module, ids), "it comes back with other logits")


def make(subject: Subject, *, seed: int = 0, noise: float = NOISE, **changes: Any) -> Any:
    """A small module in eval mode.

    Raises:
        Failed: its config needs values that the kit does not know.
    """
    kind = resolve(subject.thing.target)
    config_class = kind.config_class
    known = {field.name for field in fields(config_class)}
    values = {name: value for name, value in SIZES.items() if name in known}
    if "n_heads" not in known:
        values.pop("d_head", None)
    values |= dict(subject.values) | {k: v for k, v in changes.items() if k in known}
    torch.manual_seed(seed)
    try:
        made = config_class.from_dict(values)
    except ConfigError as error:
        raise Failed(
            f"no small config: {error}. Give what it needs as Architecture(..., tiny=({{...}},))"
        ) from error
    module = kind(made)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(noise * torch.randn_like(parameter))
    return module.eval()


def random_ids(*shape: int) -> Tensor:
    """Token ids, the same in every run; none is 0, which may stand for padding."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(1, V, shape, generator=generator)


def inputs(module: Any, B: int, T: int = LENGTH) -> Tensor:
    """What a module reads: token ids (B, T), or pixels (B, C, size, size).

    Of an encoder-decoder what it has written: token ids.
    """
    if not looks(type(module)) or isinstance(module, EncoderDecoder):
        return random_ids(B, T)
    return random_pixels(module, B)


def random_pixels(module: Any, B: int) -> Tensor:
    """Pictures (B, C, size, size), the same in every run."""
    c = module.config
    generator = torch.Generator().manual_seed(B)
    return torch.randn(B, c.n_channels, c.image_size, c.image_size, generator=generator)


def sources_of(module: Any) -> Tensor:
    """The one source that an encoder-decoder writes to: token ids, or a picture."""
    if not looks(type(module)):
        return torch.tensor([SOURCE])
    like: Tensor = next(module.parameters())
    return random_pixels(module, 1).to(like)


def call(module: Any, ids: Tensor, cache: Cache | None = None) -> Any:
    """Logits; of an encoder-decoder those of targets to one source."""
    if isinstance(module, EncoderDecoder):
        return module.decode(ids, module.encode(sources_of(module)), None, cache)  # type: ignore[arg-type]
    if meets(module):  # pictures, to the same few texts
        return module(ids, random_ids(TEXTS, LENGTH))
    return module(ids) if cache is None else module(ids, cache)


def forward(module: Any, ids: Tensor, cache: Cache | None = None) -> Any:
    """Logits, without gradients."""
    with torch.no_grad():
        return call(module, ids, cache)


def cache_of(module: Any, rows: int, columns: int, padding: Tensor | None = None) -> Cache:
    """What keeps keys and values for a module."""
    kind = SourceCache if isinstance(module, EncoderDecoder) else Cache
    return kind.of(module.config, rows, columns, padding=padding)


def in_pieces(module: Any, ids: Tensor, pieces: list[int], padding: Tensor | None = None) -> Tensor:
    """Logits of ids that go through a cache piece by piece."""
    cache = cache_of(module, len(ids), ids.shape[1], padding)
    logits = torch.cat(
        [forward(module, piece, cache) for piece in torch.split(ids, pieces, 1)], dim=1
    )
    if cache.length != ids.shape[1]:
        raise Failed(f"the cache counts {cache.length} of {ids.shape[1]} tokens: cache.advance(T)")
    return logits


def same(found: Tensor, wanted: Tensor, what: str) -> None:
    """Raise unless two logits are equal, as closely as float32 can tell."""
    spread = max(1.0, wanted.abs().max().item())
    off = (found - wanted).abs().max().item()
    if not off <= CLOSE * spread:
        raise Failed(f"{what}: off by {off:.2g}")

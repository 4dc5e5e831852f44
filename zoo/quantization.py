"""`zoo.quantize`: a model of any architecture with weights of 8 or 4 bits."""

from torch import Tensor, nn

from zoo.card import Card
from zoo.errors import InputError
from zoo.model import Model, weights_hash
from zoo.nn.quantized import GROUP, KINDS, Int4Matrix, Int8Matrix, kind_of, place
from zoo.tuning.parts import share

LEAST = 4096  # numbers of a matrix that is worth it


def quantize(model: Model, kind: str = "int8") -> Model:
    """A model with quantised weights, called as the one that it is made of, which stays as it is.

    Quantised is every matrix of at least 4096 numbers: the weights of linear layers, and embeddings
    whether they are the output head or not. What is no matrix (norms, biases, convolutions) stays,
    and is shared by the two models. With `int4`, what is not the weight of a linear layer, or has a
    width that is no multiple of 32, has 8 bits.

    Args:
        model: of any architecture, without an adapter.
        kind: `int8` (weights of 8 bits, one scale for each row), `int4` (of 4 bits, one scale for
            each 32) or `dynamic-int8` (as `int8`, and activations are rounded to 8 bits too).

    Returns:
        The model `NAME-KIND`. Its card has no scores, since none were measured;
        `save_pretrained` writes its folder.

    Raises:
        InputError: an unknown kind, a model that is quantised, computes with an adapter, or has no
            matrix that is large enough.
    """
    if kind not in KINDS:
        raise InputError(f"Unknown quantisation {kind!r}. There is: {', '.join(KINDS)}")
    require_float(model, f"quantised to {kind}")
    if model.adapter is not None:
        raise InputError(
            f"{model.name} computes with an adapter: quantise what merge() makes of the two"
        )
    module = share(model.module)
    matrices = {
        name: parameter
        for name, parameter in module.named_parameters()
        if parameter.dim() == 2 and parameter.is_floating_point() and parameter.numel() >= LEAST
    }
    if not matrices:
        raise InputError(f"{model.name} has no matrix of {LEAST} numbers: it is small as it is")
    embedded = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    multiplied = {id(part.weight) for part in module.modules() if isinstance(part, nn.Linear)}
    quantized: dict[str, Tensor] = {}
    for name, weight in matrices.items():
        way = KINDS[kind]
        linear = id(weight) in multiplied - embedded and weight.shape[1] % GROUP == 0
        if way is Int4Matrix and not linear:
            way = Int8Matrix
        quantized[name] = way.of(weight)
    place(module, quantized, model.name)
    return Model(
        name=f"{model.name}-{kind}",
        module=module.eval(),
        config=model.config,
        tokenizer=model.tokenizer,
        pipeline=model.pipeline,
        card=None if model.card is None else _card(model.card, model.name, kind),
    )


def require_float(model: Model, what: str) -> None:
    """Raise `InputError` for a quantised model that cannot be `what`."""
    if (kind := kind_of(model.module)) is not None:
        raise InputError(
            f"{model.name} has {kind} weights already, and is not {what}: take the model that it "
            "was made of"
        )


def _card(card: Card, name: str, kind: str) -> Card:
    """The card of a quantised model: what holds of the one it is made of, and no score of it."""
    ours = {key: value for key, value in card.data["txzoo"].items() if key != "standard_error"}
    ours |= {"name": f"{name}-{kind}", "summary": f"{card.summary or name}, {kind} weights"}
    data = {key: value for key, value in card.data.items() if key != "model-index"}
    digest = weights_hash(card)
    text = (
        f"\n# {name}-{kind}\n\n`{name}` (weights of sha256 `{digest}`) with {kind} weights, by "
        f"`zoo.quantize`. `zoo.load` reads it. Its scores were not measured; `txzoo eval` does, "
        f"and `txzoo quantize {name}` shows them beside those of `{name}`, whose card follows.\n\n"
    )
    text += card.text.lstrip("\n")
    return Card(data=data | {"txzoo": ours}, text=text, path=card.path)

"""Checks of a model folder: the card, the files it vouches for, the model they make."""

from zoo.card import Card
from zoo.data import PICTURED
from zoo.folder import RECIPE, check_files, find_weights
from zoo.loading import load
from zoo.model import Model
from zoo.plugins import NAME
from zoo.registry import registry
from zoo.testing.kit import Failed, NotApplicable, Subject
from zoo.testing.static import NAMED_BY_HAND, require_spdx


def card(subject: Subject) -> None:
    """Front matter as a card must have it."""
    found = card_of(subject)
    if not NAME.fullmatch(found.name):
        raise Failed(f"the name {found.name!r} is not lower case letters, digits and hyphens")


def words(subject: Subject) -> None:
    """Licence, summary, example; names that somebody provides."""
    found, known = card_of(subject), registry()
    if found.license == NAMED_BY_HAND:
        if not found.data.get("license_name"):
            raise Failed("license is other: say which in license_name")
    else:
        require_spdx(found.license)
    for field in ("summary", "example"):
        if field == "example" and found.pipeline in PICTURED:
            continue  # a picture is no text that a card could hold
        if not getattr(found, field):
            raise Failed(f"txzoo.{field} is missing; listings and the gallery show it")
    known.architectures.get(found.architecture)
    known.pipelines.get(found.pipeline)
    if found.task is not None:
        known.tasks.get(found.task)


def recipe(subject: Subject) -> None:
    """The recipe beside the card names the card's model, architecture and task."""
    from zoo.training.recipe import Recipe

    found = card_of(subject)
    path = subject.thing / RECIPE
    if not path.is_file():
        raise NotApplicable("it has no recipe")
    made = Recipe.read(path)
    ours = (found.name, found.architecture, found.task)
    theirs = (made.name, made.architecture, made.task)
    if ours != theirs:
        raise Failed(f"the card says {ours}, its recipe {theirs}")


def files(subject: Subject) -> None:
    """Hashes and sizes."""
    found = trained(subject)
    find_weights(subject.thing)
    check_files(found, subject.thing)


def weights(subject: Subject) -> None:
    """It loads."""
    model_of(subject)


def parameters(subject: Subject) -> None:
    """Counted, tied ones once."""
    claimed = card_of(subject).parameters
    found = sum(parameter.numel() for parameter in model_of(subject).module.parameters())
    if claimed != found:
        raise Failed(f"txzoo.parameters is {claimed}, the module has {found}")


def errors(subject: Subject) -> None:
    """A score says how sure it is."""
    found = card_of(subject)
    if not found.scores:
        raise NotApplicable("it has no scores yet")
    for score in found.scores:
        if score.standard_error is None:
            raise Failed(f"{score.name} on {score.split} has no standard error")


def writes(subject: Subject) -> None:
    """Its example through its pipeline."""
    model = model_of(subject)
    assert model.card is not None
    example = model.card.example or ""
    if model.pipeline == "text-classification":
        one, other = model(example), model(example)
        if one != other or one["label"] not in model.config.labels:
            raise Failed(f"asked twice, it answers {one!r}, then {other!r}")
        return
    if model.pipeline != "text-generation":
        raise NotApplicable(f"the kit does not call {model.pipeline} models so far")
    first, second = (model(example, max_new_tokens=8, temperature=0) for _ in range(2))
    if first != second:
        raise Failed(f"at temperature 0 it writes {first!r}, then {second!r}")
    if not first.startswith(example.rstrip()) or len(first) <= len(example):
        raise Failed(f"it does not go on from its example {example!r}: {first!r}")


def card_of(subject: Subject) -> Card:
    """The card of a folder."""
    return Card.read(subject.thing)


def trained(subject: Subject) -> Card:
    """The card, when the weights lie beside it."""
    found = card_of(subject)
    if not found.trained:
        raise NotApplicable(f"it has no weights yet: txzoo train {found.name} makes them")
    if found.hub is not None:
        raise NotApplicable(f"its files are on the Hub: txzoo pull {found.name} gets them")
    if not found.installed:
        raise NotApplicable("it is an adapter whose base is on the Hub")
    return found


def model_of(subject: Subject) -> Model:
    """The model of a folder, loaded once a session."""
    key = f"model {subject.thing}"
    if key not in subject.shared:
        trained(subject)
        subject.shared[key] = load(subject.thing.absolute())
    model: Model = subject.shared[key]
    return model

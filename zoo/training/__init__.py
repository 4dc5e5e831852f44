"""From a recipe to a model folder."""

from zoo.training.recipe import Recipe, TrainingSettings

__all__ = ["Recipe", "TrainingSettings", "train"]


def __getattr__(name: str) -> object:
    if name == "train":  # the loop needs torch, a recipe does not
        from zoo.training.loop import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

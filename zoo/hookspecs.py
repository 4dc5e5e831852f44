"""What a plugin may provide, and the hooks it provides it through.

A plugin is a module named by an entry point of group `txzoo`. It implements any of these hooks with
`@zoo.hookimpl`. What it returns is a table of strings: a target such as
`"zoo_alibi.model:AlibiDecoder"` is imported when it is used.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pluggy

hookspec = pluggy.HookspecMarker("txzoo")
hookimpl = pluggy.HookimplMarker("txzoo")

# A plugin may say `TXZOO_HOOKS = 1`: the version of the hooks it was written for, 1 unless said.
# The version goes up when a hook's arguments or what it must return change, see docs/stability.md.
HOOKS_VERSION = 1
OLDEST_HOOKS_VERSION = 1
RENAMED_HOOKS: dict[str, str] = {}  # old name to new; the old one works, and warns


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something a plugin provides under a name.

    Attributes:
        name: lower case with hyphens.
        target: what it is, as `"package.module:Class"`, imported on first use.
        summary: one line for listings.
        expected_failures: checks of the conformance kit that it does not pass, and why: number to
            reason. One that does pass is then a failure.
    """

    name: str = field(kw_only=False)
    target: str
    summary: str = ""
    expected_failures: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Architecture(Entry):
    """How inputs become logits: an `nn.Module` class whose `config_class` is a frozen `zoo.Config`.

    Attributes:
        paper: where the idea comes from, as a link or an arXiv number.
        model_types: `model_type`s of the `transformers` checkpoints `from_transformers` reads.
        pipeline: how such a checkpoint is called when its head does not say.
        tiny: values of small configs that the conformance kit tries, beside its own for the field's
            words; one for each variant that deserves it.
        brought: names of models that are not here until a command brings them, and that command.
    """

    paper: str = ""
    model_types: tuple[str, ...] = ()
    pipeline: str = "text-generation"
    tiny: tuple[Mapping[str, Any], ...] = field(default=({},), hash=False)
    brought: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class Task(Entry):
    """A data set with its splits, preprocessing and metrics.

    Attributes:
        pipeline: the pipeline that models of this task are called through.
        metrics: names of what it measures, the first one is the headline.
        license: licence of the data, in the Hub's spelling.
        studies: plans of studies on it; see `zoo.evaluation.study`.
    """

    pipeline: str
    metrics: tuple[str, ...]
    license: str
    studies: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pipeline(Entry):
    """How a person calls a model, named by the Hub's `pipeline_tag`."""


@dataclass(frozen=True, kw_only=True)
class Tuning(Entry):
    """A way of adapting a trained model.

    The target is called as `target(module, **options)`, with a trained module in evaluation mode
    and the options that the user gives, each of them a keyword with a default. It changes the
    module in place and returns it: the same inputs, outputs of the same shape, and every parameter
    that was there under its name. What wants a gradient then (`requires_grad`) is what is trained,
    and all that is saved; `target(module, **options)` on the same base must make the same names
    and shapes again. It raises `ConfigError` on options that cannot work, and where there is
    nothing to train.

    Two things it may add to the module: a function `set_progress(share)`, which is called before
    each training step with the share of the steps that are done; and layers with a method
    `merge()`, which gives the plain layer that computes the same.
    """


@dataclass(frozen=True, kw_only=True)
class View(Entry):
    """How a pipeline looks in the gallery; `name` is the pipeline's."""


class Hooks:
    """The hooks; each one is optional."""

    @hookspec
    def txzoo_architectures(self) -> Iterable[Architecture]:
        """Architectures this plugin brings."""
        raise NotImplementedError

    @hookspec
    def txzoo_tasks(self) -> Iterable[Task]:
        """Tasks this plugin brings."""
        raise NotImplementedError

    @hookspec
    def txzoo_models(self) -> Iterable[Path]:
        """Model folders: complete, or a card that points to the Hub, or a card and a recipe."""
        raise NotImplementedError

    @hookspec
    def txzoo_pipelines(self) -> Iterable[Pipeline]:
        """New ways of calling a model."""
        raise NotImplementedError

    @hookspec
    def txzoo_tunings(self) -> Iterable[Tuning]:
        """New ways of adapting a model; `Tuning` says what a target takes and returns."""
        raise NotImplementedError

    @hookspec
    def txzoo_commands(self, cli: Any) -> None:
        """Further `txzoo` commands; `cli` is the click group they are added to."""
        raise NotImplementedError

    @hookspec
    def txzoo_gallery_views(self) -> Iterable[View]:
        """How a new pipeline looks in the gallery."""
        raise NotImplementedError

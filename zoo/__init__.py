"""txzoo: a plugin-based zoo of transformer models. Code comes from plugins, weights are only data.

The public names are resolved on first use, so that `import zoo` needs the standard library only.
"""

TYPE_CHECKING = False  # what typing.TYPE_CHECKING is, without importing typing
if TYPE_CHECKING:
    from zoo import errors as errors
    from zoo.card import Card as Card
    from zoo.chat import Chat as Chat
    from zoo.config import Config as Config
    from zoo.errors import ZooError as ZooError
    from zoo.evaluation.compare import compare as compare
    from zoo.evaluation.evaluate import evaluate as evaluate
    from zoo.evaluation.verify import verify as verify
    from zoo.hookspecs import Architecture as Architecture
    from zoo.hookspecs import Pipeline as Pipeline
    from zoo.hookspecs import Task as Task
    from zoo.hookspecs import Tuning as Tuning
    from zoo.hookspecs import View as View
    from zoo.hookspecs import hookimpl as hookimpl
    from zoo.loading import create as create
    from zoo.loading import info as info
    from zoo.loading import list_architectures as list_architectures
    from zoo.loading import list_models as list_models
    from zoo.loading import list_pipelines as list_pipelines
    from zoo.loading import list_plugins as list_plugins
    from zoo.loading import list_tasks as list_tasks
    from zoo.loading import load as load
    from zoo.model import Model as Model
    from zoo.publishing import publish as publish
    from zoo.quantization import quantize as quantize
    from zoo.training import train as train

__version__ = "0.1.0"

_HOMES = {
    "Architecture": "zoo.hookspecs",
    "Card": "zoo.card",
    "Chat": "zoo.chat",
    "Config": "zoo.config",
    "Model": "zoo.model",
    "Pipeline": "zoo.hookspecs",
    "Task": "zoo.hookspecs",
    "Tuning": "zoo.hookspecs",
    "View": "zoo.hookspecs",
    "ZooError": "zoo.errors",
    "compare": "zoo.evaluation.compare",
    "create": "zoo.loading",
    "evaluate": "zoo.evaluation",
    "hookimpl": "zoo.hookspecs",
    "info": "zoo.loading",
    "list_architectures": "zoo.loading",
    "list_models": "zoo.loading",
    "list_pipelines": "zoo.loading",
    "list_plugins": "zoo.loading",
    "list_tasks": "zoo.loading",
    "load": "zoo.loading",
    "publish": "zoo.publishing",
    "quantize": "zoo.quantization",
    "train": "zoo.training",
    "verify": "zoo.evaluation",
}

__all__ = [  # noqa: F822 - resolved by __getattr__
    "Architecture",
    "Card",
    "Chat",
    "Config",
    "Model",
    "Pipeline",
    "Task",
    "Tuning",
    "View",
    "ZooError",
    "__version__",
    "compare",
    "create",
    "errors",
    "evaluate",
    "hookimpl",
    "info",
    "list_architectures",
    "list_models",
    "list_pipelines",
    "list_plugins",
    "list_tasks",
    "load",
    "publish",
    "quantize",
    "train",
    "verify",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "errors":
        return import_module("zoo.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

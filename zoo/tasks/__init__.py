"""What a task is, and the bases that task plugins build on."""

from zoo.tasks.base import BaseTask, Batches
from zoo.tasks.classification import TextClassification
from zoo.tasks.language_modeling import LanguageModeling, TokenBatches, token_scores

__all__ = [
    "BaseTask",
    "Batches",
    "LanguageModeling",
    "TextClassification",
    "TokenBatches",
    "token_scores",
]

"""What a task is, and the bases that task plugins build on."""

from zoo.tasks.base import BaseTask, Batches
from zoo.tasks.classification import TextClassification
from zoo.tasks.labelled_file import LabelledFile
from zoo.tasks.language_modeling import LanguageModeling, TokenBatches, token_scores
from zoo.tasks.masked_language import MaskedLanguageModeling

__all__ = [
    "BaseTask",
    "Batches",
    "LabelledFile",
    "LanguageModeling",
    "MaskedLanguageModeling",
    "TextClassification",
    "TokenBatches",
    "token_scores",
]

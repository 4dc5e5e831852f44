"""What a task is, and the bases that task plugins build on."""

from zoo.tasks.base import BaseTask, Batches
from zoo.tasks.captioning import Captioning
from zoo.tasks.classification import TextClassification
from zoo.tasks.contrastive import Contrastive
from zoo.tasks.conversation_file import ConversationFile
from zoo.tasks.image_classification import ImageClassification, Pictures
from zoo.tasks.instruction import InstructionTuning
from zoo.tasks.labelled_file import LabelledFile
from zoo.tasks.language_modeling import LanguageModeling, TokenBatches, token_scores
from zoo.tasks.masked_language import MaskedLanguageModeling
from zoo.tasks.pair_file import PairFile
from zoo.tasks.picture_folder import PictureFolder
from zoo.tasks.preference_file import PreferenceFile
from zoo.tasks.spans import SpanCorruption
from zoo.tasks.translation import Translation

__all__ = [
    "BaseTask",
    "Batches",
    "Captioning",
    "Contrastive",
    "ConversationFile",
    "ImageClassification",
    "InstructionTuning",
    "LabelledFile",
    "LanguageModeling",
    "MaskedLanguageModeling",
    "PairFile",
    "PictureFolder",
    "Pictures",
    "PreferenceFile",
    "SpanCorruption",
    "TextClassification",
    "TokenBatches",
    "Translation",
    "token_scores",
]

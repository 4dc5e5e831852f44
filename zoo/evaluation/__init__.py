"""Measuring models: scores, the texts that are worst, and whether a card's claims hold."""

from zoo.evaluation.errors import Errors, errors
from zoo.evaluation.evaluate import evaluate
from zoo.evaluation.translations import TranslationErrors, translation_errors
from zoo.evaluation.verify import Check, Report, verify

__all__ = [
    "Check",
    "Errors",
    "Report",
    "TranslationErrors",
    "errors",
    "evaluate",
    "translation_errors",
    "verify",
]

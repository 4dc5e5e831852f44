"""Measuring models: `evaluate` for a number, `errors` for texts, `verify` for a card's claims."""

from zoo.evaluation.errors import Errors, errors
from zoo.evaluation.evaluate import evaluate
from zoo.evaluation.verify import Check, Report, verify

__all__ = ["Check", "Errors", "Report", "errors", "evaluate", "verify"]

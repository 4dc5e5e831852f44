"""Measuring models: `evaluate` for a number, `verify` for what a card claims."""

from zoo.evaluation.evaluate import evaluate
from zoo.evaluation.verify import Check, Report, verify

__all__ = ["Check", "Report", "evaluate", "verify"]

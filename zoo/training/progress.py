"""How a long run speaks: a bar on a terminal, plain lines elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Progress of a number of steps, on standard error.

    Args:
        title: what is running.
        total: steps.
        enabled: False on all processes but the main one.
    """

    def __init__(self, title: str, total: int, *, enabled: bool = True) -> None:
        self.title, self.total, self.enabled = title, total, enabled
        self.console = Console(stderr=True)
        self.bar: Bar | None = None
        self.last_line = 0.0

    def __enter__(self) -> "Progress":
        if self.enabled and self.console.is_terminal:
            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[values]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total, values="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, step: int, **values: float) -> None:
        """Show a step and its values; without a terminal, a line every few seconds."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self.bar is not None:
            self.bar.update(self.task, completed=step, values=text)
        elif self.enabled and (
            step == self.total or time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES
        ):
            self.last_line = time.monotonic()
            print(f"{self.title}: step {step}/{self.total}  {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self.bar is not None:
            self.bar.console.print(text)
        elif self.enabled:
            print(f"{self.title}: {text}", file=sys.stderr, flush=True)

"""Progress of a run: a live line on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)
from rich.table import Column

_PLAIN_SECONDS = 5.0  # between plain lines
_WIDE = 120  # columns of a terminal that has room for a bar beside the words


class Progress:
    """Shows how far a run is. ``done`` of the ``total`` steps were done before this one began."""

    def __init__(
        self, unit: str, total: int, done: int = 0, console: Console | None = None
    ) -> None:
        self._unit = unit
        self._total = total
        self._done = done
        self._console = console or Console()
        self._started = time.monotonic()
        self._last_plain = -_PLAIN_SECONDS
        # On a dumb terminal rich shows the last state only.
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        # The words alone give way where the line is too long.
        words = TextColumn("{task.description}", table_column=Column(no_wrap=True, ratio=1))
        bar = [BarColumn(20)] if self._console.width >= _WIDE else []
        self._live = RichProgress(
            *bar,
            MofNCompleteColumn(),
            words,
            TimeRemainingColumn(),
            console=self._console,
            expand=True,
            disable=not self._is_live,
        )
        self._task = self._live.add_task("starting", total=total, completed=done)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, step: int, text: str) -> None:
        """Takes the newest step and what to say of it."""
        elapsed = time.monotonic() - self._started
        rate = max(step - self._done, 1) / max(elapsed, 1e-9)
        text = f"{text}  {rate:.1f} {self._unit}s/s"
        self._live.update(self._task, completed=step, description=text)
        if self._is_live:
            return
        if step == self._total or elapsed - self._last_plain >= _PLAIN_SECONDS:
            self._last_plain = elapsed
            left = (self._total - step) / rate
            width = len(str(self._total))
            line = f"{self._unit} {step:>{width}}/{self._total}  {text}  {left:.0f} s left"
            with suppress(OSError):  # a reader that went away, or a full disk, stops no run
                print(line, flush=True)

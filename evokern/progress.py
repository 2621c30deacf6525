"""Progress of a run: a live line on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

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

_PLAIN_SECONDS = 5.0  # between plain lines


class Progress:
    """Shows records of ``drivers.run.measure`` while a run of ``generations`` goes on."""

    def __init__(self, generations: int, console: Console | None = None) -> None:
        self._generations = generations
        self._console = console or Console()
        self._started = time.monotonic()
        self._last_plain = -_PLAIN_SECONDS
        self._live = RichProgress(
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._live.add_task("starting", total=generations)

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

    def show(self, record: dict[str, Any]) -> None:
        """Takes the newest record."""
        generation = record["generation"]
        elapsed = time.monotonic() - self._started
        rate = generation / max(elapsed, 1e-9)
        text = (
            f"fitness {record['fitness/best']:.4f} (median {record['fitness/median']:.4f})  "
            f"hold-out {record['holdout_accuracy/best']:.2%}  {rate:.1f} gen/s"
        )
        self._live.update(self._task, completed=generation, description=text)
        if self._console.is_terminal:
            return
        last = generation == self._generations
        if last or elapsed - self._last_plain >= _PLAIN_SECONDS:
            self._last_plain = elapsed
            left = (self._generations - generation) / rate
            width = len(str(self._generations))
            print(
                f"generation {generation:>{width}}/{self._generations}  {text}  {left:.0f} s left",
                flush=True,
            )

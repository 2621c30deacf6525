"""Records of a run for TensorBoard, on request (extra ``tensorboard``)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from evokern.errors import BackendError
from evokern.files import remove, storage_error
from evokern.metrics import step_of

FOLDER = "tensorboard"
_EVENTS = "events.out.tfevents.*"


class TensorBoard:
    """Writes every number of a record under its name.

    Its events are written anew from the ``records`` there are, so that a run that goes on from a
    checkpoint shows no record twice. Raises BackendError when TensorBoard is not installed,
    StorageError when it cannot write.
    """

    def __init__(self, run: Path, records: Sequence[dict[str, Any]]) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise BackendError(
                "tensorboard: it is not installed; try pip install 'evokern[tensorboard]'"
            ) from error
        self._folder = run / FOLDER
        remove(list(self._folder.glob(_EVENTS)))
        try:
            self._writer = Writer(str(self._folder))
        except OSError as error:
            raise storage_error(self._folder, error) from error
        for record in records:
            self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        """Adds one record."""
        step = step_of(record)
        try:
            for name, value in record.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except OSError as error:
            raise storage_error(self._folder, error) from error

    def close(self) -> None:
        """Closes the file."""
        with suppress(OSError):  # every record was flushed before
            self._writer.close()

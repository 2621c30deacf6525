"""The errors of evokern: each names the argument, what was expected, what came and the mend.

Every class also derives from the built-in exception a NumPy user would expect, so that
``except ValueError`` keeps working.
"""

from __future__ import annotations

from pathlib import Path


class EvokernError(Exception):
    """Base of all errors that evokern raises on purpose."""


class ShapeError(EvokernError, ValueError):
    """An array has the wrong number of axes or the wrong length along one of them."""


class DtypeError(EvokernError, TypeError):
    """An array has the wrong element type; nothing is converted silently."""


class LayoutError(EvokernError, ValueError):
    """An array's strides are not supported (the last axis must be contiguous)."""


class ArgumentError(EvokernError, ValueError):
    """A value is out of its range, unknown, or contradicts another argument."""


class BackendError(EvokernError, RuntimeError):
    """A back end, instruction set or precision was asked for that is not there."""


class MemoryLimitError(EvokernError, MemoryError):
    """A population does not fit the memory that is available."""


class DataError(EvokernError, OSError):
    """A data set could not be fetched, or a file is not what it should be."""


class CheckpointError(EvokernError, OSError):
    """A stored model or run cannot be read."""


class StorageError(EvokernError, OSError):
    """A file of a run cannot be written: the disk is full, a limit or a right is in the way."""


class FitnessError(EvokernError, ValueError):
    """Selection has nothing to go by: every individual's fitness is NaN."""


class ObjectiveError(EvokernError, RuntimeError):
    """A function that the user gave (objective, phenotype) failed; names the individual."""


class RunStopped(EvokernError):
    """A run was asked to stop by a signal, and has saved; ``signal`` is its number."""

    def __init__(self, folder: Path, step: str, signal: int) -> None:
        super().__init__(
            f"stopped after {step} and saved in {folder}; the same command goes on from there"
        )
        self.signal = signal


def message(argument: str, expected: str, got: str, mend: str = "") -> str:
    """The one wording of all errors: ``argument: expected ..., got ...; mend``.

    Example: ``parents: expected int32 [2, S] with entries < P=1000, got int64 [1000, 2];
    try parents.T.astype(int32)``.
    """
    return f"{argument}: expected {expected}, got {got}" + (f"; {mend}" if mend else "")

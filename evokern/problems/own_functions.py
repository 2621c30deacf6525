"""Objectives and phenotypes of the user's own, whose failures are traced to individuals."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.errors import EvokernError, ObjectiveError, message
from evokern.problems.objectives import LogitsObjective
from evokern.problems.phenotypes import Phenotype

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def fitness_by(objective: LogitsObjective, logits: F32, labels: I64, first: int) -> F32:
    """The objective's fitness float32 [S] of individuals from number ``first`` on.

    Raises ObjectiveError naming who failed.
    """
    try:
        fitness = np.asarray(objective(logits, labels))
    except EvokernError:
        raise
    except Exception as error:
        for slot in range(len(logits)):
            try:
                objective(logits[slot : slot + 1], labels)
            except Exception as own:
                raise ObjectiveError(
                    f"objective: failed on individual {first + slot}: {_reason(own)}"
                ) from own
        last = first + len(logits) - 1
        raise ObjectiveError(
            f"objective: failed on individuals {first} to {last} at once, though on none of them "
            f"alone: {_reason(error)}"
        ) from error
    if fitness.shape != (len(logits),) or fitness.dtype.kind not in "fiu":
        wanted = f"numbers [S={len(logits)}], one per individual (from {first} on)"
        raise ObjectiveError(message("objective", wanted, f"{fitness.dtype} {list(fitness.shape)}"))
    return np.asarray(fitness, np.float32)


def write_weights(phenotype: Phenotype, genome: F32, individual: int, out: F32) -> None:
    """The weights [G] that the phenotype makes of an individual's genome become ``out``.

    Raises ObjectiveError naming the individual.
    """
    try:
        weights = np.asarray(phenotype(genome))
    except Exception as error:
        raise ObjectiveError(
            f"phenotype: failed on individual {individual}: {_reason(error)}"
        ) from error
    if weights.shape != out.shape or weights.dtype != np.float32:
        wanted = f"float32 [G={len(out)}] of individual {individual}"
        got = f"{weights.dtype} {list(weights.shape)}"
        raise ObjectiveError(message("phenotype", wanted, got))
    out[:] = weights


def name_of(function: Any) -> str:
    """What settings call it."""
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

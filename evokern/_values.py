"""Checks of values: names, integers, probabilities. Used by ``ops`` and ``lineage``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.errors import ArgumentError, DtypeError, message

_UINT32_MAX = 2**32 - 1
_UINT64_MAX = 2**64 - 1


def assign(settings: object, name: str, value: object) -> None:
    """Sets a field of frozen settings while they are made."""
    object.__setattr__(settings, name, value)


def one_of(name: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise ArgumentError(message(name, f"one of {list(names)}", repr(value)))


def integer(name: str, value: int, least: int, most: int) -> int:
    if type(value) is int and least <= value <= most:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DtypeError(message(name, "an int", f"{type(value).__name__} {value!r}"))
    if not least <= value <= most:
        raise ArgumentError(message(name, f"an int in [{least}, {most}]", str(value)))
    return int(value)


def counter_fields(seed: int, generation: int, first: int) -> None:
    """Raises an error unless the fields of Philox's key and counter can hold these."""
    integer("seed", seed, 0, _UINT64_MAX)
    integer("generation", generation, 0, _UINT32_MAX)
    integer("first", first, 0, _UINT32_MAX)


def boolean(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise DtypeError(message(name, "True or False", f"{type(value).__name__} {value!r}"))
    return value


def number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise DtypeError(message(name, "a number", f"{type(value).__name__} {value!r}"))
    return float(value)


def probability(name: str, value: float) -> float:
    number(name, value)
    if not 0.0 <= value <= 1.0:
        raise ArgumentError(message(name, "a probability in [0, 1]", repr(value)))
    return float(value)


def non_negative_number(name: str, value: float) -> float:
    if type(value) is float and 0.0 <= value < math.inf:
        return value
    number(name, value)
    if not (math.isfinite(value) and value >= 0):
        raise ArgumentError(message(name, "a finite number >= 0", repr(value)))
    return float(value)


def non_negative(name: str, array: npt.NDArray[Any]) -> None:
    bad = ~(np.isfinite(array) & (array >= 0))
    if bad.any():
        slot = int(bad.argmax())
        got = f"{name}[{slot}] = {array[slot]}"
        raise ArgumentError(message(name, "finite numbers >= 0", got))

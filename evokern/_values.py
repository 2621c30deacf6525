"""Checks of values: names, integers, probabilities. Used by ``ops`` and ``lineage``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern.errors import ArgumentError, DtypeError, message

_UINT32_MAX = 2**32 - 1
_UINT64_MAX = 2**64 - 1
_FLOAT32_MAX = float(np.finfo(np.float32).max)


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


def counter_fields(seed: int, generation: int, first: int) -> tuple[int, int, int]:
    """As Python's ints, which do not overflow; errors where Philox's fields cannot hold them."""
    return (
        integer("seed", seed, 0, _UINT64_MAX),
        integer("generation", generation, 0, _UINT32_MAX),
        integer("first", first, 0, _UINT32_MAX),
    )


def boolean(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise DtypeError(message(name, "True or False", f"{type(value).__name__} {value!r}"))
    return value


def number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise DtypeError(message(name, "a number", f"{type(value).__name__} {value!r}"))
    try:
        return float(value)
    except OverflowError:  # an int
        return math.inf if value > 0 else -math.inf


def probability(name: str, value: float) -> float:
    share = number(name, value)
    if not 0.0 <= share <= 1.0:
        raise ArgumentError(message(name, "a probability in [0, 1]", repr(value)))
    return share


def non_negative_number(name: str, value: float) -> float:
    if type(value) is float and 0.0 <= value <= _FLOAT32_MAX:
        return value
    converted = number(name, value)
    if not 0.0 <= converted <= _FLOAT32_MAX:
        raise ArgumentError(
            message(name, "a finite number >= 0 that float32 can hold", repr(value))
        )
    return converted


def finite_number(name: str, value: float) -> float:
    converted = number(name, value)
    if not abs(converted) <= _FLOAT32_MAX:
        raise ArgumentError(message(name, "a finite number that float32 can hold", repr(value)))
    return converted


def non_negative(name: str, array: npt.NDArray[Any]) -> None:
    bad = ~(np.isfinite(array) & (array >= 0))
    if bad.any():
        slot = int(bad.argmax())
        got = f"{name}[{slot}] = {array[slot]}"
        raise ArgumentError(message(name, "finite numbers >= 0", got))

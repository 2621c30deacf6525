"""Hyper-parameters over generations. No libm: the same numbers on every machine."""

from __future__ import annotations

from decimal import Context, Decimal

import numpy as np

_DIGITS = Context(prec=40)


def exponential_decay(start: float, rate: float, generation: int) -> np.float32:
    """start * rate^generation (Eq. 5.3 with k = 1), by decimal arithmetic, rounded once."""
    power = _DIGITS.power(Decimal(repr(rate)), Decimal(generation))
    return np.float32(_DIGITS.multiply(Decimal(repr(start)), power))

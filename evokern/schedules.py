"""Hyper-parameters over generations. No libm: the same numbers on every machine."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Protocol

import numpy as np

from evokern.backends.reference.random import cosine

_DIGITS = Context(prec=40)


class SigmaSettings(Protocol):
    """The settings that a schedule of sigma has (`evokern ea --help` explains them)."""

    @property
    def sigma(self) -> float: ...
    @property
    def sigma_schedule(self) -> str: ...
    @property
    def sigma_decay(self) -> float: ...
    @property
    def sigma_period(self) -> int: ...
    @property
    def sigma_exponent(self) -> float: ...
    @property
    def sigma_min(self) -> float: ...


def sigma_at(settings: SigmaSettings, generation: int) -> np.float32:
    """The schedule's mutation strength in generation 1, 2, ... (Eq. 5.3)."""
    start, step, period = settings.sigma, generation - 1, settings.sigma_period
    if settings.sigma_schedule == "exponential":
        return exponential_decay(start, settings.sigma_decay, step, period=period)
    if settings.sigma_schedule == "power":
        return power_decay(start, settings.sigma_exponent, step, period=period)
    if settings.sigma_schedule == "cosine":
        return cosine_cycle(start, settings.sigma_min, step, period=period)
    return np.float32(start)


def exponential_decay(start: float, rate: float, generation: int, *, period: int = 1) -> np.float32:
    """start * rate^(generation / period) (Eq. 5.3, k = period), in decimal with 40 digits.

    ``start`` and ``rate`` are what they are written as: 0.1 is a tenth.
    """
    exponent = _DIGITS.divide(Decimal(int(generation)), Decimal(int(period)))
    power = _DIGITS.power(Decimal(repr(float(rate))), exponent)
    return np.float32(_DIGITS.multiply(Decimal(repr(float(start))), power))


def power_decay(start: float, exponent: float, generation: int, *, period: int = 1) -> np.float32:
    """start * (1 + generation / period)^-exponent, in decimal with 40 digits (this project).

    Unlike the exponential decay it needs no end: how much sigma falls from generation g to 2 g does
    not depend on how long the run is.
    """
    base = _DIGITS.add(1, _DIGITS.divide(Decimal(int(generation)), Decimal(int(period))))
    power = _DIGITS.power(base, -Decimal(repr(float(exponent))))
    return np.float32(_DIGITS.multiply(Decimal(repr(float(start))), power))


def cosine_cycle(start: float, end: float, generation: int, *, period: int) -> np.float32:
    """end + (start - end) / 2 * (1 + cos(pi * t / period)), t = generation mod period.

    It falls from ``start`` towards ``end`` and starts anew every ``period`` generations
    (Loshchilov and Hutter, "SGDR", 2017, Eq. 5; the cyclic schedule of the authors' program).
    """
    turns = np.float32((generation % period) / period)  # of pi
    half = np.float32(0.5) * (np.float32(1) + cosine(turns))
    return np.float32(end) + (np.float32(start) - np.float32(end)) * half

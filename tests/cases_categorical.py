"""Calls of the ops of categorical search distributions, odd in size, memory or value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from cases import MEMORY, ODD_SIZES, SEED, Call, Case, F, case_maker, special_numbers

SHAPES = [(12, 3), (100, 10), (400, 20), (1, 1), (5, 1), (1, 257), (0, 3)]


def distributions(rows: int, choices: int, share_of_zeros: float = 0.0) -> np.ndarray:
    """Random rows that sum to 1."""
    rng = np.random.default_rng([rows, choices])
    values = rng.random((rows, choices), F) + F(1e-3)
    values[rng.random(values.shape) < share_of_zeros] = 0
    values[:, choices // 2] += F(0.1)
    return values / values.sum(axis=1, keepdims=True)


def masked(rows: int, choices: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 1 to K entries with anything where there is none, and the mask."""
    rng = np.random.default_rng([3, rows, choices])
    mask = rng.random((rows, choices)) < 0.4
    mask[np.arange(rows), rng.integers(0, choices, rows)] = False
    mask[0] = np.arange(choices) != choices - 1
    values = np.where(mask, F(0), distributions(rows, choices))
    values /= values.sum(axis=1, keepdims=True)
    values[mask] = special_numbers(rows, choices, share=0.8)[mask]
    return values, mask


def tiny_entries(rows: int, choices: int) -> np.ndarray:
    """Rows with entries near and below the unit of 2^-24, subnormals and zeros of both signs."""
    rng = np.random.default_rng([4, rows, choices])
    small = np.array([0.0, -0.0, 2**-149, 2**-127, *(k * 2.0**-26 for k in range(1, 9))], F)
    values = rng.choice(small, (rows, choices))
    values[np.arange(rows), rng.integers(0, choices, rows)] = 1
    return values


def _probabilities(shape: tuple[int, int], kind: str) -> tuple[np.ndarray, np.ndarray | None]:
    if kind == "masked":
        return masked(*shape)
    if kind == "tiny":
        return tiny_entries(*shape), None
    return distributions(*shape, share_of_zeros=0.3 if kind == "zeros" else 0.0), None


def _sample(
    shape: tuple[int, int] = (33, 5),
    samples: int = 4,
    *,
    kind: str = "",
    memory: str = "aligned rows",
    out_memory: str | None = None,
    **options: Any,
) -> Call:
    probabilities, mask = _probabilities(shape, kind)
    options = {"seed": SEED, "step": 7, "mask": mask} | options
    if out_memory is not None:
        out = MEMORY[out_memory](np.zeros((samples, shape[0]), F))
        options["out"] = out.view(np.int32)
    return (MEMORY[memory](probabilities), samples), options


def nes_sample_cases() -> Iterator[Case]:
    case = case_maker("nes_sample", _sample)
    for shape in (*SHAPES, *((n, 4) for n in ODD_SIZES), *((3, k) for k in ODD_SIZES)):
        yield case(f"shape {shape}", shape)
    for samples in (0, *ODD_SIZES):
        yield case(f"{samples} samples", samples=samples)
    for kind in ("masked", "tiny", "zeros"):
        yield case(f"{kind}, small", kind=kind)
        yield case(f"{kind}, 257 rows", (257, 9), kind=kind)
    for memory in MEMORY:
        yield case(memory, memory=memory)
        yield case(f"out {memory}", out_memory=memory)
    for place in ({"seed": 0}, {"seed": 2**64 - 1}, {"step": 0}, {"step": 2**32 - 1}):
        yield case(f"{place}", (257, 3), **place)
    yield case("long", (4097, 17), 16)


LOSSES = {
    "distinct": np.array([3, 1, 2, -5, 7, 0.5, -0.25, 4], F),
    "ties": np.array([1, 2, 1, 2, 2, 0, -0.0, 1], F),
    "special": np.array([np.nan, 1, np.inf, -np.inf, np.nan, 1, np.inf, 1e-45], F),
    "all nan": np.full(8, np.nan, F),
    "equal": np.full(8, 3, F),
}


def _update(
    shape: tuple[int, int] = (33, 5),
    losses: np.ndarray = LOSSES["distinct"],
    *,
    kind: str = "",
    memory: str = "aligned rows",
    out_memory: str | None = None,
    in_place: bool = False,
    **options: Any,
) -> Call:
    probabilities, mask = _probabilities(shape, kind)
    rng = np.random.default_rng([5, len(losses), *shape])
    there = np.ones(shape, np.bool_) if mask is None else ~mask
    ranks = rng.random((len(losses), *shape)) * there
    assignments = ranks.argmax(axis=2).astype(np.int32)
    probabilities = MEMORY[memory](probabilities)
    assignments = MEMORY[memory](assignments.view(F)).view(np.int32)
    options = {"learning_rate": 0.1, "min_probability": 0.0, "mask": mask} | options
    if out_memory is not None:
        options["out"] = MEMORY[out_memory](np.zeros(shape, F))
    if in_place:
        options["out"] = probabilities
    return (probabilities, assignments, losses), options


def nes_update_cases() -> Iterator[Case]:
    case = case_maker("nes_update", _update)
    for shape in (*SHAPES, *((n, 4) for n in ODD_SIZES), *((3, k) for k in ODD_SIZES)):
        yield case(f"shape {shape}", shape)
        yield case(f"shape {shape}, keep", shape, keep_minimum=True, min_probability=0.001)
    for (name, losses), keep in itertools.product(LOSSES.items(), (False, True)):
        yield case(f"{name}, {keep}", (12, 3), losses, keep_minimum=keep, min_probability=0.01)
    for samples in ODD_SIZES:
        losses = special_numbers(samples)
        yield case(f"{samples} samples", losses=losses, min_probability=0.001)
    for kind, keep in itertools.product(("masked", "tiny", "zeros"), (False, True)):
        options = {"kind": kind, "keep_minimum": keep}
        yield case(f"{kind}, {keep}", **options)
        yield case(f"{kind}, {keep}, 257 rows", (257, 9), min_probability=0.05, **options)
    for rate, keep in itertools.product((0, 1e-45, 1.0, 1e6, 2.0**64), (False, True)):
        for least in (0.0, 1e-45, 0.2):
            options = {"keep_minimum": keep, "min_probability": least}
            yield case(f"rate {rate}, least {least}, {keep}", learning_rate=rate, **options)
    for memory in MEMORY:
        yield case(memory, memory=memory)
        yield case(f"out {memory}", out_memory=memory)
        yield case(f"in place, {memory}", memory=memory, in_place=True)
    yield case("long", (4097, 17), special_numbers(16), min_probability=0.001)


CASES = {"nes_sample": list(nes_sample_cases()), "nes_update": list(nes_update_cases())}

"""The studies of chapter 5 of the thesis: which settings they cross, and what they compare.

A study has cells. A cell is one setting of ``evokern ea`` and a place in the picture; its runs
differ only in the seed. A claim of the thesis says which of two cells comes out greater.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise, product
from typing import Any

from evokern.drivers.config import EAConfig
from evokern.errors import ArgumentError, message
from evokern.problems.classification import ClassificationConfig

Setting = int | float | str

HOLDOUT = "holdout_accuracy/best"
SIGMA = "sigma/mean"

BATCHES = (8, 64, 512)
ALPHAS = (0.25, 0.5, 1.0)
PROPORTIONS = (0.1, 0.2, 0.3, 0.5, 0.75)
SCHEMES = ("constant", "exponential", "self_adaptive")
KINDS = ("uniform", "arithmetic")
SHARES = (0.0, 0.5, 0.75)
FIGURES = ("fig5.1", "fig5.2", "fig5.3", "fig5.4")

DEFAULTS: dict[str, Any] = {
    field.name: field.default for kind in (EAConfig, ClassificationConfig) for field in fields(kind)
}
"""Of every setting, by its name in config.json."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A setting of what its study varies, and its place: a box in a plot of a grid."""

    settings: Mapping[str, Setting]
    row: str
    column: str
    x: str

    @property
    def name(self) -> str:
        """Of its runs' folder: the same in every study that has this setting."""
        return ",".join(f"{name}={value}" for name, value in self.changes.items()) or "table-5.1"

    @property
    def flags(self) -> tuple[str, ...]:
        """What to give to ``evokern ea``."""
        return tuple(word for name, v in self.changes.items() for word in (flag(name), str(v)))

    @property
    def changes(self) -> dict[str, Setting]:
        """Settings that are not those of Table 5.1."""
        return {name: v for name, v in self.settings.items() if v != DEFAULTS[name]}


@dataclass(frozen=True)
class Claim:
    """A finding of the thesis: of each pair, the first cell's last ``metric`` is greater."""

    text: str
    pairs: tuple[tuple[Cell, Cell], ...]
    metric: str = HOLDOUT


@dataclass(frozen=True)
class Study:
    """One figure: boxes of the last hold-out accuracies, or ``curves`` of a metric."""

    name: str
    title: str
    x: str
    cells: tuple[Cell, ...]
    claims: tuple[Claim, ...]
    curves: str | None = None


def flag(setting: str) -> str:
    """The flag of ``evokern ea`` for a setting."""
    return f"--{setting.replace('_', '-')}"


def studies(
    figure: str, populations: Sequence[int], shares: Sequence[float] = SHARES
) -> list[Study]:
    """What belongs to a figure of chapter 5, one of ``FIGURES``, for these populations.

    ``shares``: of crossover, 0 the first, where the figure is about it.
    """
    ascending = sorted(populations)
    match figure:
        case "fig5.1":
            return [batch_size(ascending)]
        case "fig5.2":
            return [selection_proportion(ascending)]
        case "fig5.3":
            return [operators(n, shares) for n in ascending]
        case "fig5.4":
            return [adapted_sigma(n, shares) for n in ascending]
    raise ArgumentError(message("figure", f"one of {list(FIGURES)}", repr(figure)))


def batch_size(populations: Sequence[int]) -> Study:
    """Figure 5.1: batch size x fitness inheritance x population."""
    cell = {
        (n, alpha, batch): Cell(
            {"population": n, "batch": batch, "alpha": alpha},
            f"population {n:,}",
            f"alpha {alpha:g}",
            str(batch),
        )
        for n, alpha, batch in product(populations, ALPHAS, BATCHES)
    }
    larger_batches = (
        (cell[n, alpha, more], cell[n, alpha, less])
        for n, alpha, (less, more) in product(populations, ALPHAS, pairwise(BATCHES))
    )
    nothing_inherited = (
        (cell[n, 1.0, batch], cell[n, alpha, batch])
        for n, alpha, batch in product(populations, ALPHAS[:-1], BATCHES)
    )
    larger_populations = (
        (cell[more, alpha, batch], cell[less, alpha, batch])
        for (less, more), alpha, batch in product(pairwise(populations), ALPHAS, BATCHES)
    )
    claims = (
        Claim("larger batches help", tuple(larger_batches)),
        Claim("fitness inheritance hurts", tuple(nothing_inherited)),
        Claim("larger populations help", tuple(larger_populations)),
    )
    title = "batch size, fitness inheritance, population"
    return Study("fig5.1", title, "batch size", tuple(cell.values()), claims)


def selection_proportion(populations: Sequence[int]) -> Study:
    """Figure 5.2 and Table 5.2: the share of the best that may become parents."""
    batches = BATCHES[0], BATCHES[-1]
    cell = {
        (batch, n, share): Cell(
            {"population": n, "batch": batch, "truncation": share},
            f"batch size {batch}",
            f"population {n:,}",
            f"{share:g}",
        )
        for batch, n, share in product(batches, populations, PROPORTIONS)
    }
    claims = tuple(
        Claim(
            f"less selective pressure helps with batches of {batch}",
            tuple((cell[batch, n, 0.2], cell[batch, n, 0.1]) for n in populations),
        )
        for batch in batches
    )
    title, x = "selective pressure", "selection proportion"
    return Study("fig5.2", title, x, tuple(cell.values()), claims)


def operators(n: int, shares: Sequence[float]) -> Study:
    """Figure 5.3: kind and share of crossover x scheme of the mutation strength."""
    cell = {
        key: _operators_cell(n, *key, row=_scheme(key[0]), column=f"{key[1]} crossover")
        for key in product(SCHEMES, KINDS, shares)
    }
    helps = [
        Claim(
            f"{kind} crossover helps",
            tuple(
                (cell[scheme, kind, share], cell[scheme, kind, 0.0])
                for scheme, share in product(SCHEMES, shares[1:])
            ),
        )
        for kind in KINDS
    ]
    best = [
        Claim(
            f"{kind} crossover of {share:.0%} does best with {_scheme(scheme)}",
            tuple(
                (cell[scheme, kind, share], cell[other, kind, share])
                for other in SCHEMES
                if other != scheme
            ),
        )
        for kind, share, scheme in (
            ("uniform", 0.75, "constant"),
            ("arithmetic", 0.5, "self_adaptive"),
        )
        if share in shares
    ]
    title = f"crossover and mutation, population {n:,}"
    cells = tuple(cell.values())
    return Study(f"fig5.3-{n}", title, "crossover share", cells, (*helps, *best))


def adapted_sigma(n: int, shares: Sequence[float]) -> Study:
    """Figure 5.4: the mutation strength that self-adaptation finds."""
    cell = {
        (kind, share): _operators_cell(
            n, "self_adaptive", kind, share, row="", column=f"{kind}, {share:.0%} crossover"
        )
        for kind, share in product(KINDS, shares[1:])
    }
    pairs = tuple((cell["arithmetic", share], cell["uniform", share]) for share in shares[1:])
    claim = Claim("self-adaptation finds a larger sigma for arithmetic crossover", pairs, SIGMA)
    title = f"self-adapted mutation strength, population {n:,}"
    cells = tuple(cell.values())
    return Study(f"fig5.4-{n}", title, "crossover share", cells, (claim,), curves=SIGMA)


def _operators_cell(n: int, scheme: str, kind: str, share: float, *, row: str, column: str) -> Cell:
    settings: dict[str, Setting] = {
        "population": n,
        "crossover_share": share,
        # Without crossover both kinds are the same runs.
        "crossover": kind if share else "uniform",
        "sigma_schedule": scheme,
    }
    return Cell(settings, row, column, f"{share:g}")


def _scheme(name: str) -> str:
    return f"{name.replace('_', '-')} sigma"

"""laplace_mutate beside its rivals: ``python -m examples.custom_op.benchmark``, from the root.

The package must be installed. As in evokern's own benchmarks every contestant's result is checked,
and all are timed in turn, round by round, with the machine's limits among them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tyro
from custom_op import laplace_mutate
from rich.console import Console

from benchmarks import report, rivals
from benchmarks.harness import Cases, Contest, Contestant, MismatchError, measure
from benchmarks.limits import COPIES, limits
from evokern.population import allocate_genomes

GENES = 92_234  # of the thesis' network
_BYTES_PER_GENE = 8  # read once, written once
_PLACE = {"seed": 1, "generation": 1}


@dataclass(frozen=True)
class Options:
    """Measure laplace_mutate beside NumPy and PyTorch and the limits of this machine."""

    rounds: int = 9
    """How often every contestant runs; reported are medians."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads."""
    quick: bool = False
    """So small that times mean little: shows that everything runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table."""
    options = tyro.cli(Options, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    rounds, threads = (1, (1,)) if options.quick else (options.rounds, options.threads)
    console = Console(highlight=False, markup=False, width=120)
    for title, contest in cases(options.quick).items():
        with contest() as entered:
            console.print(report._table(title, rounds, measure(entered, rounds, threads)))
        for who, why in entered.missing.items():
            console.print(f"left out: {who}: {why}")
    return 0


def cases(quick: bool) -> Cases:
    """A population large enough to leave the caches."""
    population = 2 if quick else 200
    return {f"laplace_mutate, population {population}": partial(_contest, population, quick)}


@contextmanager
def _contest(population: int, quick: bool) -> Iterator[Contest]:
    genomes, out = (allocate_genomes(population, GENES) for _ in range(2))
    genomes[...] = np.random.default_rng(0).standard_normal(genomes.shape, np.float32)
    sigma = np.full(population, 0.1, np.float32)
    # NumPy runs on a part: the whole would take minutes.
    part = min(population, 4)

    def by(backend: str, rows: int) -> Any:
        there = genomes[:rows], sigma[:rows]
        return lambda threads: laplace_mutate(*there, backend=backend, out=out[:rows], **_PLACE)

    work = genomes.size
    runs = [
        Contestant("evokern, C++", by("cpu", population), work, "ns/gene"),
        Contestant("evokern, NumPy", by("reference", part), work, "ns/gene", part / population),
    ]
    why = rivals.missing("torch")
    if not why:
        for name, rows in {"one genome at a time": 1, "whole population": population}.items():
            run = _torch(genomes, sigma, rows)
            runs.append(Contestant(f"torch, {name}", run, work, "ns/gene"))
    yield Contest(
        tuple(runs),
        limits(COPIES, quick),
        lambda contestant, result: _check(genomes, sigma, contestant.name, np.asarray(result)),
        "evokern, C++",
        _BYTES_PER_GENE,
        {"torch": why} if why else {},
    )


def _torch(genomes: np.ndarray, sigma: np.ndarray, rows: int) -> Any:
    """``rows`` genomes at a time, in buffers made beforehand.

    The logarithm of one uniform number is a quarter of the time of ``exponential_`` and a sign.
    """
    import torch

    pool, strength = torch.from_numpy(genomes), torch.from_numpy(sigma)[:, None]
    edge = 1 - torch.finfo(pool.dtype).eps  # log(0) is infinite
    out, noise, uniform = torch.empty_like(pool), *torch.empty(2, rows, genomes.shape[1])

    def run(threads: int) -> Any:
        for parent, scale, child in zip(
            pool.split(rows), strength.split(rows), out.split(rows), strict=True
        ):
            torch.abs(uniform.uniform_(-edge, edge), out=noise)
            torch.copysign(noise.neg_().log1p_(), uniform, out=noise)
            torch.addcmul(parent, noise, scale, out=child)
        return out

    return run


def _check(genomes: np.ndarray, sigma: np.ndarray, name: str, children: np.ndarray) -> None:
    """Raises MismatchError unless a child's noise has mean 0, variance 2 and is no one else's."""
    before = None
    for genome, strength, child in zip(genomes, sigma, children, strict=False):
        noise = ((child - genome) / strength).astype(np.float64)
        values = {"mean": noise / 2, "variance": (noise * noise - 2) / 5}
        if before is not None:
            values["noise of the one before"] = noise * before / 2
        for what, value in values.items():
            if not abs(value.mean()) < 6 / np.sqrt(len(value)):
                raise MismatchError(f"{name}: {what} is {value.mean():.4f} off")
        before = noise


if __name__ == "__main__":
    sys.exit(main())

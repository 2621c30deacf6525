"""Lineages as a flat program that back ends run gene by gene. Used by ``ops.replay`` only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evokern.lineage import CROSSED, FOUNDER, Lineages, Recipe

Bool = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

START_INIT, START_COPY, START_CROSSOVER = range(3)

_SCRATCH_GENES = 64  # rows of scratch begin at multiples of these, so that 16-byte accesses fit


@dataclass(frozen=True, eq=False)
class ReplayProgram:
    """Runs, one after the other, each of which makes one genome that is stored.

    Genomes are stored for outputs, for parents of several children and for parents of crossovers;
    the steps in between exist in registers only. Row r < ``outputs`` is row r of the result, the
    others are scratch that is used again after its last reader. Since every gene follows from the
    same gene of the ancestors (row-wise choices and the norms of ``unit_rows`` from random numbers
    alone), any segment of genes can go through the whole program by itself.

    Per run: ``start`` int32 (START_INIT, START_COPY, START_CROSSOVER), ``source`` int32 (number of
    the founder; row to copy; row of ``crossed``), ``target`` int32 (row to write), ``final`` bool
    (nobody reads it later), and the nodes from ``first_step[run]`` to ``first_step[run + 1]``: the
    founder or crossover, if any, then mutations in order. ``crossed`` int32 [K, R] holds rows.
    """

    recipe: Recipe
    outputs: int
    scratch_rows: int
    founders: int
    start: I32
    source: I32
    target: I32
    final: Bool
    first_step: I64
    crossed: I32
    generation: U32
    number: U32
    sigma: F32

    @property
    def independent(self) -> bool:
        """Whether no run reads what another one wrote."""
        return bool((self.start == START_INIT).all())

    @property
    def weights(self) -> F32:
        """The parents' shares in arithmetic crossover: float32 [R], 1/R each if not given."""
        if self.recipe.weights is not None:
            return np.array(self.recipe.weights, np.float32)
        parents = self.crossed.shape[1]
        # Without parents there is no crossover, and nobody reads the weights.
        return np.full(parents, np.float32(1) / np.float32(max(1, parents)), np.float32)

    @staticmethod
    def scratch_stride(genes: int) -> int:
        """Genes from one row of scratch to the next."""
        return -(-genes // _SCRATCH_GENES) * _SCRATCH_GENES


def compile_replay(lineages: Lineages) -> ReplayProgram:
    """The program whose outputs are the genomes of ``lineages``, in order."""
    lineages = lineages.pruned()
    table, wanted = lineages.table(), lineages.nodes
    outputs = len(wanted)

    # A run ends where a genome is stored; nodes on the way to it belong to it.
    end = _ends(lineages)
    last = np.flatnonzero(end == np.arange(len(table)))
    run_of = np.searchsorted(last, end)
    steps = np.argsort(run_of, kind="stable")
    first_step = np.concatenate([[0], np.cumsum(np.bincount(run_of, minlength=len(last)))])

    origin = table.parent[steps[first_step[:-1]]]
    founder, copied, crossed = origin == FOUNDER, origin >= 0, origin <= CROSSED
    parent_runs = run_of[table.crossed[CROSSED - origin[crossed]]]  # [K, R]
    last_reader = np.full(len(last), -1)
    np.maximum.at(last_reader, run_of[origin[copied]], np.flatnonzero(copied))
    np.maximum.at(last_reader, parent_runs, np.flatnonzero(crossed)[:, None])

    # The first of equal outputs is made, the others are copied from it in the end.
    row = np.full(len(table), -1)
    row[wanted[::-1]] = np.arange(outputs)[::-1]
    target, rows = _with_scratch(row[last], last_reader, outputs)
    again = np.flatnonzero(row[wanted] != np.arange(outputs))

    source = np.zeros(len(last), np.int64)
    source[founder] = np.arange(founder.sum())
    source[copied] = target[run_of[origin[copied]]]
    source[crossed] = np.arange(crossed.sum())
    start = np.select([founder, copied], [START_INIT, START_COPY], START_CROSSOVER)
    final = last_reader < 0
    final[run_of[wanted[again]]] = False
    return ReplayProgram(
        lineages.recipe,
        outputs=outputs,
        scratch_rows=rows - outputs,
        founders=int(founder.sum()),
        start=_int32(start, np.full(len(again), START_COPY)),
        source=_int32(source, row[wanted[again]]),
        target=_int32(target, again),
        final=np.concatenate([final, np.ones(len(again), np.bool_)]),
        first_step=np.concatenate([first_step, np.full(len(again), len(steps))]).astype(np.int64),
        crossed=target[parent_runs].astype(np.int32),
        generation=table.generation[steps],
        number=table.number[steps],
        sigma=table.sigma[steps],
    )


def _ends(lineages: Lineages) -> I64:
    """int64 [n]: the node at which the run ends that a node belongs to.

    A node is stored unless its only use is as the only parent of one child.
    """
    table = lineages.table()
    n = len(table)
    children = np.flatnonzero(table.parent >= 0)
    only = np.bincount(table.parent[children], minlength=n)
    others = np.bincount(table.crossed.ravel(), minlength=n)
    others += np.bincount(lineages.nodes, minlength=n)
    child = np.arange(n)
    child[table.parent[children]] = children
    end = np.where((only == 1) & (others == 0), child, np.arange(n))
    while True:  # twice as far each time
        further = end[end]
        if (further == end).all():
            return end
        end = further


def _with_scratch(target: I64, last_reader: I64, outputs: int) -> tuple[I64, int]:
    """Rows of all runs, and how many there are; -1 in ``target`` asks for a row of scratch."""
    given, readers = target.tolist(), last_reader.tolist()
    asking = np.flatnonzero(target < 0)
    to_free = asking[np.argsort(last_reader[asking], kind="stable")].tolist()
    free: list[int] = []
    rows, freed = outputs, 0
    for run in asking.tolist():
        while readers[to_free[freed]] < run:
            free.append(given[to_free[freed]])
            freed += 1
        if free:
            given[run] = free.pop()
        else:
            given[run] = rows
            rows += 1
    return np.array(given, np.int64), rows


def _int32(a: I64, b: I64) -> I32:
    return np.concatenate([a, b]).astype(np.int32)

"""Genomes as seeds: how individuals came about, 16 bytes per ancestor (docs/ea.md, Lineages).

A genome follows from the run's recipe and, per ancestor, from where its random numbers are drawn
(generation, number), its mutation strength and its parents. So a genome of a million genes with 50
mutations is 816 bytes, and ``ops.replay`` rebuilds it bit for bit. Ancestors are shared: with
mutation alone they are a forest, with crossover a DAG.

>>> lineages = founders(100, seed=1)
>>> lineages = lineages.offspring(parents, sigma, generation=1)  # int32 [R, S], float32 [S]
>>> genomes = ops.replay(lineages, network.layout)  # float32 [S, G]

Source: Such et al., "Deep neuroevolution", 2017, for chains of mutations; the rest is this
project's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern._values import (
    assign,
    counter_fields,
    integer,
    non_negative,
    number,
    one_of,
    probability,
)
from evokern.errors import ArgumentError, DtypeError, ShapeError, message
from evokern.rules import (
    CROSSOVER_KINDS,
    DISTRIBUTIONS,
    INIT_SCHEMES,
    CrossoverKind,
    Distribution,
    InitScheme,
    bernoulli_threshold,
)

__all__ = ["CROSSED", "FOUNDER", "Lineages", "Nodes", "Recipe", "founders"]

Bool = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

FORMAT = 1
"""Version of what ``to_arrays`` gives; a public contract."""

FOUNDER, CROSSED = -1, -2
"""Codes in ``Nodes.parent``: no parent; CROSSED - k: the parents are row k of ``crossed``."""

_FEW = 1 << 17  # nodes that take 2 megabytes, for which nobody prunes


@dataclass(frozen=True)
class Recipe:
    """What a run's individuals have in common: options of ``init_genomes``, ``crossover_mutate``.

    ``weights``: the parents' shares in arithmetic crossover, exact float32, or None for 1/R each.
    """

    seed: int
    scheme: InitScheme = "glorot_uniform"
    kind: CrossoverKind = "uniform"
    rate: float = 0.5
    weights: tuple[float, ...] | None = None
    mutation_rate: float = 1.0
    distribution: Distribution = "normal"

    def __post_init__(self) -> None:
        assign(self, "seed", counter_fields(self.seed, 0, 0)[0])
        one_of("scheme", self.scheme, INIT_SCHEMES)
        one_of("kind", self.kind, CROSSOVER_KINDS)
        one_of("distribution", self.distribution, DISTRIBUTIONS)
        for name in ("rate", "mutation_rate"):
            assign(self, name, probability(name, getattr(self, name)))
        if self.weights is not None:
            if self.kind != "arithmetic":
                raise ArgumentError(
                    message("weights", "None unless kind is 'arithmetic'", f"kind={self.kind!r}")
                )
            _check_weights(self.weights)
            assign(self, "weights", tuple(self.weights))  # JSON has lists

    @cached_property
    def crosses(self) -> bool:
        """Whether a crossover can give anything but the first parent."""
        never = self.kind in ("uniform", "rows") and bernoulli_threshold(self.rate) == 0
        return self.kind != "none" and not never

    @cached_property
    def mutates(self) -> bool:
        """Whether a mutation can change a gene."""
        return bernoulli_threshold(self.mutation_rate) != 0


@dataclass(frozen=True, eq=False)
class Nodes:
    """Ancestors number ``first``, ``first + 1``, ... as a structure of arrays, parents first.

    ``generation`` and ``number`` uint32 [n]: where the random numbers are drawn. ``sigma`` float32
    [n]: 0 where nothing was mutated. ``parent`` int32 [n]: the only parent's place among all nodes;
    -1: a founder; -2 - k: the parents are row k of ``crossed`` int32 [K, R], whose rows are
    numbered from ``first_crossed``.
    """

    generation: U32
    number: U32
    sigma: F32
    parent: I32
    crossed: I32
    first: int = 0
    first_crossed: int = 0

    def __post_init__(self) -> None:
        for array in self.arrays().values():
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.parent)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays: 16 per node, and 4 R more per crossover."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in _NODE_ARRAYS}


_NODE_ARRAYS = {
    "generation": np.uint32,
    "number": np.uint32,
    "sigma": np.float32,
    "parent": np.int32,
    "crossed": np.int32,
}


@dataclass(frozen=True, eq=False, repr=False)
class Lineages:
    """How each of S individuals came about. Nothing changes in place; ancestors are shared.

    ``nodes`` int32 [S]: where each individual stands among the ancestors. They lie in ``chunks``,
    which later generations add to and earlier ones keep.
    """

    recipe: Recipe
    nodes: I32
    chunks: tuple[Nodes, ...]

    def __post_init__(self) -> None:
        self.nodes.flags.writeable = False

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"<Lineages of {len(self)} individuals with {self.ancestors} ancestors>"

    @property
    def ancestors(self) -> int:
        """Number of nodes, the individuals' own included; ``pruned`` leaves those in use."""
        return self.chunks[-1].first + len(self.chunks[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays: 16 per ancestor, 4 R more per crossover, 4 per individual."""
        return self.nodes.nbytes + sum(chunk.nbytes for chunk in self.chunks)

    def offspring(self, parents: I32, sigma: F32, *, generation: int, first: int = 0) -> Lineages:
        """What ``ops.crossover_mutate`` makes of these individuals with the recipe's options.

        An offspring that is a copy costs nothing. Ancestors that nobody descends from any more are
        dropped when the table has doubled since they last were.

        Args:
            parents: int32 [R, S], individuals. Two individuals are two parents, also when both are
                copies of one ancestor (an arithmetic mean rounds).
            sigma: float32 [S], mutation strength, finite and >= 0; 0 is no mutation.
            generation: in [0, 2^32).
            first: number of the first offspring in the random streams.
        """
        _, generation, first = counter_fields(0, generation, first)
        self._check_parents(parents)
        _expect("sigma", sigma, np.float32, 1, "[S]")
        if len(sigma) != parents.shape[1]:
            raise ShapeError(message("sigma", f"[S={parents.shape[1]}]", f"[{len(sigma)}]"))
        non_negative("sigma", sigma)

        chosen = self.nodes[parents]
        crossed = np.zeros(len(sigma), np.bool_)
        if self.recipe.crosses:
            alike = parents if self.recipe.kind == "arithmetic" else chosen
            crossed = (alike != alike[0]).any(axis=0)
        mutated = (sigma != 0) & self.recipe.mutates
        slots = np.flatnonzero(crossed | mutated)
        before, end = self.chunks[-1], self.ancestors
        first_crossed = before.first_crossed + len(before.crossed)

        parent = chosen[0, slots]
        rows = np.ascontiguousarray(chosen[:, crossed].T)
        parent[crossed[slots]] = CROSSED - first_crossed - np.arange(len(rows), dtype=np.int32)
        if not len(rows):
            rows = before.crossed[:0]  # R stays known
        chunk = Nodes(
            generation=np.full(len(slots), generation, np.uint32),
            number=((first + slots) & 0xFFFFFFFF).astype(np.uint32),
            sigma=np.where(mutated, sigma, np.float32(0))[slots],
            parent=parent,
            crossed=rows,
            first=end,
            first_crossed=first_crossed,
        )
        nodes = chosen[0].copy()
        nodes[slots] = np.arange(end, end + len(slots), dtype=np.int32)
        lineages = Lineages(self.recipe, nodes, (*self.chunks, chunk))
        crowded = lineages.ancestors > max(_FEW, 2 * len(self.chunks[0]))
        return lineages.pruned() if crowded else lineages

    def take(self, individuals: I32) -> Lineages:
        """The lineages of these individuals int32 [n], in this order."""
        _expect("individuals", individuals, np.int32, 1, "[n]")
        _expect_range("individuals", individuals, 0, len(self) - 1)
        return Lineages(self.recipe, self.nodes[individuals], self.chunks)

    def joined_by(self, others: Lineages) -> Lineages:
        """Both, these individuals first; what they have in common is kept once.

        Raises ArgumentError when the recipes differ.
        """
        if not isinstance(others, Lineages):
            raise DtypeError(message("others", "Lineages", type(others).__name__))
        if others.recipe != self.recipe:
            raise ArgumentError(message("others", f"lineages of {self.recipe}", f"{others.recipe}"))
        longer, shorter = (
            (self, others) if len(self.chunks) > len(others.chunks) else (others, self)
        )
        if longer.chunks[len(shorter.chunks) - 1] is shorter.chunks[-1]:
            nodes = np.concatenate([self.nodes, others.nodes])
            return Lineages(self.recipe, nodes, longer.chunks)
        return _merged(self, others)

    def pruned(self) -> Lineages:
        """The same individuals with no ancestor that they do not descend from."""
        table = self.table()
        alive = _in_use(table, self.nodes)
        new = np.cumsum(alive, dtype=np.int32) - np.int32(1)
        parent = table.parent[alive]
        single, crossed = parent >= 0, parent <= CROSSED
        rows = new[table.crossed[CROSSED - parent[crossed]]]
        parent[single] = new[parent[single]]
        parent[crossed] = CROSSED - np.arange(len(rows), dtype=np.int32)
        kept = Nodes(table.generation[alive], table.number[alive], table.sigma[alive], parent, rows)
        return Lineages(self.recipe, new[self.nodes], (kept,))

    def table(self) -> Nodes:
        """All nodes as one."""
        if len(self.chunks) == 1:
            return self.chunks[0]
        return _concatenated(self.chunks)

    def to_arrays(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Plain arrays and a header that JSON can hold; ``from_arrays`` takes both."""
        lineages = self.pruned()
        arrays = {**lineages.table().arrays(), "nodes": lineages.nodes}
        return arrays, {"format": FORMAT, **asdict(self.recipe)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, npt.NDArray[Any]], header: Mapping[str, Any]) -> Lineages:
        """What ``to_arrays`` gave. Raises an error for anything that cannot be lineages."""
        options = dict(header)
        if options.pop("format", None) != FORMAT:
            raise ArgumentError(
                message("header", f"format {FORMAT}", f"{header.get('format', 'none')!r}")
            )
        names = [field.name for field in fields(Recipe)]
        if sorted(options) != sorted(names):
            raise ArgumentError(message("header", f"{names}", f"{sorted(options)}"))
        columns: dict[str, Any] = {}
        for name, dtype in {**_NODE_ARRAYS, "nodes": np.int32}.items():
            if name not in arrays:
                raise ArgumentError(message("arrays", f"an array {name}", f"{sorted(arrays)}"))
            letters = "[K, R]" if name == "crossed" else "[n]"
            _expect(name, arrays[name], dtype, len(letters.split()), letters)
            columns[name] = arrays[name].copy()
        nodes = columns.pop("nodes")
        table = Nodes(**columns)
        lineages = Lineages(Recipe(**options), nodes, (table,))
        _check_nodes(lineages)
        return lineages

    def _check_parents(self, parents: I32) -> None:
        _expect("parents", parents, np.int32, 2, f"[R, S] with entries < {len(self)}")
        _expect_range("parents", parents, 0, len(self) - 1)
        known = self.chunks[-1].crossed.shape[1]
        if self.recipe.weights is not None:
            known = len(self.recipe.weights)
        wanted = (1, known) if known else parents.shape[:1]
        if len(parents) < 1 or len(parents) not in wanted:
            expected = f"int32 [R, S] with R = {known or '1 or more'}, as in the recipe and before"
            raise ShapeError(message("parents", expected, f"{list(parents.shape)}"))


def founders(
    n: int,
    *,
    seed: int,
    scheme: InitScheme = "glorot_uniform",
    first: int = 0,
    kind: CrossoverKind = "uniform",
    rate: float = 0.5,
    weights: F32 | None = None,
    mutation_rate: float = 1.0,
    distribution: Distribution = "normal",
) -> Lineages:
    """The lineages of ``ops.init_genomes(layout, n, seed=seed, scheme=scheme, first=first)``.

    ``kind``, ``rate``, ``mutation_rate`` and ``distribution`` are those of all later calls of
    ``ops.crossover_mutate``; ``weights`` float32 [R] are what arithmetic crossover gives each
    parent, the same for every offspring.
    """
    n = integer("n", n, 0, 2**31 - 1)
    seed, _, first = counter_fields(seed, 0, first)
    shares = None
    if weights is not None:
        _expect("weights", weights, np.float32, 1, "[R]")
        shares = tuple(float(weight) for weight in weights)
    recipe = Recipe(seed, scheme, kind, rate, shares, mutation_rate, distribution)
    nodes = Nodes(
        generation=np.zeros(n, np.uint32),
        number=((first + np.arange(n, dtype=np.int64)) & 0xFFFFFFFF).astype(np.uint32),
        sigma=np.zeros(n, np.float32),
        parent=np.full(n, FOUNDER, np.int32),
        crossed=np.zeros((0, 0), np.int32),
    )
    return Lineages(recipe, np.arange(n, dtype=np.int32), (nodes,))


def _concatenated(chunks: Sequence[Nodes]) -> Nodes:
    width = max(chunk.crossed.shape[1] for chunk in chunks)
    return Nodes(
        np.concatenate([chunk.generation for chunk in chunks]),
        np.concatenate([chunk.number for chunk in chunks]),
        np.concatenate([chunk.sigma for chunk in chunks]),
        np.concatenate([chunk.parent for chunk in chunks]),
        np.concatenate([chunk.crossed.reshape(-1, width) for chunk in chunks])
        if width
        else chunks[0].crossed,
    )


def _in_use(table: Nodes, nodes: I32) -> Bool:
    """bool [n]: whether any of ``nodes`` descends from a node, or is it.

    Nodes without children go first, then those that have none left. So the steps are as many as the
    longest line that died out, however long the living ones are.
    """
    uses = _uses(table, np.arange(len(table))) + np.bincount(nodes, minlength=len(table))
    alive = np.ones(len(table), np.bool_)
    last = np.zeros(len(table), np.int64)
    dead = np.flatnonzero(uses == 0)
    while dead.size:
        alive[dead] = False
        links = _links(table, dead)
        np.subtract.at(uses, links, 1)
        dead = links[uses[links] == 0]
        last[dead] = np.arange(len(dead))
        dead = dead[last[dead] == np.arange(len(dead))]  # np.unique, without sorting
    return alive


def _uses(table: Nodes, nodes: I64) -> I64:
    """int64 [n]: how often each node is a parent of ``nodes``."""
    return np.bincount(_links(table, nodes), minlength=len(table))


def _links(table: Nodes, nodes: I64) -> I32:
    """The parents of these nodes, one after the other."""
    parent = table.parent[nodes]
    rows = table.crossed[CROSSED - parent[parent <= CROSSED]]
    return np.concatenate([parent[parent >= 0], rows.ravel()])


def _merged(a: Lineages, b: Lineages) -> Lineages:
    """Both in one table, for lineages that do not continue each other.

    A node is known by (generation, number). Where two of that name agree in sigma and in their
    parents' names, and that is so everywhere, they are one: by induction so are all ancestors.
    """
    left, right = a.table(), b.table()
    widths = {table.crossed.shape[1] for table in (left, right) if len(table.crossed)}
    if len(widths) > 1:
        got = f"crossovers of {' and '.join(str(width) for width in sorted(widths))} parents"
        raise ArgumentError(message("others", "as many parents per crossover", got))
    end, rows = np.int32(len(left)), np.int32(len(left.crossed))
    parent = right.parent.copy()
    parent[parent >= 0] += end
    parent[parent <= CROSSED] -= rows
    moved = Nodes(right.generation, right.number, right.sigma, parent, right.crossed + end)
    table = _concatenated((left, moved))
    same = _first_of_its_name(table)
    parent = table.parent.copy()
    parent[parent >= 0] = same[parent[parent >= 0]]
    joined = Nodes(table.generation, table.number, table.sigma, parent, same[table.crossed])
    nodes = same[np.concatenate([a.nodes, b.nodes + end])]
    return Lineages(a.recipe, nodes, (joined,)).pruned()


def _first_of_its_name(table: Nodes) -> I32:
    """int32 [n]: the first node that is the same; every node itself where names do not identify."""
    name = (table.generation.astype(np.uint64) << np.uint64(32)) | table.number
    single, crossed = table.parent >= 0, table.parent <= CROSSED
    # A run may begin with generation 0, whose offspring are not its founders.
    name = 2 * np.unique(name, return_inverse=True)[1] + (table.parent == FOUNDER)
    _, firsts, inverse = np.unique(name, return_index=True, return_inverse=True)
    same: I32 = firsts[inverse].astype(np.int32)
    width = table.crossed.shape[1]
    parents = np.full((len(table), max(1, width)), FOUNDER, np.int64)
    parents[single, 0] = inverse[table.parent[single]]
    parents[crossed, :width] = inverse[table.crossed[CROSSED - table.parent[crossed]]]
    agree = (parents == parents[same]).all() and (crossed == crossed[same]).all()
    if agree and (table.sigma == table.sigma[same]).all():
        return same
    return np.arange(len(table), dtype=np.int32)


def _check_weights(weights: tuple[float, ...]) -> None:
    if not isinstance(weights, tuple | list):
        raise DtypeError(message("weights", "numbers [R]", f"{type(weights).__name__} {weights!r}"))
    for weight in weights:
        number("weights", weight)
    exact = [float(np.float32(weight)) for weight in weights]
    fit = all(map(math.isfinite, exact)) and abs(math.fsum(exact) - 1) <= 1e-6
    if not fit or exact != list(weights):
        raise ArgumentError(
            message(
                "weights",
                "finite float32 [R] that sum to 1 within 1e-6",
                f"{list(weights)}",
                "divide by their sum",
            )
        )


def _expect(name: str, array: Any, dtype: npt.DTypeLike, ndim: int, letters: str) -> None:
    wanted = np.dtype(dtype)
    if not isinstance(array, np.ndarray):
        got = type(array).__name__
        raise DtypeError(message(name, f"a NumPy array {wanted.name} {letters}", got))
    if array.dtype != wanted:
        mend = f"try {name}.astype(np.{wanted.name})"
        raise DtypeError(message(name, f"{wanted.name} {letters}", f"{array.dtype}", mend))
    if array.ndim != ndim:
        raise ShapeError(message(name, f"{wanted.name} {letters}", f"{list(array.shape)}"))


def _expect_range(name: str, array: npt.NDArray[Any], least: int, most: int) -> None:
    if array.size and (array.min() < least or array.max() > most):
        bad = array.min() if array.min() < least else array.max()
        raise ArgumentError(message(name, f"entries in [{least}, {most}]", f"an entry {bad}"))


def _check_nodes(lineages: Lineages) -> None:
    """Back ends follow these numbers in memory, so what comes from outside is checked."""
    table = lineages.chunks[0]
    n = len(table)
    for name in ("generation", "number", "sigma"):
        if len(getattr(table, name)) != n:
            got = f"[{len(getattr(table, name))}]"
            raise ShapeError(message(name, f"[n={n}], as long as parent", got))
    non_negative("sigma", table.sigma)
    _expect_range("nodes", lineages.nodes, 0, n - 1)
    crossed = table.parent <= CROSSED
    rows = CROSSED - table.parent[crossed]
    children = np.flatnonzero(crossed)
    if len(rows) != len(table.crossed) or (np.sort(rows) != np.arange(len(rows))).any():
        got = f"{len(table.crossed)} rows for {len(rows)} crossovers"
        raise ArgumentError(message("crossed", "one row per crossover", got))
    late = bool((table.parent >= np.arange(n)).any())
    late |= bool((table.crossed[rows] >= children[:, None]).any())
    if late or (table.crossed < 0).any():
        raise ArgumentError(message("parent", "parents that come before their children", "others"))
    weights, width = lineages.recipe.weights, table.crossed.shape[1]
    if len(rows) and (width < 2 or (weights is not None and width != len(weights))):
        raise ShapeError(message("crossed", "[K, R] with the recipe's R >= 2", f"[.., {width}]"))
    if len(rows) and not lineages.recipe.crosses:
        raise ArgumentError(message("crossed", "no crossovers with this recipe", f"{len(rows)}"))
    if table.sigma.any() and not lineages.recipe.mutates:
        got = f"{np.count_nonzero(table.sigma)} mutations"
        raise ArgumentError(message("sigma", "no mutations with this recipe", got))

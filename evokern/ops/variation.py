"""Making genomes: initialisation, crossover and mutation, sigma, lineages."""

from __future__ import annotations

import numpy as np

from evokern._arrays import (
    Array,
    expect,
    expect_host,
    expect_range,
    expect_shape,
    like,
    output,
    to_view,
)
from evokern._checks import (
    arithmetic_weights,
    expect_layout,
    expect_no_parent_overwritten,
    layout_for_rows,
    rows_of_out,
)
from evokern._devices import DeviceArray
from evokern._dispatch import choose
from evokern._replay_program import compile_replay
from evokern._values import (
    counter_fields,
    integer,
    non_negative,
    non_negative_number,
    one_of,
    probability,
)
from evokern.errors import ArgumentError, DtypeError, ShapeError, message
from evokern.layout import GenomeLayout
from evokern.lineage import Lineages
from evokern.memory import check_fits
from evokern.rules import (
    CROSSOVER_KINDS,
    DISTRIBUTIONS,
    INIT_SCHEMES,
    CrossoverKind,
    Distribution,
    InitScheme,
)


def init_genomes(
    layout: GenomeLayout,
    n: int,
    *,
    seed: int,
    scheme: InitScheme = "glorot_uniform",
    first: int = 0,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Random genomes: float32 [n, G]. Biases are +0, except with scheme ``torch``.

    Args:
        layout: where the genes belong (``network.layout``).
        n: how many individuals.
        seed: in [0, 2^64).
        scheme: ``glorot_uniform`` (the thesis, 5.2), ``he_uniform``, ``lecun_normal``,
            ``unit_rows`` (every unit's weights have norm 1, Such et al. 2017) or ``torch``
            (PyTorch's default for linear layers).
        first: number of the first individual: a shard draws what the whole would have drawn.
        out: float32 [n, G] to write to.
        backend: see the module.

    Source of the numbers: Philox stream INIT (docs/bits.md).
    """
    expect_layout(layout)
    one_of("scheme", scheme, INIT_SCHEMES)
    n = integer("n", n, 0, 2**31 - 1)
    seed, _, first = counter_fields(seed, 0, first)
    if out is None:
        check_fits(n * layout.size * 4, "out [n, G]", rows=n)
    target = output(out, (n, layout.size), "[n, G]")
    compute = choose("init_genomes", backend, "out", target)
    if target.size:
        compute(layout, seed=seed, scheme=scheme, first=first, out=target)
    return out if out is not None else target


def crossover_mutate(
    genomes: Array,
    parents: Array,
    sigma: Array,
    *,
    kind: CrossoverKind = "uniform",
    rate: float = 0.5,
    weights: Array | None = None,
    mutation_rate: float = 1.0,
    distribution: Distribution = "normal",
    layout: GenomeLayout | None = None,
    seed: int,
    generation: int,
    first: int = 0,
    out: Array | None = None,
    out_rows: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Offspring of one generation in one pass: crossover, then mutation. float32 [S, G].

    An offspring whose parents are all the same is copied, one with ``sigma == 0`` is not mutated:
    so elites, crossover children and mutation children are one call.

    Args:
        genomes: float32 [P, G].
        parents: int32 [R, S], R >= 1; rows of ``genomes``.
        sigma: float32 [S], mutation strength, finite and >= 0.
        kind: ``uniform`` (Eq. 4.1: per gene), ``arithmetic`` (Eq. 4.2: weighted mean), ``rows``
            (one draw per output unit with its incoming weights and bias; needs ``layout``) or
            ``none`` (parent 0).
        rate: chance in [0, 1] that a gene (unit) comes from a parent other than the first; which
            of the R - 1 is drawn too.
        weights: float32 [R, S] of arithmetic crossover, sum 1 within 1e-6 per offspring; negative
            ones lead away from a parent. None means 1/R each.
        mutation_rate: chance in [0, 1] per gene that it is mutated.
        distribution: ``normal`` (Eq. 4.3), ``uniform`` on [-1, 1) or ``cauchy``; times sigma.
        layout: the genome layout, for ``rows``.
        seed: in [0, 2^64).
        generation: in [0, 2^32).
        first: number of the first offspring (draws are those of individual first + s).
        out: float32 [S, G], or [Q, G] with ``out_rows``. It must not hold the parents, except
            with ``out_rows`` whose rows are no parents of this call.
        out_rows: int32 [S], distinct rows of ``out`` to write to.
        backend: see the module.
    """
    one_of("kind", kind, CROSSOVER_KINDS)
    one_of("distribution", distribution, DISTRIBUTIONS)
    rate, mutation_rate = probability("rate", rate), probability("mutation_rate", mutation_rate)
    seed, generation, first = counter_fields(seed, generation, first)
    pool = expect("genomes", genomes, np.float32, "[P, G]", 2)
    chosen = expect_host("parents", parents, np.int32, f"[R, S] with entries < P={len(pool)}", 2)
    if len(chosen) < 1:
        raise ShapeError(message("parents", "int32 [R, S] with R >= 1", f"{list(chosen.shape)}"))
    slots, genes = chosen.shape[1], pool.shape[1]
    expect_range("parents", chosen, 0, len(pool) - 1, "rows of genomes")
    strength = expect_host("sigma", sigma, np.float32, "[S]", 1)
    expect_shape("sigma", strength, "[S]", (slots,))
    non_negative("sigma", strength)
    if kind == "rows":
        layout = layout_for_rows(layout, genes)
    if weights is not None and kind != "arithmetic":
        wanted = "None unless kind is 'arithmetic'"
        raise ArgumentError(message("weights", wanted, f"an array for kind={kind!r}"))
    shares = arithmetic_weights(weights, chosen.shape) if kind == "arithmetic" else None
    rows = None if out_rows is None else rows_of_out(out_rows, out, slots)
    if out is None:
        check_fits(slots * genes * 4, "out [S, G]", rows=slots)
        target = output(None, (slots, genes), "[S, G]", genomes=pool)
    else:
        letters = "[S, G]" if rows is None else "[Q, G]"
        height = slots if rows is None else len(to_view("out", out))
        target = output(
            out,
            (height, genes),
            letters,
            parents=chosen,
            sigma=strength,
            weights=shares,
            out_rows=rows,
        )
        expect_no_parent_overwritten(target, pool, chosen, rows)
    compute = choose("crossover_mutate", backend, "genomes out", pool, target)
    if slots and genes:
        compute(
            pool,
            chosen,
            strength,
            kind=kind,
            rate=rate,
            weights=shares,
            mutation_rate=mutation_rate,
            distribution=distribution,
            layout=layout if kind == "rows" else None,
            seed=seed,
            generation=generation,
            first=first,
            out=target,
            out_rows=rows,
        )
    return out if out is not None else like(genomes)(target)


def mutate_sigma(
    sigma: Array,
    *,
    tau: float,
    seed: int,
    generation: int,
    first: int = 0,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Self-adaptive mutation strengths, Eq. 5.4: sigma * exp(tau * N(0, 1)). float32 [S].

    Results are clamped to [2^-40, 2^10].

    Args:
        sigma: float32 [S], finite and >= 0.
        tau: learning rate, finite and >= 0 (the thesis' program: 0.01).
        seed, generation, first: as in ``crossover_mutate``; stream SIGMA.
        out: float32 [S] to write to; may be ``sigma`` itself.
        backend: see the module.
    """
    seed, generation, first = counter_fields(seed, generation, first)
    tau = non_negative_number("tau", tau)
    strength = expect("sigma", sigma, np.float32, "[S]", 1)
    if not isinstance(strength, DeviceArray):
        non_negative("sigma", strength)
    target = output(out, strength.shape, "[S]", in_place="sigma", sigma=strength)
    compute = choose("mutate_sigma", backend, "sigma out", strength, target)
    if target.size:
        compute(strength, tau=tau, seed=seed, generation=generation, first=first, out=target)
    return out if out is not None else like(sigma)(target)


def replay(
    lineages: Lineages,
    layout: GenomeLayout,
    *,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Rebuilds genomes from how they came about, bit for bit. float32 [S, G].

    It takes the time to draw all ancestors' numbers once, and half a megabyte or so per thread.

    Args:
        lineages: of S individuals (``evokern.founders`` and what follows).
        layout: where the genes belong, the same as when they were drawn.
        out: float32 [S, G] to write to.
        backend: see the module.
    """
    if not isinstance(lineages, Lineages):
        mend = "begin with evokern.founders"
        raise DtypeError(message("lineages", "Lineages", type(lineages).__name__, mend))
    expect_layout(layout)
    if out is None:
        check_fits(len(lineages) * layout.size * 4, "out [S, G]", rows=len(lineages))
    target = output(out, (len(lineages), layout.size), "[S, G]")
    compute = choose("replay", backend, "out", target)
    if target.size:
        compute(compile_replay(lineages), layout, out=target)
    return out if out is not None else target

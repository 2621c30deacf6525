"""The public operations on populations: checks, then the kernel of the chosen back end.

Arrays may be NumPy, torch (CPU) or anything with DLPack on the host; results come back as the
caller's kind without a copy. The last axis must be contiguous, other strides are free. All ops
take ``backend="auto" | "cpu" | "reference"`` and, where it makes sense, ``out=``.

Shapes: **P** population, **G** genes, **S** slots (what one call evaluates), **B** batch, **R**
parents, **I/O** features in and out, **C H W** channels, height, width.

Errors: DtypeError, ShapeError, LayoutError, ArgumentError, BackendError, MemoryLimitError, each
naming the argument, what was expected, what came and the mend.
"""

from __future__ import annotations

import numpy as np

from evokern._arrays import (
    Array,
    empty,
    expect,
    expect_range,
    expect_shape,
    like,
    output,
    to_host,
)
from evokern._checks import (
    arithmetic_weights,
    batch_of,
    check_precision,
    class_counts,
    evaluation,
    expect_apart,
    expect_either,
    genome_layout,
    images_of,
    labels_of,
    layout_for_rows,
    merged,
    rows_of_out,
    slots_of,
)
from evokern._program import compile_program
from evokern._table import resolve
from evokern._values import finite, integer, non_negative, one_of, random_place, share
from evokern.errors import DtypeError, LayoutError, ShapeError, message
from evokern.layout import GenomeLayout
from evokern.lineage import Lineages
from evokern.memory import check_fits
from evokern.network import ACTIVATIONS, ActivationName, AvgPool2d, MaxPool2d, Network, pool_output
from evokern.rules import (
    CROSSOVER_KINDS,
    DISTRIBUTIONS,
    INIT_SCHEMES,
    LOSSES,
    CrossoverKind,
    Distribution,
    InitScheme,
    LossName,
    Precision,
)

__all__ = [
    "affine",
    "avg_pool2d",
    "crossover_mutate",
    "dense_forward",
    "init_genomes",
    "max_pool2d",
    "mutate_sigma",
    "network_forward",
    "network_loss",
    "replay",
]


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

    Source of the numbers: Philox stream INIT (design section 5).
    """
    genome_layout(layout)
    one_of("scheme", scheme, INIT_SCHEMES)
    n = integer("n", n, 0, 2**31 - 1)
    random_place(seed, 0, first)
    if out is None:
        check_fits(n * layout.size * 4, "out [n, G]", rows=n)
    target = output(out, (n, layout.size), "[n, G]")
    compute = resolve("init_genomes", backend)
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
        weights: float32 [R, S] of arithmetic crossover, non-negative, sum 1 within 1e-6 per
            offspring; None means 1/R each.
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
    rate, mutation_rate = share("rate", rate), share("mutation_rate", mutation_rate)
    random_place(seed, generation, first)
    pool = expect("genomes", genomes, np.float32, "[P, G]", 2)
    chosen = expect("parents", parents, np.int32, f"[R, S] with entries < P={len(pool)}", 2)
    if len(chosen) < 1:
        raise ShapeError(message("parents", "int32 [R, S] with R >= 1", f"{list(chosen.shape)}"))
    slots, genes = chosen.shape[1], pool.shape[1]
    expect_range("parents", chosen, 0, len(pool) - 1, "rows of genomes")
    strength = expect("sigma", sigma, np.float32, "[S]", 1)
    expect_shape("sigma", strength, "[S]", (slots,))
    non_negative("sigma", strength)
    if kind == "rows":
        layout = layout_for_rows(layout, genes)
    shares = arithmetic_weights(weights, chosen.shape) if kind == "arithmetic" else None
    rows = None if out_rows is None else rows_of_out(out_rows, out, slots)
    if out is None:
        check_fits(slots * genes * 4, "out [S, G]", rows=slots)
        target = output(None, (slots, genes), "[S, G]")
    else:
        letters = "[S, G]" if rows is None else "[Q, G]"
        height = slots if rows is None else len(to_host("out", out))
        target = output(out, (height, genes), letters)
        expect_apart(target, pool, chosen, rows)
    compute = resolve("crossover_mutate", backend)
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
    random_place(seed, generation, first)
    tau = finite("tau", tau)
    strength = expect("sigma", sigma, np.float32, "[S]", 1)
    non_negative("sigma", strength)
    target = output(out, strength.shape, "[S]", in_place="sigma", sigma=strength)
    compute = resolve("mutate_sigma", backend)
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
    genome_layout(layout)
    if out is None:
        check_fits(len(lineages) * layout.size * 4, "out [S, G]", rows=len(lineages))
    target = output(out, (len(lineages), layout.size), "[S, G]")
    compute = resolve("replay", backend)
    if target.size:
        compute(compile_program(lineages), layout, out=target)
    return out if out is not None else target


def dense_forward(
    x: Array,
    w: Array,
    b: Array,
    *,
    index: Array | None = None,
    activation: ActivationName = "identity",
    negative_slope: float = 0.01,
    precision: Precision = "fp32",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """One dense layer of many individuals: activation(x W + b). float32 [S, B, O].

    Args:
        x: float32 [S, B, I], or [B, I] for one batch that all slots share.
        w: float32 [P, I, O], inner axes contiguous.
        b: float32 [P, O].
        index: int32 [S], the individual each slot runs; None means S = P, one each.
        activation: a name of ``evokern.network.ACTIVATIONS``.
        negative_slope: of ``leaky_relu``.
        precision: ``fp32`` (the bits of design section 5) or ``bf16`` (inputs rounded to bf16).
        out: float32 [S, B, O] to write to.
        backend: see the module.
    """
    one_of("activation", activation, ACTIVATIONS)
    check_precision(precision, backend)
    weights = expect("w", w, np.float32, "[P, I, O]", 3)
    population, inputs, outputs = weights.shape
    if inputs < 1:
        raise ShapeError(message("w", "[P, I, O] with I >= 1", f"{list(weights.shape)}"))
    if weights.size and inputs > 1 and weights.strides[1] != outputs * 4:
        mend = "try np.ascontiguousarray(w)"
        raise LayoutError(
            message("w", "[P, I, O], each [I, O] in one piece", f"{weights.strides}", mend)
        )
    bias = expect("b", b, np.float32, "[P, O]", 2)
    expect_shape("b", bias, "[P, O]", (population, outputs))
    values = expect("x", x, np.float32, "[S, B, I] or [B, I]", None)
    slots = slots_of(index, population)
    batch = batch_of(values, (inputs,), len(slots))
    shape = (len(slots), batch, outputs)
    target = output(out, shape, "[S, B, O]", x=values, w=weights, b=bias)
    compute = resolve("dense_forward", backend)
    if target.size:
        compute(
            values,
            weights,
            bias,
            index=slots,
            activation=activation,
            negative_slope=float(negative_slope),
            precision=precision,
            out=target,
        )
    return out if out is not None else like(x)(target)


def max_pool2d(
    x: Array,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    *,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Maximum over windows of images; NaN wins. float32 [..., C, H', W'].

    Args:
        x: float32 [..., C, H, W].
        kernel: window size, an int or (height, width).
        stride: step between windows; None means the kernel.
        padding: border that never wins, at most half the kernel.
        out: float32 [..., C, H', W'] to write to.
        backend: see the module.
    """
    return _pool(x, MaxPool2d(kernel, stride, padding), "max_pool2d", {}, out, backend)


def avg_pool2d(
    x: Array,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    *,
    count_include_pad: bool = True,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Mean over windows of images. float32 [..., C, H', W'].

    Args:
        x, kernel, stride, padding, out, backend: as in ``max_pool2d``.
        count_include_pad: whether padding counts as elements of a window (as in PyTorch).
    """
    layer = AvgPool2d(kernel, stride, padding, count_include_pad)
    options = {"count_include_pad": bool(count_include_pad)}
    return _pool(x, layer, "avg_pool2d", options, out, backend)


def affine(
    x: Array,
    scale: Array,
    shift: Array,
    *,
    index: Array | None = None,
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """x * scale + shift per channel, two roundings: batch norm at inference. Shape of ``x``.

    Args:
        x: float32 [S, B, C, ...].
        scale: float32 [P, C]: gamma / sqrt(variance + epsilon).
        shift: float32 [P, C]: beta - mean * scale.
        index: int32 [S], the individual each slot runs; None means S = P, one each.
        out: float32 of x's shape to write to; may be ``x`` itself.
        backend: see the module.
    """
    values = expect("x", x, np.float32, "[S, B, C, ...]", None)
    if values.ndim < 3:
        raise ShapeError(message("x", "float32 [S, B, C, ...]", f"{list(values.shape)}"))
    gain = expect("scale", scale, np.float32, "[P, C]", 2)
    expect_shape("scale", gain, "[P, C]", (len(gain), values.shape[2]))
    offset = expect("shift", shift, np.float32, "[P, C]", 2)
    expect_shape("shift", offset, "[P, C]", gain.shape)
    slots = slots_of(index, len(gain))
    if len(slots) != len(values):
        raise ShapeError(message("x", f"[S={len(slots)}, B, C, ...]", f"{list(values.shape)}"))
    inputs = {"x": values, "scale": gain, "shift": offset}
    target = output(out, values.shape, "[S, B, C, ...]", in_place="x", **inputs)
    compute = resolve("affine", backend)
    if target.size:
        compute(merged("x", values, 3), gain, offset, index=slots, out=merged("out", target, 3))
    return out if out is not None else like(x)(target)


def network_forward(
    genomes: Array,
    network: Network,
    x: Array,
    *,
    index: Array | None = None,
    precision: Precision = "fp32",
    out: Array | None = None,
    backend: str = "auto",
) -> Array:
    """Outputs of many networks of one architecture: float32 [S, B, *output_shape].

    Args:
        genomes: float32 [P, G] with G = ``network.layout.size``.
        network: the architecture.
        x: float32 [B, *input_shape], one batch for all slots, or [S, B, *input_shape].
        index: int32 [S], the individual each slot runs; None means S = P, one each.
        precision: ``fp32`` (the bits of design section 5) or ``bf16``.
        out: float32 [S, B, *output_shape] to write to.
        backend: see the module.
    """
    check_precision(precision, backend)
    pool, slots, values, batch = evaluation(genomes, network, x, index)
    shape = (len(slots), batch, *network.output_shape)
    target = output(out, shape, "[S, B, *output_shape]", genomes=pool, x=values)
    merged("out", target, 2)
    compute = resolve("network_forward", backend)
    if target.size:
        compute(pool, network, values, index=slots, precision=precision, out=target)
    return out if out is not None else like(genomes)(target)


def network_loss(
    genomes: Array,
    network: Network,
    x: Array,
    y: Array,
    *,
    index: Array | None = None,
    classes: Array | None = None,
    loss: LossName = "cross_entropy",
    precision: Precision = "fp32",
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Mean loss and number of correct predictions per slot: float32 [S], int32 [S].

    Args:
        genomes, network, x, index, precision, backend: as in ``network_forward``; the network's
            output must be flat.
        y: integer labels [B] or [S, B]; for ``mse`` float32 targets [B, O] or [S, B, O].
        classes: int32 [S]: outputs past a slot's class count take no part in loss and argmax.
        loss: ``cross_entropy`` (Eq. 5.5) or ``mse``; with ``mse`` no prediction counts as correct.
    """
    one_of("loss", loss, LOSSES)
    check_precision(precision, backend)
    if len(network.output_shape) != 1:
        got = f"{list(network.output_shape)}"
        raise ShapeError(message("network", "a flat output [O]", got, "add Flatten() at the end"))
    pool, slots, values, batch = evaluation(genomes, network, x, index)
    outputs = network.output_shape[0]
    counts = None if classes is None else class_counts(classes, len(slots), outputs)
    if loss == "mse":
        targets = expect("y", y, np.float32, "[B, O] or [S, B, O]", None)
        expect_either("y", targets, (batch, outputs), len(slots))
    else:
        targets = labels_of(y, batch, outputs, counts, len(slots))
    losses = empty((len(slots),), np.float32, "loss [S]")
    correct = empty((len(slots),), np.int32, "correct [S]")
    compute = resolve("network_loss", backend)
    if len(slots):
        compute(
            pool,
            network,
            values,
            targets,
            index=slots,
            classes=counts,
            loss=loss,
            precision=precision,
            out_loss=losses,
            out_correct=correct,
        )
    kind = like(genomes)
    return kind(losses), kind(correct)


def _pool(
    x: Array,
    layer: MaxPool2d | AvgPool2d,
    op: str,
    options: dict[str, bool],
    out: Array | None,
    backend: str,
) -> Array:
    values = expect("x", x, np.float32, "[..., C, H, W]", None)
    if values.ndim < 3:
        raise ShapeError(message("x", "float32 [..., C, H, W]", f"{list(values.shape)}"))
    shape = (*values.shape[:-2], *pool_output(layer, *values.shape[-2:]))
    target = output(out, shape, "[..., C, H', W']", x=values)
    compute = resolve(op, backend)
    if target.size:
        images = images_of("x", values)
        results = images_of("out", target)
        compute(images, geometry=layer.geometry(), out=results, **options)
    return out if out is not None else like(x)(target)

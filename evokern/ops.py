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

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern._arrays import (
    Array,
    Host,
    empty,
    expect,
    expect_range,
    expect_shape,
    like,
    output,
    to_host,
)
from evokern._table import resolve
from evokern.errors import ArgumentError, BackendError, DtypeError, LayoutError, ShapeError, message
from evokern.layout import GenomeLayout
from evokern.memory import check_fits
from evokern.network import ACTIVATIONS, ActivationName, AvgPool2d, MaxPool2d, Network, pool_output
from evokern.rules import (
    CROSSOVER_KINDS,
    DISTRIBUTIONS,
    INIT_SCHEMES,
    LOSSES,
    PRECISIONS,
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
]

_UINT32_MAX = 2**32 - 1
_UINT64_MAX = 2**64 - 1


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
    _one_of("scheme", scheme, INIT_SCHEMES)
    n = _integer("n", n, 0, 2**31 - 1)
    _random_place(seed, 0, first)
    if out is None:
        check_fits(n * layout.size * 4, "out [n, G]", rows=n)
    target = output(out, (n, layout.size), "[n, G]")
    if target.size:
        resolve("init_genomes", backend)(layout, seed=seed, scheme=scheme, first=first, out=target)
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
    _one_of("kind", kind, CROSSOVER_KINDS)
    _one_of("distribution", distribution, DISTRIBUTIONS)
    rate, mutation_rate = _share("rate", rate), _share("mutation_rate", mutation_rate)
    _random_place(seed, generation, first)
    pool = expect("genomes", genomes, np.float32, "[P, G]", 2)
    chosen = expect("parents", parents, np.int32, f"[R, S] with entries < P={len(pool)}", 2)
    if len(chosen) < 1:
        raise ShapeError(message("parents", "int32 [R, S] with R >= 1", f"{list(chosen.shape)}"))
    slots, genes = chosen.shape[1], pool.shape[1]
    expect_range("parents", chosen, 0, len(pool) - 1, "rows of genomes")
    strength = expect("sigma", sigma, np.float32, "[S]", 1)
    expect_shape("sigma", strength, "[S]", (slots,))
    _non_negative("sigma", strength)
    if kind == "rows":
        layout = _layout_for_rows(layout, genes)
    shares = _arithmetic_weights(weights, chosen.shape) if kind == "arithmetic" else None
    rows = None if out_rows is None else _out_rows(out_rows, out, slots)
    if out is None:
        check_fits(slots * genes * 4, "out [S, G]", rows=slots)
        target = output(None, (slots, genes), "[S, G]")
    else:
        letters = "[S, G]" if rows is None else "[Q, G]"
        height = slots if rows is None else len(to_host("out", out))
        target = output(out, (height, genes), letters)
        _expect_apart(target, pool, chosen, rows)
    if slots and genes:
        resolve("crossover_mutate", backend)(
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
    _random_place(seed, generation, first)
    tau = _finite("tau", tau)
    strength = expect("sigma", sigma, np.float32, "[S]", 1)
    _non_negative("sigma", strength)
    target = output(out, strength.shape, "[S]", in_place="sigma", sigma=strength)
    if target.size:
        resolve("mutate_sigma", backend)(
            strength, tau=tau, seed=seed, generation=generation, first=first, out=target
        )
    return out if out is not None else like(sigma)(target)


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
    _one_of("activation", activation, ACTIVATIONS)
    _check_precision(precision, backend)
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
    slots = _slots(index, population)
    batch = _batch(values, (inputs,), len(slots))
    shape = (len(slots), batch, outputs)
    target = output(out, shape, "[S, B, O]", x=values, w=weights, b=bias)
    if target.size:
        resolve("dense_forward", backend)(
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
    slots = _slots(index, len(gain))
    if len(slots) != len(values):
        raise ShapeError(message("x", f"[S={len(slots)}, B, C, ...]", f"{list(values.shape)}"))
    inputs = {"x": values, "scale": gain, "shift": offset}
    target = output(out, values.shape, "[S, B, C, ...]", in_place="x", **inputs)
    if target.size:
        resolve("affine", backend)(
            _merged("x", values, 3), gain, offset, index=slots, out=_merged("out", target, 3)
        )
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
    _check_precision(precision, backend)
    pool, slots, values, batch = _evaluation(genomes, network, x, index)
    shape = (len(slots), batch, *network.output_shape)
    target = output(out, shape, "[S, B, *output_shape]", genomes=pool, x=values)
    _merged("out", target, 2)
    if target.size:
        run = resolve("network_forward", backend)
        run(pool, network, values, index=slots, precision=precision, out=target)
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
    _one_of("loss", loss, LOSSES)
    _check_precision(precision, backend)
    if len(network.output_shape) != 1:
        got = f"{list(network.output_shape)}"
        raise ShapeError(message("network", "a flat output [O]", got, "add Flatten() at the end"))
    pool, slots, values, batch = _evaluation(genomes, network, x, index)
    outputs = network.output_shape[0]
    counts = None if classes is None else _class_counts(classes, len(slots), outputs)
    if loss == "mse":
        targets = expect("y", y, np.float32, "[B, O] or [S, B, O]", None)
        _expect_either("y", targets, (batch, outputs), len(slots))
    else:
        targets = _labels(y, batch, outputs, counts, len(slots))
    losses = empty((len(slots),), np.float32, "loss [S]")
    correct = empty((len(slots),), np.int32, "correct [S]")
    if len(slots):
        resolve("network_loss", backend)(
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


def _one_of(name: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise ArgumentError(message(name, f"one of {list(names)}", repr(value)))


def _integer(name: str, value: int, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DtypeError(message(name, "an int", f"{type(value).__name__} {value!r}"))
    if not least <= value <= most:
        raise ArgumentError(message(name, f"an int in [{least}, {most}]", str(value)))
    return int(value)


def _random_place(seed: int, generation: int, first: int) -> None:
    _integer("seed", seed, 0, _UINT64_MAX)
    _integer("generation", generation, 0, _UINT32_MAX)
    _integer("first", first, 0, _UINT32_MAX)


def _share(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ArgumentError(message(name, "a probability in [0, 1]", repr(value)))
    return float(value)


def _finite(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ArgumentError(message(name, "a finite number >= 0", repr(value)))
    return float(value)


def _non_negative(name: str, array: Host) -> None:
    bad = ~(np.isfinite(array) & (array >= 0))
    if bad.any():
        slot = int(bad.argmax())
        got = f"{name}[{slot}] = {array[slot]}"
        raise ArgumentError(message(name, "finite numbers >= 0", got))


def _check_precision(precision: str, backend: str) -> None:
    _one_of("precision", precision, PRECISIONS)
    if precision == "tf32" and backend in ("auto", "cpu", "reference"):
        raise BackendError("precision: tf32 is a GPU format; on the host there are fp32 and bf16")


def _layout_for_rows(layout: GenomeLayout | None, genes: int) -> GenomeLayout:
    if layout is None:
        mend = "pass layout=network.layout"
        raise ArgumentError(message("layout", "a GenomeLayout for kind='rows'", "None", mend))
    if layout.size != genes:
        raise ShapeError(message("layout", f"a layout of G={genes} genes", f"{layout.size} genes"))
    return layout


def _arithmetic_weights(weights: Array | None, shape: tuple[int, ...]) -> Host:
    if weights is None:
        return np.full(shape, np.float32(1) / np.float32(shape[0]), np.float32)
    shares = expect("weights", weights, np.float32, "[R, S]", 2)
    expect_shape("weights", shares, "[R, S]", shape)
    sums = shares.astype(np.float64).sum(axis=0)
    if not ((shares >= 0).all() and (abs(sums - 1) <= 1e-6).all()):
        slot = int((~((shares >= 0).all(axis=0) & (abs(sums - 1) <= 1e-6))).argmax())
        raise ArgumentError(
            message(
                "weights",
                "non-negative shares that sum to 1 within 1e-6 per offspring",
                f"weights[:, {slot}] = {shares[:, slot].tolist()}",
                "divide by their sum",
            )
        )
    return shares


def _out_rows(out_rows: Array, out: Array | None, slots: int) -> Host:
    if out is None:
        raise ArgumentError(message("out", "an array [Q, G] with out_rows", "None"))
    rows = expect("out_rows", out_rows, np.int32, "[S]", 1)
    expect_shape("out_rows", rows, "[S]", (slots,))
    expect_range("out_rows", rows, 0, len(to_host("out", out)) - 1, "rows of out")
    if len(np.unique(rows)) != slots:
        raise ArgumentError(message("out_rows", "distinct rows", "a row named twice"))
    return rows


def _expect_apart(out: Host, genomes: Host, parents: Host, rows: Host | None) -> None:
    """Refuses an ``out`` whose written rows hold a parent of this call."""
    if not np.may_share_memory(out, genomes):
        return
    same_rows = (
        out.ctypes.data == genomes.ctypes.data
        and out.strides[0] == genomes.strides[0]
        and out.shape[1] == genomes.shape[1]
    )
    if same_rows and rows is not None:
        clash = np.intersect1d(rows, parents)
        if not clash.size:
            return
        got = f"row {clash[0]}, a parent of this call"
        raise ArgumentError(message("out_rows", "rows of out that are no parents", got))
    if np.shares_memory(out, genomes):
        mend = "write to another array, or pass out_rows without parents"
        raise ArgumentError(message("out", "memory apart from genomes", "an overlap", mend))


def _slots(index: Array | None, population: int) -> Host:
    if index is None:
        return np.arange(population, dtype=np.int32)
    slots = expect("index", index, np.int32, f"[S] with entries < P={population}", 1)
    expect_range("index", slots, 0, population - 1, "individuals")
    return slots


def _batch(x: Host, sample: tuple[int, ...], slots: int) -> int:
    """B of x [B, *sample] or [S, B, *sample]; the error shows both readings."""
    axes = len(sample)
    if x.ndim == axes + 1 and x.shape[1:] == sample:
        batch = x.shape[0]
    elif x.ndim == axes + 2 and x.shape[2:] == sample and x.shape[0] == slots:
        batch = x.shape[1]
    else:
        inner = ", ".join(str(n) for n in sample)
        raise ShapeError(
            message(
                "x",
                f"[B, {inner}] (one batch for all slots) or [S={slots}, B, {inner}]",
                f"{list(x.shape)}",
            )
        )
    if batch < 1:
        raise ShapeError(message("x", "a batch of B >= 1 samples", f"{list(x.shape)}"))
    return int(batch)


def _evaluation(
    genomes: Array, network: Network, x: Array, index: Array | None
) -> tuple[Host, Host, Host, int]:
    """Checked genomes [P, G], index [S], x and B. x keeps its batch axes' strides."""
    if not isinstance(network, Network):
        raise DtypeError(message("network", "an evokern Network", type(network).__name__))
    genes = network.layout.size
    pool = expect("genomes", genomes, np.float32, f"[P, G={genes}]", 2)
    expect_shape("genomes", pool, "[P, G]", (len(pool), genes))
    values = expect("x", x, np.float32, f"[B, {network.input_shape}]", None)
    slots = _slots(index, len(pool))
    batch = _batch(values, network.input_shape, len(slots))
    _merged("x", values, values.ndim - len(network.input_shape))
    return pool, slots, values, batch


def _merged(name: str, array: Host, axis: int) -> Host:
    """A view with all axes from ``axis`` on as one; LayoutError where that needs a copy."""
    shape = array.shape[:axis]
    size = math.prod(array.shape[axis:])
    if array.size and not array[(0,) * axis].flags.c_contiguous:
        raise LayoutError(
            message(
                name,
                "samples (channels) that lie in one piece",
                f"strides {array.strides} bytes",
                f"try np.ascontiguousarray({name})",
            )
        )
    return array.reshape(*shape, size)


def _class_counts(classes: Array, slots: int, outputs: int) -> Host:
    counts = expect("classes", classes, np.int32, "[S]", 1)
    expect_shape("classes", counts, "[S]", (slots,))
    expect_range("classes", counts, 1, outputs, "outputs of the network")
    return counts


def _expect_either(name: str, array: Host, shape: tuple[int, ...], slots: int) -> None:
    if array.shape not in (shape, (slots, *shape)):
        raise ShapeError(
            message(name, f"{list(shape)} or {[slots, *shape]}", f"{list(array.shape)}")
        )


def _labels(
    y: Array, batch: int, outputs: int, classes: Host | None, slots: int
) -> npt.NDArray[Any]:
    labels = to_host("y", y)
    if labels.dtype.kind not in "iu":
        mend = "try y.astype(np.int64)"
        raise DtypeError(message("y", "integer labels [B] or [S, B]", str(labels.dtype), mend))
    _expect_either("y", labels, (batch,), slots)
    labels = np.ascontiguousarray(labels, np.int64)
    if classes is None:
        expect_range("y", labels, 0, outputs - 1, "classes of the network")
    elif slots:
        expect_range("y", labels, 0, outputs - 1, "classes of the network")
        largest = labels.max() if labels.ndim == 1 else labels.max(axis=1)
        if (largest >= classes).any():
            slot = int((np.broadcast_to(largest, classes.shape) >= classes).argmax())
            got = f"a label {np.broadcast_to(largest, classes.shape)[slot]} in slot {slot}"
            raise ArgumentError(message("y", f"labels < classes[{slot}]={classes[slot]}", got))
    return labels


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
    if target.size:
        images = _images("x", values)
        results = _images("out", target)
        resolve(op, backend)(images, geometry=layer.geometry(), out=results, **options)
    return out if out is not None else like(x)(target)


def _images(name: str, array: Host) -> Host:
    """A view [N, C, H, W]; LayoutError where the leading axes are not one run of images."""
    view = array.reshape(-1, *array.shape[-3:]) if array.ndim != 4 else array
    if view.size and not np.may_share_memory(view, array):
        mend = f"try np.ascontiguousarray({name})"
        raise LayoutError(message(name, "images that follow each other", "gaps", mend))
    return view

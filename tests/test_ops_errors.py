"""Bad input: every check of the ops names the argument, what came and the mend."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import F, numbers

import evokern
from evokern import ops
from evokern._table import TABLE, Op, resolve
from evokern.errors import (
    ArgumentError,
    BackendError,
    DtypeError,
    EvokernError,
    LayoutError,
    ShapeError,
)
from evokern.layout import DenseGenes, GenomeLayout
from evokern.lineage import founders
from evokern.network import Activation, Flatten, MaxPool2d, Network

LAYOUT = GenomeLayout((DenseGenes(2, 3),))
NETWORK = Network.mlp(2, [], 3)
IMAGES = Network((MaxPool2d(2),), (2, 4, 4))


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def vary(**changes: Any) -> Any:
    options: dict[str, Any] = {
        "genomes": numbers(4, 9),
        "parents": ints([0, 1, 2], [3, 2, 1]),
        "sigma": np.zeros(3, F),
        "seed": 1,
        "generation": 2,
    }
    return ops.crossover_mutate(**(options | changes))


def adapt(**changes: Any) -> Any:
    options: dict[str, Any] = {"sigma": np.ones(5, F), "tau": 0.1, "seed": 1, "generation": 2}
    return ops.mutate_sigma(**(options | changes))


def rebuild(**changes: Any) -> Any:
    return ops.replay(**({"lineages": founders(2, seed=1), "layout": LAYOUT} | changes))


BYTES = np.zeros((2, 1, 5, 5), np.uint8)


def convolution(**changes: Any) -> Any:
    options: dict[str, Any] = {"x": numbers(2, 1, 5, 5), "w": numbers(3, 9, 2), "b": numbers(3, 2)}
    return ops.conv2d_forward(**(options | changes))


def banked(**changes: Any) -> Any:
    """Two dense layers with three and five rows in their banks, two slots."""
    options: dict[str, Any] = {
        "genomes": [numbers(3, 12), numbers(5, 8)],
        "network": Network.mlp(3, [3], 2),
        "x": numbers(4, 3),
        "index": ints(2, 0, 4, 1).reshape(2, 2),
    }
    return ops.network_forward(**(options | changes))


def dense(**changes: Any) -> Any:
    options: dict[str, Any] = {
        "x": numbers(5, 2),
        "w": numbers(4, 2, 3),
        "b": numbers(4, 3),
    }
    return ops.dense_forward(**(options | changes))


def scale(**changes: Any) -> Any:
    options: dict[str, Any] = {
        "x": numbers(4, 2, 3, 5),
        "scale": numbers(4, 3),
        "shift": numbers(4, 3),
    }
    return ops.affine(**(options | changes))


def forward(**changes: Any) -> Any:
    options: dict[str, Any] = {"genomes": numbers(4, 9), "network": NETWORK, "x": numbers(5, 2)}
    return ops.network_forward(**(options | changes))


def loss(**changes: Any) -> Any:
    options: dict[str, Any] = {
        "genomes": numbers(4, 9),
        "network": NETWORK,
        "x": numbers(5, 2),
        "y": np.arange(5) % 3,
    }
    return ops.network_loss(**(options | changes))


def mutants(**changes: Any) -> Any:
    """Three networks of two layers, each with two of four units of its own."""
    options: dict[str, Any] = {
        "genes": numbers(3, 6),
        "index": ints(0, 1, 1),
        "centre": numbers(1, 27),
        "network": Network.mlp(2, [4], 3),
        "x": numbers(5, 2),
        "y": np.arange(5) % 3,
    }
    return ops.mutant_loss(**(options | changes))


def largest(**changes: Any) -> Any:
    return ops.max_pool2d(**({"x": numbers(1, 4, 4), "kernel": 2} | changes))


def mean(**changes: Any) -> Any:
    return ops.avg_pool2d(**({"x": numbers(1, 4, 4), "kernel": 2} | changes))


def init(**changes: Any) -> Any:
    return ops.init_genomes(**({"layout": LAYOUT, "n": 2, "seed": 1} | changes))


def read_only(*shape: int) -> np.ndarray:
    array = np.zeros(shape, F)
    array.flags.writeable = False
    return array


def overlapping_rows(rows: int, columns: int) -> np.ndarray:
    memory = np.zeros(rows + columns, F)
    return np.lib.stride_tricks.as_strided(memory, (rows, columns), (4, 4))


def between_addresses(*shape: int) -> np.ndarray:
    """float32 that starts one byte past a multiple of 4."""
    return np.zeros(np.prod(shape) * 4 + 1, np.uint8)[1:].view(F).reshape(shape)


def bank(rows: int, columns: int) -> dict[str, np.ndarray]:
    """Genomes that are the first 4 rows of out."""
    whole = numbers(rows, columns)
    return {"genomes": whole[:4], "out": whole}


def same(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """An input that is out, too."""
    return {name: array, "out": array}


def shifted(name: str, *shape: int) -> dict[str, np.ndarray]:
    """An input that lies one element before out."""
    whole = np.ones(np.prod(shape) + 1, F)
    return {name: whole[:-1].reshape(shape), "out": whole[1:].reshape(shape)}


# The call, what is wrong, the error, and words that the message must hold in this order.
WRONG: list[tuple[Callable[..., Any], dict[str, Any], type[EvokernError], str]] = [
    # mutant_loss
    (
        mutants,
        {"genes": numbers(3, 7)},
        ShapeError,
        "genes: expected [S, 3 * U] with U a divisor o",
    ),
    (mutants, {"genes": numbers(3, 9)}, ShapeError, "genes: ...divisor of 4, got [S, 9]"),
    (mutants, {"genes": numbers(3, 0)}, ShapeError, "genes: ...got [S, 0]"),
    (mutants, {"genes": numbers(6)}, ShapeError, "genes: expected float32 [S, I * U + U]"),
    (mutants, {"genes": numbers(3, 6).astype(np.float64)}, DtypeError, "genes: ...float64"),
    (mutants, {"index": ints(0, 1)}, ShapeError, "index: expected [S] = [3], got [2]"),
    (mutants, {"index": ints(0, 2, 1)}, ArgumentError, "index: ...[0, 1]...got an entry 2"),
    (mutants, {"index": ints(0, -1, 1)}, ArgumentError, "index: ...got an entry -1"),
    (mutants, {"index": np.zeros(3, int)}, DtypeError, "index: ...int64"),
    (mutants, {"centre": numbers(1, 26)}, ShapeError, "centre: expected [1, G] = [1, 27]"),
    (mutants, {"centre": numbers(2, 27)}, ShapeError, "centre: expected [1, G] = [1, 27], got [2"),
    (mutants, {"centre": np.zeros((1, 27), np.uint16)}, DtypeError, "centre: ...uint16"),
    (mutants, {"centre": [numbers(1, 12)]}, DtypeError, "centre: expected an array, got list"),
    (mutants, {"x": np.zeros((5, 2), np.uint8)}, DtypeError, "x: ...uint8"),
    (mutants, {"network": LAYOUT}, DtypeError, "network: expected an evokern Network"),
    (mutants, {"x": numbers(3, 5, 2)}, ShapeError, "x: expected float32 [B, I], one batch for all"),
    (mutants, {"x": numbers(5, 3)}, ShapeError, "x: "),
    (mutants, {"y": np.full(5, 3)}, ArgumentError, "y: ...classes of the network"),
    (mutants, {"y": np.zeros(4, int)}, ShapeError, "y: "),
    (mutants, {"y": np.zeros(5, int), "loss": "mse"}, DtypeError, "y: ...int64"),
    (mutants, {"loss": "hinge"}, ArgumentError, "loss: expected one of"),
    (mutants, {"sample_weights": numbers(4)}, ShapeError, "sample_weights: expected [5] or [3, 5]"),
    (mutants, {"network": NETWORK, "centre": numbers(1, 9)}, ShapeError, "genes: "),
    (
        mutants,
        {"network": Network((Activation("relu"),), (2,)), "centre": numbers(1, 0)},
        ArgumentError,
        "network: expected",
    ),
    (mutants, {"backend": "cuda"}, BackendError, "backend: mutant_loss on cuda is not written"),
    # init_genomes
    (init, {"scheme": "xavier"}, ArgumentError, "scheme: expected one of [...unit_rows...'xavier'"),
    (init, {"n": -1}, ArgumentError, "n: expected an int in [0, ...], got -1"),
    (init, {"n": 2.0}, DtypeError, "n: expected an int, got float 2.0"),
    (init, {"n": True}, DtypeError, "n: expected an int, got bool True"),
    (init, {"seed": -1}, ArgumentError, "seed: ...got -1"),
    (init, {"seed": 2**64}, ArgumentError, "seed: expected an int in [0, 18446744073709551615]"),
    (init, {"seed": "7"}, DtypeError, "seed: expected an int, got str '7'"),
    (init, {"first": 2**32}, ArgumentError, "first: expected an int in [0, 4294967295]"),
    (init, {"first": -1}, ArgumentError, "first: ...got -1"),
    (init, {"out": np.zeros((2, 8), F)}, ShapeError, "out: expected [n, G] = [2, 9], got [2, 8]"),
    (init, {"out": np.zeros((2, 9))}, DtypeError, "out: ...float64...try out.astype(np.float32)"),
    (init, {"out": np.zeros((9, 2), F).T}, LayoutError, "out: ...ascontiguousarray(out)"),
    (init, {"out": read_only(2, 9)}, LayoutError, "out: expected a writable array"),
    (init, {"out": overlapping_rows(2, 9)}, LayoutError, "out: expected rows that do not overlap"),
    (init, {"out": [0.0]}, DtypeError, "out: expected an array, got list; try np.asarray(out)"),
    # crossover_mutate
    (vary, {"genomes": numbers(9)}, ShapeError, "genomes: expected float32 [P, G], got...[9]"),
    (vary, {"genomes": numbers(4, 9).astype(np.float64)}, DtypeError, "genomes: ...float64 [4, 9]"),
    (vary, {"genomes": numbers(4, 9).astype(np.float16)}, DtypeError, "genomes: ...float16"),
    (vary, {"genomes": numbers(4, 9).astype(">f4")}, DtypeError, "genomes: ...got >f4"),
    (vary, {"genomes": numbers(9, 4).T}, LayoutError, "genomes: ...try np.ascontiguousarray(gen"),
    (vary, {"genomes": numbers(4, 18)[:, ::2]}, LayoutError, "genomes: ...contiguous last axis"),
    (vary, {"genomes": numbers(4, 9)[:, ::-1]}, LayoutError, "genomes: ...strides (36, -4)"),
    (vary, {"genomes": between_addresses(4, 9)}, LayoutError, "genomes: ...multiples of 4 bytes"),
    (vary, {"genomes": [[0.0] * 9]}, DtypeError, "genomes: expected an array, got list"),
    (vary, {"parents": ints(0, 1, 2)}, ShapeError, "parents: expected int32 [R, S]"),
    (vary, {"parents": ints([0, 1, 4])}, ArgumentError, "parents: ...[0, 3]...got an entry 4"),
    (vary, {"parents": ints([0, -1, 3])}, ArgumentError, "parents: ...[0, 3]...got an entry -1"),
    (vary, {"parents": np.zeros((1, 3), int)}, DtypeError, "parents: ...int64...astype(np.int32)"),
    (vary, {"parents": np.zeros((0, 3), np.int32)}, ShapeError, "parents: expected int32 [R, S]"),
    (vary, {"parents": ints([0, 1], [2, 3], [1, 0]).T}, LayoutError, "parents: ...ascontiguous"),
    (vary, {"genomes": numbers(0, 9)}, ArgumentError, "parents: ...rows of genomes"),
    (vary, {"sigma": np.zeros(2, F)}, ShapeError, "sigma: expected [S] = [3], got [2]"),
    (vary, {"sigma": np.zeros(3)}, DtypeError, "sigma: ...float64"),
    (vary, {"sigma": np.array([0, -0.5, 0], F)}, ArgumentError, "sigma: ...sigma[1] = -0.5"),
    (vary, {"sigma": np.array([0, 1, np.nan], F)}, ArgumentError, "sigma: ...sigma[2] = nan"),
    (vary, {"sigma": np.array([np.inf, 1, 1], F)}, ArgumentError, "sigma: ...sigma[0] = inf"),
    (vary, {"kind": "one_point"}, ArgumentError, "kind: expected one of ['uniform'...'one_point'"),
    (vary, {"distribution": "laplace"}, ArgumentError, "distribution: expected one of ['normal'"),
    (vary, {"rate": -0.1}, ArgumentError, "rate: expected a probability in [0, 1], got -0.1"),
    (vary, {"rate": 1.5}, ArgumentError, "rate: expected a probability in [0, 1], got 1.5"),
    (vary, {"rate": np.nan}, ArgumentError, "rate: expected a probability in [0, 1], got nan"),
    (vary, {"mutation_rate": 2}, ArgumentError, "mutation_rate: expected a probability"),
    (vary, {"mutation_rate": np.nan}, ArgumentError, "mutation_rate: ...got nan"),
    (vary, {"generation": -1}, ArgumentError, "generation: expected an int in [0, 4294967295]"),
    (vary, {"generation": 2**32}, ArgumentError, "generation: ...got 4294967296"),
    (vary, {"generation": 1.5}, DtypeError, "generation: expected an int, got float"),
    (vary, {"kind": "rows"}, ArgumentError, "layout: ...got None; pass layout=network.layout"),
    (
        vary,
        {"kind": "rows", "layout": GenomeLayout((DenseGenes(1, 1),))},
        ShapeError,
        "layout: expected a layout of G=9 genes, got 2 genes",
    ),
    (
        vary,
        {"kind": "arithmetic", "weights": np.full((2, 3), 0.6, F)},
        ArgumentError,
        "weights: expected finite numbers that sum to 1...weights[:, 0] = ...divide by",
    ),
    (
        vary,
        {"kind": "arithmetic", "weights": np.array([[0.5, 0.5, np.inf], [0.5, 0.5, -np.inf]], F)},
        ArgumentError,
        "weights: ...weights[:, 2] = [inf, -inf]",
    ),
    (
        vary,
        {"kind": "arithmetic", "weights": np.full((2, 3), np.nan, F)},
        ArgumentError,
        "weights: ...weights[:, 0] = [nan, nan]",
    ),
    (
        vary,
        {"kind": "arithmetic", "weights": np.ones((1, 3), F)},
        ShapeError,
        "weights: expected [R, S] = [2, 3], got [1, 3]",
    ),
    (vary, {"out": np.zeros((4, 9), F)}, ShapeError, "out: expected [S, G] = [3, 9], got [4, 9]"),
    (vary, {"out": overlapping_rows(3, 9)}, LayoutError, "out: expected rows that do not overlap"),
    (vary, {"out": read_only(3, 9)}, LayoutError, "out: expected a writable array"),
    (vary, bank(4, 9) | {"out": None, "out_rows": ints(0, 1, 2)}, ArgumentError, "out: ...None"),
    (
        vary,
        same("genomes", numbers(3, 9)) | {"parents": ints([0, 1, 2])},
        ArgumentError,
        "out: expected memory apart from genomes, got an overlap; write to another array",
    ),
    (vary, bank(9, 9) | {"out_rows": ints(5, 2, 6)}, ArgumentError, "out_rows: ...row 2, a parent"),
    (vary, bank(9, 9) | {"out_rows": ints(5, 5, 6)}, ArgumentError, "out_rows: expected distinct"),
    (
        vary,
        bank(9, 9) | {"out_rows": ints(5, 6, 9)},
        ArgumentError,
        "out_rows: ...[0, 8]...got an e",
    ),
    (
        vary,
        bank(9, 9) | {"out_rows": ints(-1, 5, 6)},
        ArgumentError,
        "out_rows: ...got an entry -",
    ),
    (vary, bank(9, 9) | {"out_rows": ints(5, 6)}, ShapeError, "out_rows: expected [S] = [3]"),
    (vary, bank(9, 9) | {"out_rows": np.arange(5, 8)}, DtypeError, "out_rows: ...int64"),
    # mutate_sigma
    (
        adapt,
        {"tau": -1.0},
        ArgumentError,
        "tau: expected a finite number >= 0 that float32 can hold, got -1.0",
    ),
    (adapt, {"tau": np.inf}, ArgumentError, "tau: ...got inf"),
    (adapt, {"tau": np.nan}, ArgumentError, "tau: ...got nan"),
    (adapt, {"sigma": np.array([-1], F)}, ArgumentError, "sigma: ...sigma[0] = -1"),
    (adapt, {"sigma": np.ones((2, 2), F)}, ShapeError, "sigma: expected float32 [S]"),
    (adapt, {"sigma": F(1)}, DtypeError, "sigma: expected an array, got float32"),
    (adapt, {"generation": -1}, ArgumentError, "generation: "),
    (adapt, {"out": np.zeros(4, F)}, ShapeError, "out: expected [S] = [5], got [4]"),
    (adapt, shifted("sigma", 5), ArgumentError, "out: expected memory apart from sigma"),
    # dense_forward
    (dense, {"activation": "swish"}, ArgumentError, "activation: expected one of ['identity'"),
    (dense, {"precision": "fp16"}, ArgumentError, "precision: expected one of ['fp32'"),
    (dense, {"precision": "tf32"}, BackendError, "precision: tf32 is a GPU format...fp32 and bf16"),
    (dense, {"w": numbers(4, 6)}, ShapeError, "w: expected float32 [P, I, O], got float32 [4, 6]"),
    (dense, {"w": numbers(4, 3, 2).swapaxes(1, 2)}, LayoutError, "w: ...contiguous last axis"),
    (dense, {"w": numbers(4, 2, 6)[..., :3]}, LayoutError, "w: ...each individual's in one piece"),
    (
        dense,
        {"w": np.zeros((4, 0, 3), F)},
        ShapeError,
        "w: expected [P, I, O] with at least one row",
    ),
    (dense, {"b": numbers(4, 2)}, ShapeError, "b: expected [P, O] = [4, 3], got [4, 2]"),
    (convolution, {"x": BYTES}, ArgumentError, "x_scale: expected a number for x of uint8"),
    (convolution, {"x_scale": 0.5}, ArgumentError, "x_scale: expected None unless x is uint8"),
    (convolution, {"x_scale": 1e39, "x": BYTES}, ArgumentError, "x_scale: ...float32 can hold"),
    (convolution, {"w": numbers(3, 36, 2)}, ShapeError, "kernel: ...the padded input 5x5, got 6x6"),
    (
        dense,
        {"w": np.zeros((0, 1, 65537), F)},
        ShapeError,
        "w: expected at most 16777216 rows and 65536 outputs, got [0, 1, 65537]",
    ),
    (convolution, {"kernel": 2}, ShapeError, "w: expected [P, C*KH*KW=4, O]"),
    (banked, {"genomes": [numbers(3, 12)]}, ShapeError, "genomes: ...(2), got 1 banks"),
    (banked, {"genomes": [numbers(3, 12), numbers(5, 9)]}, ShapeError, "genomes[1]: ...[5, 8]"),
    (banked, {"index": None}, ShapeError, "genomes: ...got [3, 5]; pass index int32 [layers, S]"),
    (
        banked,
        {"index": ints(3, 0, 4, 1).reshape(2, 2)},
        ArgumentError,
        "index[0]: expected entries in [0, 2] (rows of bank 0)",
    ),
    (banked, {"index": ints(0, 1).reshape(1, 2)}, ShapeError, "index: ...= [2, 2], got [1, 2]"),
    (convolution, {"w": numbers(3, 10, 2)}, ShapeError, "w: ...pass kernel=(height, width)"),
    (convolution, {"stride": 0}, ArgumentError, "stride: "),
    (convolution, {"index": np.array([0, 3], np.int32)}, ArgumentError, "index: ...an entry 3"),
    (dense, {"b": numbers(3)}, ShapeError, "b: expected float32 [P, O]"),
    (dense, {"x": numbers(5, 3)}, ShapeError, "x: expected [B, 2]...or [S=4, B, 2], got [5, 3]"),
    (dense, {"x": numbers(3, 5, 2)}, ShapeError, "x: ...got [3, 5, 2]"),
    (dense, {"x": numbers(0, 2)}, ShapeError, "x: expected a batch of B >= 1 samples"),
    (dense, {"x": np.zeros((5, 2), np.uint8)}, DtypeError, "x: ...uint8 [5, 2]...astype(np.float"),
    (dense, {"index": ints(0, 4)}, ArgumentError, "index: ...[0, 3] (individuals), got an entry 4"),
    (dense, {"index": ints(0, -1)}, ArgumentError, "index: ...got an entry -1"),
    (dense, {"index": ints([0, 1])}, ShapeError, "index: expected int32 [S]...int32 [1, 2]"),
    (dense, {"index": np.arange(2)}, DtypeError, "index: ...int64...try index.astype(np.int32)"),
    (dense, {"index": [0, 1]}, DtypeError, "index: expected an array, got list"),
    (dense, {"out": np.zeros((4, 5, 2), F)}, ShapeError, "out: expected [S, B, O] = [4, 5, 3]"),
    (dense, {"out": np.zeros((4, 3, 5), F).swapaxes(1, 2)}, LayoutError, "out: ...contiguous last"),
    (
        dense,
        same("x", numbers(4, 5, 2)) | {"w": numbers(4, 2, 2), "b": numbers(4, 2)},
        ArgumentError,
        "out: expected memory apart from x",
    ),
    # pools
    (largest, {"x": numbers(4, 4)}, ShapeError, "x: expected float32 [..., C, H, W]...got [4, 4]"),
    (largest, {"kernel": 5}, ShapeError, "kernel: expected at most the padded input 4x4, got 5x5"),
    (
        largest,
        {"kernel": 0},
        ArgumentError,
        "kernel: expected an int or a pair...>= 1, got 0",
    ),
    (largest, {"kernel": (2, 2, 2)}, ArgumentError, "kernel: ...got (2, 2, 2)"),
    (largest, {"stride": 0}, ArgumentError, "stride: expected an int or a pair of ints >= 1"),
    (
        mean,
        {"padding": 2},
        ArgumentError,
        "padding: expected at most half the kernel (2, 2)",
    ),
    (mean, {"padding": -1}, ArgumentError, "padding: expected an int or a pair of ints >= 0"),
    (mean, {"x": np.zeros((1, 4, 4))}, DtypeError, "x: ...float64...try x.astype(np.float32)"),
    (mean, {"x": numbers(1, 4, 8)[..., ::2]}, LayoutError, "x: ...np.ascontiguousarray(x)"),
    (largest, {"x": numbers(3, 4, 2, 4, 4)[:, :2]}, LayoutError, "x: expected images that follow"),
    (largest, {"out": np.zeros((1, 3, 2), F)}, ShapeError, "out: ...= [1, 2, 2], got [1, 3, 2]"),
    (largest, same("x", numbers(1, 4, 4)) | {"kernel": 1}, ArgumentError, "out: ...apart from x"),
    # affine
    (scale, {"x": numbers(4, 3)}, ShapeError, "x: expected float32 [S, B, C, ...], got [4, 3]"),
    (scale, {"x": numbers(3, 2, 3, 5)}, ShapeError, "x: expected [S=4, B, C, ...], got [3, 2,"),
    (scale, {"scale": numbers(4, 2)}, ShapeError, "scale: expected [P, C] = [4, 3], got [4, 2]"),
    (scale, {"shift": numbers(3, 3)}, ShapeError, "shift: expected [P, C] = [4, 3], got [3, 3]"),
    (scale, {"shift": np.zeros((4, 3))}, DtypeError, "shift: ...float64"),
    (scale, {"index": ints(0, 1, 2, 4)}, ArgumentError, "index: ...got an entry 4"),
    (scale, {"x": numbers(4, 2, 3, 5, 4)[..., :2]}, LayoutError, "x: ...ascontiguousarray(x)"),
    (scale, shifted("x", 4, 2, 3, 5), ArgumentError, "out: expected memory apart from x"),
    (
        scale,
        {"x": numbers(4, 3, 3), "out": np.zeros((4, 6, 3), F)[:, ::2]}
        | {"scale": np.ones((4, 3), np.float16)},
        DtypeError,
        "scale: ...float16 [4, 3]; try scale.astype(np.float32)",
    ),
    (
        scale,
        {"out": np.zeros((4, 2, 3, 5, 3), F)[..., 0]},
        LayoutError,
        "out: ...contiguous last axis",
    ),
    (
        scale,
        {"x": numbers(4, 2, 3, 2, 2), "out": np.zeros((4, 2, 3, 2, 3), F)[..., :2]},
        LayoutError,
        "out: expected samples (channels) that lie in one piece...np.ascontiguousarray(out)",
    ),
    # networks
    (forward, {"network": None}, DtypeError, "network: expected an evokern Network, got NoneType"),
    (forward, {"genomes": numbers(4, 8)}, ShapeError, "genomes: expected [P, G] = [4, 9]"),
    (forward, {"genomes": numbers(9)}, ShapeError, "genomes: expected float32 [P, G=9]"),
    (forward, {"x": numbers(5, 3)}, ShapeError, "x: expected [B, 2] (one batch for all slots) or"),
    (forward, {"x": numbers(4, 0, 2)}, ShapeError, "x: expected a batch of B >= 1 samples"),
    (forward, {"x": np.zeros((5, 2), int)}, DtypeError, "x: ...int64"),
    (forward, {"index": ints(4)}, ArgumentError, "index: ...got an entry 4"),
    (forward, {"precision": "tf32"}, BackendError, "precision: tf32"),
    (forward, {"precision": "double"}, ArgumentError, "precision: "),
    (forward, {"out": np.zeros((4, 5), F)}, ShapeError, "out: expected float32 [S, B, *output_sh"),
    (
        forward,
        {"network": IMAGES, "genomes": np.zeros((4, 0), F), "x": numbers(5, 2, 4, 8)[..., :4]},
        LayoutError,
        "x: expected samples (channels) that lie in one piece...np.ascontiguousarray(x)",
    ),
    (
        forward,
        {
            "network": IMAGES,
            "genomes": np.zeros((1, 0), F),
            "x": numbers(5, 2, 4, 4),
            "out": np.zeros((1, 5, 2, 2, 3), F)[..., :2],
        },
        LayoutError,
        "out: expected samples (channels) that lie in one piece",
    ),
    (
        forward,
        {"network": Network((Flatten(),), (2,)), "genomes": np.zeros((4, 0), F)}
        | same("x", numbers(4, 5, 2)),
        ArgumentError,
        "out: expected memory apart from x",
    ),
    (loss, {"network": np.zeros((2, 3), F)}, DtypeError, "network: expected an evokern Network"),
    (loss, {"loss": "hinge"}, ArgumentError, "loss: expected one of ['cross_entropy', 'mse']"),
    (loss, {"precision": "tf32"}, BackendError, "precision: tf32"),
    (
        loss,
        {"network": IMAGES, "genomes": np.zeros((4, 0), F), "x": numbers(5, 2, 4, 4)},
        ShapeError,
        "network: expected a flat output [O], got [2, 2, 2]; add Flatten()",
    ),
    (loss, {"y": np.zeros(4, int)}, ShapeError, "y: expected [5] or [4, 5], got [4]"),
    (loss, {"y": np.zeros((3, 5), int)}, ShapeError, "y: expected [5] or [4, 5], got [3, 5]"),
    (loss, {"y": np.zeros(5)}, DtypeError, "y: ...float64; try y.astype(np.int64)"),
    (loss, {"y": np.zeros(5, bool)}, DtypeError, "y: expected integer labels [B] or...bool"),
    (loss, {"y": [0] * 5}, DtypeError, "y: expected an array, got list"),
    (
        loss,
        {"y": np.array([0, 1, 2, 3, 0])},
        ArgumentError,
        "y: ...[0, 2] (classes...an entry 3",
    ),
    (loss, {"y": np.array([0, 1, 2, -1, 0])}, ArgumentError, "y: ...got an entry -1"),
    (loss, {"y": np.full(5, 2**64 - 1, np.uint64)}, ArgumentError, "y: expected entries in [0, 2]"),
    (loss, {"classes": ints(3, 3, 2, 3)}, ArgumentError, "y: expected labels < classes[2]=2"),
    (loss, {"classes": ints(3, 3, 0, 3)}, ArgumentError, "classes: expected entries in [1, 3]"),
    (loss, {"classes": ints(3, 3, 4, 3)}, ArgumentError, "classes: ...got an entry 4"),
    (loss, {"classes": ints(3, 3)}, ShapeError, "classes: expected [S] = [4], got [2]"),
    (loss, {"classes": np.full(4, 3)}, DtypeError, "classes: ...int64"),
    (loss, {"sample_weights": np.ones(5)}, DtypeError, "sample_weights: ...float64 [5]"),
    (loss, {"sample_weights": numbers(4)}, ShapeError, "sample_weights: expected [5] or [4, 5]"),
    (
        loss,
        {"sample_weights": [1.0] * 5},
        DtypeError,
        "sample_weights: expected an array, got list",
    ),
    (loss, {"loss": "mse"}, DtypeError, "y: expected float32 [B, O] or [S, B, O], got int64 [5]"),
    (
        loss,
        {"loss": "mse", "y": numbers(5)},
        ShapeError,
        "y: expected [5, 3] or [4, 5, 3], got",
    ),
]


def pattern(words: str) -> str:
    return ".*".join(re.escape(part) for part in words.split("..."))


@pytest.mark.parametrize(
    ("call", "changes", "error", "words"),
    [
        pytest.param(*row, id=f"{row[0].__name__}-{number}-{row[3].partition(':')[0]}")
        for number, row in enumerate(WRONG)
    ],
)
def test_bad_input_is_named(
    call: Callable[..., Any], changes: dict[str, Any], error: type[EvokernError], words: str
) -> None:
    with pytest.raises(error, match=f"^{pattern(words)}"):
        call(**changes)


def test_the_plain_calls_are_right() -> None:
    for call in (init, vary, adapt, rebuild, dense, largest, mean, scale, forward, loss):
        call()


@pytest.mark.parametrize(
    ("call", "op"),
    [
        (init, "init_genomes"),
        (vary, "crossover_mutate"),
        (adapt, "mutate_sigma"),
        (rebuild, "replay"),
        (dense, "dense_forward"),
        (largest, "max_pool2d"),
        (mean, "avg_pool2d"),
        (scale, "affine"),
        (forward, "network_forward"),
        (loss, "network_loss"),
    ],
)
def test_a_back_end_that_is_not_there_says_why(call: Callable[..., Any], op: str) -> None:
    with pytest.raises(BackendError, match=pattern("backend: expected auto or one of ['refere")):
        call(backend="numpy")


def test_an_op_without_a_function_for_a_back_end_says_which_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(TABLE, "polish", Op({"reference": "nowhere:polish"}))
    words = "backend: polish on cuda is not written; there are reference"
    with pytest.raises(BackendError, match=pattern(words)):
        resolve("polish", "cuda")


def test_triton_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in [name for name in sys.modules if name.startswith("evokern.backends.triton.")]:
        monkeypatch.delitem(sys.modules, name)
    resolve.cache_clear()
    with pytest.raises(BackendError, match=r"affine on triton: .*pip install 'evokern\[triton\]'"):
        resolve("affine", "triton")


def test_cuda_takes_no_arrays_of_the_host() -> None:
    words = "sigma: expected an array on a device for backend='cuda', got on the host; copy it"
    with pytest.raises(BackendError, match=pattern(words)):
        ops.mutate_sigma(np.ones(3, F), tau=0.1, seed=1, generation=1, backend="cuda")


@pytest.mark.parametrize("threads", [0, -1, 1025, 100_000, 2**40])
def test_a_number_of_threads_out_of_range_is_refused(threads: int) -> None:
    with pytest.raises(
        ArgumentError, match=rf"^threads: expected an int in \[1, 1024\], got {threads}"
    ):
        evokern.set_threads(threads)


@pytest.mark.parametrize("threads", [1.0, True, "2", None])
def test_a_number_of_threads_that_is_no_int_is_refused(threads: Any) -> None:
    with pytest.raises(DtypeError, match=r"^threads: expected an int, got"):
        evokern.set_threads(threads)


@pytest.mark.parametrize("value", ["a", None, True, [0.5]])
@pytest.mark.parametrize("name", ["rate", "mutation_rate"])
def test_a_probability_that_is_no_number_is_refused(name, value):
    genomes = np.zeros((2, 3), np.float32)
    parents, sigma = np.zeros((2, 4), np.int32), np.zeros(4, np.float32)
    with pytest.raises(DtypeError, match=f"^{name}: expected a number"):
        ops.crossover_mutate(genomes, parents, sigma, seed=0, generation=0, **{name: value})


def test_a_layout_that_is_something_else_is_refused():
    with pytest.raises(DtypeError, match=r"^layout: expected a GenomeLayout, got int"):
        ops.init_genomes(3, 2, seed=0)


def test_an_unknown_back_end_is_refused_even_when_there_is_nothing_to_do():
    with pytest.raises(BackendError, match=r"^backend: expected auto or one of"):
        ops.init_genomes(GenomeLayout(()), 3, seed=0, backend="nonsense")

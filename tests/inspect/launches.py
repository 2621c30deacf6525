"""A small, typical launch of every kernel, for the static verifier (opinion.py).

Shapes are odd where that is allowed, so that edges are there. Grids fit every tile size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

ARRAY = "array"
"""A pointer to memory of its own, of which nothing else is said."""

Value = int | float | str | None | list[int]


@dataclass(frozen=True)
class Launch:
    """`fields` are members of the parameters, as C++ names them.

    A list is a pointer to those 32-bit words, None a null pointer.
    """

    header: str
    parameters: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    fields: dict[str, Value] = field(default_factory=dict)
    shared_bytes: int = 0  # dynamic


def words(fmt: str, *values: float) -> list[int]:
    """The 32-bit words of a struct."""
    packed = struct.pack("<" + fmt, *values)
    return list(struct.unpack(f"<{len(packed) // 4}I", packed))


def gene_part(
    rows: int, outputs: int, content: int, gene: int, unit: int, column: int
) -> list[int]:
    return words("qqi?xxxfxxxxqqq", rows, outputs, content, False, 1.0, gene, unit, column)


# A layer of 7 inputs and 19 outputs: weights, then a bias. Two blocks of 32 threads have its genes.
PARTS: dict[str, Value] = {
    "parts": gene_part(7, 19, 0, 0, 0, 0) + gene_part(1, 19, 1, 133, 19, 19),
    "part_count": 2,
}
GENES = 152
ALWAYS, HALF = 1 << 32, 1 << 31

INIT: dict[str, Value] = {
    "out": ARRAY,
    "out_stride": GENES,
    "individuals": 2,
    "genes": GENES,
    "scheme": 0,
    "seed": 1,
    "first": 0,
    **PARTS,
}

CROSSOVER: dict[str, Value] = {
    "genomes": ARRAY,
    "genomes_stride": GENES,
    "parents": [0, 1, 2, 3],
    "parents_stride": 2,
    "sigma": words("ff", 0.1, 0.1),
    "weights": ARRAY,
    "weights_stride": 2,
    "out_rows": [1, 0],
    "out": ARRAY,
    "out_stride": GENES,
    "parent_count": 2,
    "slots": 2,
    "genes": GENES,
    "distribution": 0,
    "rate_threshold": HALF,
    "mutation_threshold": HALF,
    "seed": 1,
    "generation": 1,
    "first": 0,
    **PARTS,
}

# A founder and its mutated copy, then their crossover.
REPLAY: dict[str, Value] = {
    "out": ARRAY,
    "out_stride": GENES,
    "outputs": 3,
    "genes": GENES,
    "scheme": 0,
    "distribution": 0,
    "rate_threshold": HALF,
    "mutation_threshold": ALWAYS,
    "weights": ARRAY,
    "seed": 1,
    "runs": 3,
    "start": [0, 1, 2],
    "source": [0, 0, 0],
    "target": [0, 1, 2],
    "first_step": words("qqqq", 0, 1, 2, 3),
    "crossed": [0, 1],
    "parent_count": 2,
    "generation": [0, 1, 2],
    "number": [0, 1, 2],
    "sigma": words("fff", 0.0, 0.1, 0.1),
    "independent": 0,
    "segment": GENES,
    "scratch": ARRAY,
    "lengths": ARRAY,
    "weight_columns": 19,
    **PARTS,
}

ROWS: dict[str, Value] = {
    "rows.probabilities": ARRAY,
    "rows.fault": ARRAY,
    "rows.mask": None,
    "rows.stride": 5,
    "rows.choices": 5,
    "out": ARRAY,
}

NES_UPDATE: dict[str, Value] = {
    **ROWS,
    "rows.count": 7,
    "assignments": ARRAY,
    "assignments_stride": 7,
    "losses": ARRAY,
    "utilities": ARRAY,
    "samples": 6,
    "keep_minimum": 1,
    "out_stride": 5,
}


def bank(*names: str, stride: int) -> dict[str, Value]:
    """Parameters of two slots that use the rows the other way round."""
    found: dict[str, Value] = {}
    for name in names:
        found |= {f"{name}.base": ARRAY, f"{name}.row": [1, 0], f"{name}.stride": stride}
    return found


def values(name: str, samples: int, features: int) -> dict[str, Value]:
    return {
        f"{name}.data": ARRAY,
        f"{name}.slot_stride": samples * features,
        f"{name}.sample_stride": features,
    }


LOSSES: dict[str, Value] = {
    "wanted.loss": 0,
    "wanted.labels": words("70q", *(i % 6 for i in range(70))),
    "wanted.targets": ARRAY,
    "wanted.label_slot_stride": 0,
    "wanted.target_sample_stride": 0,
    "wanted.classes": None,
}


def fused_layers() -> dict[str, Value]:
    """One layer for every number of units of a thread, with and without reads of four weights.

    For a tile of 64 samples and as many threads: half of what a block has, for the time it takes.
    """
    outputs = (36, 34, 20, 18, 10, 6)
    sizes = zip((5, *outputs), outputs, (1, 1, 1, 1, 1, 0), strict=False)
    found: dict[str, Value] = {"layer_count": len(outputs)}
    for i, (inputs, outputs, activation) in enumerate(sizes):
        layer = f"layers[{i}]"
        found |= bank(f"{layer}.weights", f"{layer}.bias", stride=36 * 34)
        found |= {
            f"{layer}.inputs": inputs,
            f"{layer}.outputs": outputs,
            f"{layer}.activation": activation,
        }
    return found


ELEMENTS: dict[str, Value] = {
    **values("x", 3, 100),
    **values("other", 3, 100),
    **values("bytes", 3, 100),
    **values("y", 3, 100),
    **bank("scale", "shift", stride=12),
    "bf16_bank": 0,
    "length": 10,
    "x_channel_stride": 10,
    "y_channel_stride": 10,
    "slots": 2,
    "samples": 3,
    "features": 100,
    "wide": 1,
    "activation": 1,
}

POOL: dict[str, Value] = {
    **values("x", 3, 2 * 196),
    **values("y", 3, 2 * 49),
    "slots": 1,
    "samples": 3,
    "channels": 2,
    "x_channel_stride": 196,
    "x_row_stride": 14,
    "y_channel_stride": 49,
    "y_row_stride": 7,
    "height": 14,
    "width": 14,
    "out_height": 7,
    "out_width": 7,
    "kernel_height": 2,
    "kernel_width": 2,
    "stride_height": 2,
    "stride_width": 2,
    "pad_height": 0,
    "pad_width": 0,
    "count_include_pad": 0,
}


def dense(samples: int) -> dict[str, Value]:
    return {
        **values("first.x", samples, 18),
        **values("second.x", samples, 5),
        **values("y", samples, 20),
        **bank("first.weights", "second.weights", "bias", stride=400),
        "first.depth": 18,
        "second.depth": 5,
        "bf16_bank": 0,
        "wide": 1,
        "slots": 2,
        "samples": samples,
        "outputs": 20,
        "activation": 1,
    }


CONV: dict[str, Value] = {
    **values("x", 2, 2 * 16),
    **values("y", 2, 12 * 16),
    **bank("weights", "bias", stride=18 * 12),
    "bytes.data": None,
    "scale.base": None,
    "bf16_bank": 0,
    "wide": 1,
    "slots": 1,
    "samples": 2,
    "channels": 2,
    "height": 4,
    "width": 4,
    "kernel_height": 3,
    "kernel_width": 3,
    "stride_height": 1,
    "stride_width": 1,
    "pad_height": 1,
    "pad_width": 1,
    "out_channels": 12,
    "out_height": 4,
    "out_width": 4,
    "activation": 1,
}

LAUNCHES = {
    "init_genomes_kernel": Launch("variation", "InitGenomesParams", (2, 2, 1), (32, 1, 1), INIT),
    "unit_rows_kernel": Launch("variation", "InitGenomesParams", (2, 2, 1), (32, 1, 1), INIT),
    "crossover_mutate_kernel": Launch(
        "variation", "CrossoverMutateParams", (2, 2, 1), (32, 1, 1), CROSSOVER
    ),
    "mutate_sigma_kernel": Launch(
        "variation",
        "MutateSigmaParams",
        (2, 1, 1),
        (128, 1, 1),
        {"sigma": ARRAY, "out": ARRAY, "individuals": 200, "seed": 1, "generation": 1, "first": 0},
    ),
    "unit_lengths_kernel": Launch("lineage", "ReplayParams", (2, 3, 1), (32, 1, 1), REPLAY),
    "replay_kernel": Launch("lineage", "ReplayParams", (2, 1, 1), (32, 1, 1), REPLAY),
    "nes_sample_kernel": Launch(
        "categorical",
        "NesSampleParams",
        (2, 4, 1),
        (128, 1, 1),
        {**ROWS, "rows.count": 200, "samples": 4, "seed": 1, "step": 1, "out_stride": 200},
    ),
    "nes_utilities_kernel": Launch(
        "categorical", "NesUpdateParams", (1, 1, 1), (128, 1, 1), NES_UPDATE
    ),
    "nes_update_kernel": Launch(
        "categorical", "NesUpdateParams", (2, 1, 1), (32, 4, 1), NES_UPDATE
    ),
    "fused_network_kernel": Launch(
        "network",
        "FusedNetworkParams",
        (2, 1, 1),
        (64, 1, 1),
        {
            **fused_layers(),
            **LOSSES,
            "tile": 64,
            "widest": 36,
            "x": ARRAY,
            "x_u8": None,
            "x_slot_stride": 0,
            "x_sample_stride": 5,
            "samples": 66,
            "out": None,
            "sample_losses": ARRAY,
            "sample_right": ARRAY,
        },
        shared_bytes=4 * (36 * 64 + 2 * 4096),
    ),
    "elements_kernel": Launch("elementwise", "ElementsParams", (1, 1, 1), (32, 8, 1), ELEMENTS),
    "pool_kernel": Launch("pool", "PoolKernelParams", (2, 1, 1), (256, 1, 1), POOL),
    "dense_kernel": Launch("dense", "DenseParams", (2, 1, 1), (128, 1, 1), dense(30)),
    "dense_few_kernel": Launch("dense", "DenseParams", (2, 1, 1), (32, 1, 1), dense(1)),
    "conv_kernel": Launch("conv", "ConvParams", (1, 1, 1), (128, 1, 1), CONV),
    "sample_losses_kernel": Launch(
        "loss",
        "SampleLossesParams",
        (2, 1, 1),
        (128, 1, 1),
        {
            **values("z", 70, 10),
            **LOSSES,
            "slots": 2,
            "samples": 70,
            "outputs": 10,
            "losses": ARRAY,
            "right": ARRAY,
        },
    ),
    "store_parcel_kernel": Launch(
        "upload", "Parcel", (1, 1, 1), (128, 1, 1), {"to": ARRAY, "count": 200, "words": [7] * 960}
    ),
    "finish_losses_kernel": Launch(
        "loss",
        "FinishLossesParams",
        (2, 1, 1),
        (128, 1, 1),
        {
            "losses": ARRAY,
            "right": ARRAY,
            "slots": 5,
            "samples": 70,
            "sample_weights": ARRAY,
            "out_loss": ARRAY,
            "out_correct": ARRAY,
        },
    ),
}

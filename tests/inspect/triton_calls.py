"""Calls of the library that reach every Triton kernel in every configuration.

Shapes are those of real runs. Rows of genomes are aligned as a population's are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from triton_recorder import Array, array, bank

from evokern import ops
from evokern.layers import (
    Activation,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Elman,
    Flatten,
    GlobalAvgPool,
    MaxPool2d,
    Residual,
)
from evokern.lineage import Lineages, founders
from evokern.network import ACTIVATIONS, Network
from evokern.rules import CROSSOVER_KINDS, DISTRIBUTIONS, INIT_SCHEMES, PRECISIONS

Call = tuple[str, Callable[[], Any]]
"""What to call it, and the call."""

WIDE = {
    "init_genomes_kernel": "stores",
    "crossover_mutate_kernel": "loads stores",
    "replay_kernel": "stores",
    "activation_kernel": "loads stores",
    "add_kernel": "loads stores",
    "affine_kernel": "loads stores",
    "affine_images_kernel": "loads stores",
    "widen_bytes_kernel": "stores",
    "dense_kernel": "loads",
}
"""Kernels that access memory by 16 bytes wherever rows allow it, as they do in all of the calls."""

SEED = (3 << 40) + 7
POPULATION = 1000

MLP = Network((Flatten(), Dense(256, "relu"), Dense(64, "tanh"), Dense(16)), (1, 28, 28))
THESIS = Network((Dense(256, "relu"), Dense(128, "relu"), Dense(64, "relu"), Dense(10)), (196,))
WIDEST = Network((Dense(256, "tanh"), Dense(128, "tanh"), Dense(64, "tanh"), Dense(60)), (300,))
DEEP = Network((Flatten(), *(Dense(128, name) for name in ACTIVATIONS), Dense(10)), (1, 8, 8))
SHORT = Network((Dense(8, "tanh"), Dense(2)), (6,))
SMALL = Network((Dense(64, "tanh"), Dense(64, "tanh"), Dense(16)), (32,))
IMAGES = Network(
    (
        Conv2d(16, 3, padding=1),
        Affine("relu"),
        MaxPool2d(2),
        Residual((Conv2d(16, 3, padding=1), Affine("relu"), Conv2d(16, 3, padding=1))),
        Conv2d(32, 3, 2, 1, "silu"),
        AvgPool2d(2, 2),
        Affine("gelu"),
        Conv2d(64, 3, 1, 1),
        Activation("gelu_tanh"),
        GlobalAvgPool(),
        Flatten(),
        Dense(16),
    ),
    (3, 32, 32),
)
PLAIN = Network(
    (Activation("gelu"), Flatten(), Dense(64), Affine("silu"), Dense(16), Activation("sigmoid")),
    (1, 8, 8),
)
SEQUENCES = Network((Elman(64, return_sequence=True), Elman(64), Dense(16)), (16, 32))


def run(op: str, *arguments: Any, **options: Any) -> Callable[[], Any]:
    return lambda: getattr(ops, op)(*arguments, backend="triton", **options)


def variation() -> Iterator[Call]:
    for (size, network), scheme in itertools.product(
        {"long": MLP, "short": SHORT}.items(), INIT_SCHEMES
    ):
        out = bank(POPULATION, network.layout.size)
        call = run("init_genomes", network.layout, POPULATION, seed=SEED, scheme=scheme, out=out)
        yield f"init_genomes, {size}, {scheme}", call
    for distribution in DISTRIBUTIONS:
        yield crossed(MLP, "none", distribution)
    for kind in CROSSOVER_KINDS:
        yield crossed(MLP, kind)
        yield crossed(MLP, kind, mutation_rate=0.1)
        yield crossed(MLP, kind, mutation_rate=0.0)
        yield crossed(SHORT, kind)
        yield crossed(MLP, kind, parents=1 if kind == "none" else 3)
    yield crossed(MLP, "uniform", rows=True)
    call = run("mutate_sigma", array(POPULATION), tau=0.1, seed=SEED, generation=1)
    yield "mutate_sigma", call


def crossed(
    network: Network,
    kind: str,
    distribution: str = "normal",
    *,
    parents: int = 2,
    mutation_rate: float = 1.0,
    rows: bool = False,
) -> Call:
    genes = network.layout.size
    chosen = (np.arange(parents * POPULATION, dtype=np.int32) % POPULATION).reshape(parents, -1)
    call = run(
        "crossover_mutate",
        bank(POPULATION, genes),
        chosen,
        np.ones(POPULATION, np.float32),
        kind=kind,
        distribution=distribution,
        mutation_rate=mutation_rate,
        layout=network.layout if kind == "rows" else None,
        seed=SEED,
        generation=1,
        out=bank(2 * POPULATION, genes) if rows else bank(POPULATION, genes),
        out_rows=np.arange(POPULATION, dtype=np.int32) if rows else None,
    )
    name = f"crossover_mutate, {genes} genes, {parents} parents, {kind}, {distribution}"
    return f"{name}, mutation rate {mutation_rate}{', rows' if rows else ''}", call


def lineage() -> Iterator[Call]:
    for distribution in DISTRIBUTIONS:
        yield replayed(MLP, kind="none", distribution=distribution)
    for kind in CROSSOVER_KINDS:
        yield replayed(MLP, kind=kind)
        yield replayed(MLP, kind=kind, mutation_rate=0.1)
        yield replayed(SHORT, kind=kind)
    for scheme in INIT_SCHEMES:
        yield replayed(MLP, kind="none", scheme=scheme)


def replayed(network: Network, **options: Any) -> Call:
    out = bank(8, network.layout.size)
    call = run("replay", bred(**options), network.layout, out=out)
    words = ", ".join(map(str, options.values()))
    return f"replay, {network.layout.size} genes, {words}", call


def bred(**options: Any) -> Lineages:
    """Eight individuals after three generations."""
    lineages = founders(8, seed=SEED, **options)
    parents = np.stack([np.arange(8), np.arange(8)[::-1]]).astype(np.int32)
    for generation in range(3):
        sigma = np.full(8, 0.1, np.float32)
        lineages = lineages.offspring(parents, sigma, generation=generation)
    return lineages


def categorical() -> Iterator[Call]:
    for choices, masked in itertools.product((4, 32, 1000), (False, True)):
        table = array(64, choices)
        mask = array(64, choices, dtype=np.bool_) if masked else None
        name = f"{choices} choices{', masked' if masked else ''}"
        yield f"nes_sample, {name}", run("nes_sample", table, 128, seed=SEED, step=1, mask=mask)
        for keep in (False, True):
            call = run(
                "nes_update",
                table,
                array(128, 64, dtype=np.int32),
                array(128),
                learning_rate=0.1,
                min_probability=0.0001,
                keep_minimum=keep,
                mask=mask,
            )
            yield f"nes_update, {name}, keep_minimum={keep}", call


def layers() -> Iterator[Call]:
    for precision, samples, outputs in itertools.product(PRECISIONS, (4, 16, 256), (16, 256)):
        yield dense(precision, samples, 128, outputs)
    for samples in (1, 8):
        yield dense("fp32", samples, 128, 256)
    for activation in ACTIVATIONS:
        yield dense("fp32", 256, 128, 256, activation)
    yield dense("fp32", 256, 128, 256, bias=False)
    for precision, outputs in itertools.product(PRECISIONS, (16, 32, 64)):
        yield conv(precision, outputs)
    for precision in PRECISIONS:
        yield conv(precision, 64, of_bytes=True)
    yield conv("fp32", 64, "gelu")
    x = array(8, 64, 16, 16, 16)
    yield "affine, images", run("affine", x, array(8, 16), array(8, 16))
    yield "affine", run("affine", array(8, 64, 128), array(8, 128), array(8, 128))
    for activation in ACTIVATIONS:
        yield f"residual, {activation}", run("residual", x, x, activation=activation)


def dense(
    precision: str,
    samples: int,
    inputs: int,
    outputs: int,
    activation: str = "relu",
    *,
    bias: bool = True,
) -> Call:
    call = run(
        "dense_forward",
        array(32, samples, inputs),
        array(32, inputs, outputs),
        array(32, outputs) if bias else None,
        activation=activation,
        precision=precision,
    )
    sizes = f"{samples} x {inputs} x {outputs}"
    return f"dense_forward, {sizes}, {precision}, {activation}, bias={bias}", call


def conv(precision: str, outputs: int, activation: str = "relu", *, of_bytes: bool = False) -> Call:
    call = run(
        "conv2d_forward",
        array(8, 64, 16, 16, 16, dtype=np.uint8 if of_bytes else np.float32),
        array(8, 16 * 9, outputs),
        array(8, outputs),
        kernel=3,
        padding=1,
        activation=activation,
        precision=precision,
        x_scale=1 / 255 if of_bytes else None,
    )
    name = f"conv2d_forward, {outputs} outputs, {precision}, {activation}"
    return f"{name}{', bytes' if of_bytes else ''}", call


def pools() -> Iterator[Call]:
    images = array(4, 64, 16, 32, 32)
    for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), ((3, 2), 1, 0)):
        name = f"{kernel}, {stride}, {padding}"
        yield f"max_pool2d, {name}", run("max_pool2d", images, kernel, stride, padding)
        yield f"avg_pool2d, {name}", run("avg_pool2d", images, kernel, stride, padding)
    call = run("avg_pool2d", images, 3, 2, 1, count_include_pad=False)
    yield "avg_pool2d, without padding", call
    yield "global_avg_pool", run("global_avg_pool", images)


def networks() -> Iterator[Call]:
    named = {"mlp": MLP, "deep": DEEP, "small": SMALL, "plain": PLAIN, "images": IMAGES}
    named["sequences"] = SEQUENCES
    for name, network in named.items():
        for samples in (4, 64):
            yield evaluated(f"{name}, {samples} samples", network, samples)
        text = f"{name}, bf16 genomes"
        yield evaluated(text, network, 64, "bf16", genomes=np.uint16)
        if name != "sequences":
            yield evaluated(f"{name}, bytes", network, 64, of_bytes=True)
    yield evaluated("mlp, bf16 genomes, 4 samples", MLP, 4, "bf16", genomes=np.uint16)
    yield evaluated("mlp, a batch each", MLP, 64, shared=False)
    for precision, samples in itertools.product(("bf16", "tf32"), (32, 64)):
        yield evaluated(f"mlp, {precision}, {samples} samples", MLP, samples, precision)
    for precision in PRECISIONS:
        for samples in (16, 32, 512):
            yield evaluated(f"thesis, {precision}, {samples} samples", THESIS, samples, precision)
        yield evaluated(f"widest, {precision}", WIDEST, 512, precision)
    yield evaluated("sequences, tf32", SEQUENCES, 64, "tf32")
    for name, network in {**named, "thesis": THESIS}.items():
        yield lost(f"{name}", network)
    for name, network in (("mlp", MLP), ("plain", PLAIN)):
        yield lost(f"{name}, mse", network, loss="mse")
        yield lost(f"{name}, classes", network, classes=True)
        yield lost(f"{name}, weights", network, weights=True)


def evaluated(
    name: str,
    network: Network,
    samples: int,
    precision: str = "fp32",
    *,
    genomes: Any = np.float32,
    shared: bool = True,
    of_bytes: bool = False,
) -> Call:
    call = run(
        "network_forward",
        bank(32, network.layout.size, genomes),
        network,
        inputs(network, samples, shared=shared, of_bytes=of_bytes),
        precision=precision,
        x_scale=1 / 255 if of_bytes else None,
    )
    return f"network_forward, {name}", call


def lost(
    name: str,
    network: Network,
    *,
    loss: str = "cross_entropy",
    classes: bool = False,
    weights: bool = False,
) -> Call:
    outputs = network.output_shape[0]
    y = array(256, outputs) if loss == "mse" else array(256, dtype=np.int64)
    call = run(
        "network_loss",
        bank(32, network.layout.size),
        network,
        inputs(network, 256),
        y,
        loss=loss,
        classes=np.full(32, outputs - 1, np.int32) if classes else None,
        sample_weights=array(256) if weights else None,
    )
    return f"network_loss, {name}", call


def inputs(network: Network, samples: int, *, shared: bool = True, of_bytes: bool = False) -> Array:
    batch = (samples,) if shared else (32, samples)
    return array(*batch, *network.input_shape, dtype=np.uint8 if of_bytes else np.float32)


def ones() -> Iterator[Call]:
    """Calls whose sizes are 1, as far as they can be: Triton makes constants of such arguments.

    They only have to compile; what comes out is in no table.
    """
    one = np.ones(1, np.float32)
    layout = Network((Dense(1, bias=False),), (1,)).layout
    out = array(1, 1)
    yield "init_genomes", run("init_genomes", layout, 1, seed=1, out=out)
    for kind in CROSSOVER_KINDS:
        call = run(
            "crossover_mutate",
            *(array(1, 1), np.zeros((1 if kind == "none" else 2, 1), np.int32), one),
            kind=kind,
            layout=layout if kind == "rows" else None,
            seed=1,
            generation=1,
            out=out,
        )
        yield f"crossover_mutate, {kind}", call
    yield "mutate_sigma", run("mutate_sigma", array(1), tau=0.1, seed=1, generation=1)
    lineages = founders(1, seed=1, kind="none")
    yield "replay, founders", run("replay", lineages, layout, out=out)
    lineages = lineages.offspring(np.zeros((1, 1), np.int32), one, generation=1)
    yield "replay", run("replay", lineages, layout, out=out)
    for choices, masked in itertools.product((1, 4), (False, True)):
        name = f"{choices} choices{', masked' if masked else ''}"
        table = array(1, choices)
        mask = array(1, choices, dtype=np.bool_) if masked else None
        yield f"nes_sample, {name}", run("nes_sample", table, 1, seed=1, step=1, mask=mask)
        chosen, losses = array(1, 1, dtype=np.int32), array(1)
        call = run("nes_update", table, chosen, losses, learning_rate=0.1, mask=mask)
        yield f"nes_update, {name}", call
    image, weights = array(1, 1, 1, 1, 1), array(1, 1)
    for precision in PRECISIONS:
        for samples in (1, 16):
            call = run("dense_forward", array(1, samples, 1), array(1, 1, 1), precision=precision)
            yield f"dense_forward, {samples} samples, {precision}", call
        call = run("conv2d_forward", image, array(1, 1, 1), weights, kernel=1, precision=precision)
        yield f"conv2d_forward, {precision}", call
    yield "affine", run("affine", array(1, 1, 1), weights, weights)
    yield "affine, images", run("affine", image, weights, weights)
    yield "residual", run("residual", image, image)
    yield "max_pool2d", run("max_pool2d", image, 1, 1, 0)
    yield "avg_pool2d", run("avg_pool2d", image, 1, 1, 0)
    yield "global_avg_pool", run("global_avg_pool", image)
    layers = (Conv2d(1, 1), Affine(), MaxPool2d(1), GlobalAvgPool(), Flatten(), Dense(1))
    named = {
        "dense": Network((Dense(1), Dense(1)), (1,)),
        "image": Network(layers, (1, 1, 1)),
        "sequence": Network((Elman(1, return_sequence=True), Elman(1)), (1, 1)),
    }
    for (name, network), samples in itertools.product(named.items(), (1, 16)):
        genomes = array(1, network.layout.size)
        for kind, scale in ((np.float32, None), (np.uint8, 1.0)):
            x = array(samples, *network.input_shape, dtype=kind)
            text = f"{name}, {samples} samples, {kind.__name__}"
            call = run("network_forward", genomes, network, x, x_scale=scale)
            yield f"network_forward, {text}", call
            for loss, y in (
                ("cross_entropy", array(samples, dtype=np.int64)),
                ("mse", array(samples, 1)),
            ):
                call = run("network_loss", genomes, network, x, y, loss=loss, x_scale=scale)
                yield f"network_loss, {loss}, {text}", call


def calls() -> Iterator[Call]:
    yield from variation()
    yield from lineage()
    yield from categorical()
    yield from layers()
    yield from pools()
    yield from networks()

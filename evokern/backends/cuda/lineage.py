"""Genomes from their lineages on a device."""

from __future__ import annotations

from typing import Any

from evokern._replay_program import ReplayProgram
from evokern.backends.device import Block, current_device
from evokern.backends.parts import gene_parts
from evokern.layout import GenomeLayout
from evokern.rules import CROSSOVER_KINDS, DISTRIBUTIONS, INIT_SCHEMES, bernoulli_threshold

_ARRAYS = ("start", "source", "target", "first_step", "crossed", "generation", "number", "sigma")


def replay(program: ReplayProgram, layout: GenomeLayout, *, out: Any) -> None:
    """See ``ops.replay``."""
    recipe = program.recipe
    device, block = current_device(), Block()
    parts = gene_parts(layout, recipe.scheme)
    stride = program.scratch_stride(layout.size)
    columns = int(parts["outputs"][parts["content"] == 0].sum())
    founders = program.founders if recipe.scheme == "unit_rows" else 0

    offsets = {name: block.add(getattr(program, name)) for name in _ARRAYS}
    offsets |= {"parts": block.add(parts), "weights": block.add(program.weights)}
    offsets["scratch"] = block.room(program.scratch_rows * stride * 4)
    offsets["lengths"] = block.room(founders * columns * 4)
    base = block.upload(device)
    arrays = {name: base + offset for name, offset in offsets.items()}
    if founders == 0:
        arrays["lengths"] = 0
    device.native.replay(
        out,
        arrays,
        len(program.start),
        program.crossed.shape[1],
        len(parts),
        columns,
        program.independent,
        stride,
        INIT_SCHEMES.index(recipe.scheme),
        CROSSOVER_KINDS.index(recipe.kind),
        DISTRIBUTIONS.index(recipe.distribution),
        bernoulli_threshold(recipe.rate),
        bernoulli_threshold(recipe.mutation_rate),
        recipe.seed,
        device.stream,
    )

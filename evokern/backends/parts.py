"""The parts of a genome layout as a table for kernels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from evokern.layout import GENE_CONTENTS, GenomeLayout
from evokern.rules import init_scales

_PART = np.dtype(
    [
        *(("rows", np.int64), ("outputs", np.int64), ("content", np.int32)),
        *(("continues", np.bool_), ("scale", np.float32)),
        *(("first_gene", np.int64), ("first_unit", np.int64), ("first_column", np.int64)),
    ],
    align=True,
)
"""``GenePart`` of csrc/core/params.h."""


@lru_cache(maxsize=256)
def gene_parts(layout: GenomeLayout, scheme: str | None = None) -> npt.NDArray[np.void]:
    """The parts of a layout as the kernels take them, with the scales of an init scheme."""
    rows = []
    gene = unit = column = 0
    for block in layout.blocks:
        for number, part in enumerate(block.parts):
            content = GENE_CONTENTS.index(part.content)
            row = (part.rows, block.outputs, content, number > 0, 0.0, gene, unit, column)
            rows.append(row)
            gene += part.rows * block.outputs
            column += block.outputs if part.content == "weights" else 0
        unit += block.outputs
    table = np.array(rows, _PART)
    if scheme is not None:
        table["scale"] = init_scales(scheme, layout)
    table.flags.writeable = False
    return table

"""A network as a tuple of layers. It describes shapes only; weights live in genomes.

>>> net = Network((MaxPool2d(2), Flatten(), Dense(256, "relu"), Dense(10)), (1, 28, 28))
>>> net.layout.size
52746
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern._values import assign, integer
from evokern.errors import ArgumentError, DtypeError, ShapeError, message
from evokern.layers import (
    ACTIVATIONS,
    LAYERS,
    Activation,
    ActivationName,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Elman,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool2d,
    Pool2d,
    Residual,
    genes_along,
    pool_output,
    shapes_along,
)
from evokern.layout import GenomeLayout

__all__ = [
    "ACTIVATIONS",
    "LAYERS",
    "Activation",
    "ActivationName",
    "Affine",
    "AvgPool2d",
    "Conv2d",
    "Dense",
    "Elman",
    "Flatten",
    "GlobalAvgPool",
    "Layer",
    "MaxPool2d",
    "Network",
    "Pool2d",
    "Residual",
    "pool_output",
]


@dataclass(frozen=True)
class Network:
    """Layers applied in turn to one sample of ``input_shape`` ([I], [T, I] or [C, H, W]).

    Raises ShapeError or ArgumentError with the layer's number when a layer does not fit what
    comes before it.
    """

    layers: tuple[Layer, ...]
    input_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("layers", "input_shape"):
            given = getattr(self, name)
            if not isinstance(given, Iterable):
                raise DtypeError(message(name, "a tuple", f"{type(given).__name__} {given!r}"))
            assign(self, name, tuple(given))
        sizes = tuple(integer("input_shape", n, -(2**63), 2**63 - 1) for n in self.input_shape)
        assign(self, "input_shape", sizes)
        if len(sizes) not in (1, 2, 3) or min(sizes) < 1:
            wanted = "(I,), (T, I) or (C, H, W), each >= 1"
            raise ShapeError(message("input_shape", wanted, repr(sizes)))
        _ = self.shapes

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Programs are looked up by network in every call.
        return hash((self.layers, self.input_shape))

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of a sample before layer 0, after layer 0, after layer 1, ..."""
        return tuple(shapes_along(self.layers, self.input_shape))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one sample's output, without the batch axis."""
        return self.shapes[-1]

    @cached_property
    def layout(self) -> GenomeLayout:
        """The genome layout of this network."""
        return GenomeLayout(tuple(genes_along(self.layers, self.input_shape)))

    def split(self, block: int) -> tuple[Network, Network]:
        """The layers before the one that owns parameter block ``block``, and the rest.

        A genome is the first one's genes, then the second one's, which begin with gene
        ``layout.offsets[block]``. Raises ArgumentError for a block that is not there, and for one
        inside of a residual layer.
        """
        first = 0  # block of the layer looked at
        places = {}  # of layers with genes, by their first block
        for number, (layer, before) in enumerate(zip(self.layers, self.shapes, strict=False)):
            own = len(genes_along((layer,), before))
            if own:
                places[first] = number
            first += own
        if block not in places:
            wanted = f"the first block of a layer with genes: one of {list(places)}"
            raise ArgumentError(message("block", wanted, repr(block)))
        at = places[block]
        head = Network(self.layers[:at], self.input_shape)
        return head, Network(self.layers[at:], self.shapes[at])

    @classmethod
    def mlp(
        cls,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        activation: ActivationName = "relu",
    ) -> Network:
        """Dense layers ``inputs -> hidden... -> outputs``; the last one has no activation."""
        layers = [Dense(width, activation) for width in hidden] + [Dense(outputs)]
        return cls(tuple(layers), (inputs,))

    @classmethod
    def nature_cnn(cls, channels: int, outputs: int) -> Network:
        """The network of Mnih et al. 2015 for images [channels, 84, 84]."""
        layers: tuple[Layer, ...] = (
            Conv2d(32, 8, 4, activation="relu"),
            Conv2d(64, 4, 2, activation="relu"),
            Conv2d(64, 3, 1, activation="relu"),
            Flatten(),
            Dense(512, "relu"),
            Dense(outputs),
        )
        return cls(layers, (channels, 84, 84))

    @staticmethod
    def from_module(module: Any, input_shape: Sequence[int]) -> Network:
        """The architecture of a torch.nn.Module: see ``interop.from_module``."""
        from evokern import interop

        return interop.from_module(module, input_shape)

    def genome_of(self, module: Any) -> npt.NDArray[np.float32]:
        """The weights of a torch.nn.Module, float32 [G]: see ``interop.genome_of``."""
        from evokern import interop

        return interop.genome_of(self, module)

    def to_module(self, genome: npt.NDArray[np.float32]) -> Any:
        """A torch.nn.Sequential with the weights of ``genome`` [G]: see ``interop.to_module``."""
        from evokern import interop

        return interop.to_module(self, genome)

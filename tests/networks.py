"""Networks that the cases and tests of whole networks share."""

from __future__ import annotations

from cases_layers import CONVOLUTIONS

from evokern.layers import (
    ACTIVATIONS,
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
from evokern.network import Network


def mlp(layers: int) -> Network:
    widths = [(7 * i) % 19 + 1 for i in range(1, layers)]
    return Network.mlp(5, widths, 3, "tanh")


FLAT = {
    "no layers": Network((), (5,)),
    "image without layers": Network((), (2, 3, 2)),
    "flatten": Network((Flatten(),), (2, 3, 2)),
    "pools": Network((MaxPool2d(2, 1), AvgPool2d((1, 2), padding=(0, 1))), (2, 4, 5)),
    "activations": Network((Activation("tanh"), Activation("leaky_relu", 0.3)), (17,)),
    "head": Network(
        (
            Activation("leaky_relu", 0.5),
            MaxPool2d(3, 2, 1),
            AvgPool2d(2, 1, 1, count_include_pad=False),
            Activation("gelu"),
            Flatten(),
            Dense(17, "silu"),
            Activation("sigmoid"),
            Dense(5),
        ),
        (2, 9, 7),
    ),
    "all activations": Network(tuple(Dense(11, name) for name in ACTIVATIONS), (6,)),
    "thesis": Network(
        (MaxPool2d(2), Flatten(), Dense(33, "relu"), Dense(17, "relu"), Dense(10)), (1, 12, 12)
    ),
    "whole thesis": Network(
        (Dense(256, "relu"), Dense(128, "relu"), Dense(64, "relu"), Dense(10)), (196,)
    ),
    "widest in": Network((Dense(2, "relu"), Dense(130), Dense(1)), (4096,)),
    "widest out": Network((Dense(4096, "relu"), Dense(2)), (1,)),
    "wide": Network((Dense(129, "relu"), Dense(1000), Dense(1)), (300,)),
    **{f"{n} dense layers": mlp(n) for n in range(1, 13)},
}
"""Pools, dense layers, activations."""
WIDE = ("widest in", "widest out", "wide")


def _one_conv(
    outputs: int,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    shape: tuple[int, int, int] = (2, 9, 7),
) -> Network:
    return Network((Conv2d(outputs, kernel, stride, padding, "relu"),), shape)


_CONVOLUTIONAL = {
    **{f"conv, {name}": _one_conv(*shape) for name, shape in CONVOLUTIONS.items()},
    "conv without bias": Network(
        (Conv2d(5, 3, 1, 1, bias=False), Conv2d(3, 2, bias=False)), (2, 5, 4)
    ),
    "convs of all activations": Network(
        tuple(Conv2d(3, 3, 1, 1, name, 0.25) for name in ACTIVATIONS), (2, 5, 4)
    ),
    "convs and pools": Network(
        (
            Conv2d(5, 3, 1, 1, "relu"),
            MaxPool2d(2),
            Conv2d(9, (3, 2), activation="tanh"),
            AvgPool2d(2, 1, 1),
            Flatten(),
            Dense(17, "silu"),
            Dense(26),
        ),
        (1, 12, 11),
    ),
    "pools before a conv": Network(
        (Activation("tanh"), MaxPool2d(2, 1), Conv2d(3, 2, 2, 1, "gelu"), Flatten()), (2, 6, 5)
    ),
    "affine of features": Network((Affine("silu"), Dense(3), Affine()), (7,)),
    "affine of channels": Network(
        (Affine(), Conv2d(5, 3, bias=False), Affine("leaky_relu", 0.25), GlobalAvgPool(), Dense(3)),
        (2, 6, 5),
    ),
    "affines of all activations": Network(tuple(Affine(name, 0.25) for name in ACTIVATIONS), (19,)),
    "global pool": Network((GlobalAvgPool(),), (3, 5, 4)),
    "global pool of a pixel": Network((GlobalAvgPool(), Dense(2)), (5, 1, 1)),
}

_RESIDUAL = {
    "residual": Network((Residual((Dense(17, "tanh"),)), Dense(3)), (17,)),
    "residual with shortcut": Network(
        (Residual((Dense(9, "relu"), Dense(4)), (Dense(4, bias=False),), "gelu"),), (6,)
    ),
    "residual without parameters": Network(
        (Residual((Activation("tanh"),), activation="identity"), Flatten(), Dense(3)), (2, 3, 4)
    ),
    "residual with an empty body": Network((Residual((), None, "leaky_relu"), Dense(3)), (5,)),
    "residual of two shapes": Network(
        (
            Residual((Flatten(), Dense(10)), (MaxPool2d(2, 1), Conv2d(10, 1), GlobalAvgPool())),
            Dense(3),
        ),
        (2, 3, 4),
    ),
    "residuals of all activations": Network(
        tuple(Residual((Dense(5),), None, name, 0.25) for name in ACTIVATIONS), (5,)
    ),
    "nested residuals": Network(
        (
            Dense(6),
            Residual(
                (Residual((Dense(6, "relu"),), (Dense(6),), "tanh"), Dense(4)),
                (Dense(4), Residual((Dense(4),)), Residual((Residual((Dense(4),)),))),
                "identity",
            ),
            Dense(3),
        ),
        (5,),
    ),
    "residual images": Network(
        (
            Conv2d(4, 3, 1, 1, "relu"),
            Residual(
                (
                    Conv2d(6, 3, 2, 1, bias=False),
                    Affine("relu"),
                    Conv2d(6, 3, 1, 1, bias=False),
                    Affine(),
                ),
                (Conv2d(6, 1, 2, bias=False), Affine()),
            ),
            Residual((Conv2d(6, 3, 1, 1), Affine())),
            GlobalAvgPool(),
            Dense(5),
        ),
        (2, 9, 7),
    ),
}

_RECURRENT = {
    "elman": Network((Elman(5), Dense(3)), (4, 3)),
    "elman, one step": Network((Elman(17),), (1, 1)),
    "elman, sequence": Network((Elman(5, return_sequence=True),), (6, 2)),
    "elmans": Network((Elman(9, return_sequence=True), Elman(4, "relu"), Dense(2)), (5, 3)),
    "elman, flat": Network(
        (Activation("relu"), Elman(4, "sigmoid", return_sequence=True), Flatten(), Dense(2)), (3, 2)
    ),
    "elman in a residual": Network(
        (Residual((Elman(3, return_sequence=True),), None, "identity"), Elman(2)), (4, 3)
    ),
    "elmans of all activations": Network(
        tuple(Elman(3, name, 0.25, return_sequence=True) for name in ACTIVATIONS), (3, 4)
    ),
}

LAYERED = {
    "dense without bias": Network((Dense(5, "relu", bias=False), Dense(3, bias=False)), (7,)),
    **_CONVOLUTIONAL,
    **_RESIDUAL,
    **_RECURRENT,
}
"""Convolution, affine, recurrent and residual layers, layers without bias."""

NATURE = Network.nature_cnn(1, 6)

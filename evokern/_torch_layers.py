"""What one PyTorch module computes, as a layer, and its weights in genome order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from evokern.errors import ArgumentError, BackendError, DtypeError, ShapeError, message
from evokern.layers import (
    ACTIVATIONS,
    Activation,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Elman,
    Flatten,
    Layer,
    MaxPool2d,
    Pool2d,
    Shape,
)
from evokern.torch_modules import Affine as AffineModule
from evokern.torch_modules import Elman as ElmanModule
from evokern.torch_modules import activation_module

F32 = npt.NDArray[np.float32]

NOTHING_IN_EVAL_MODE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)
_ACTIVATIONS = {
    (type(part), getattr(part, "approximate", "")): name
    for name, part in ((name, activation_module(name, 0.01)) for name in ACTIVATIONS)  # type: ignore[arg-type]
}
MODULES = dict.fromkeys(
    (
        nn.Linear,
        nn.Conv2d,
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.MaxPool2d,
        nn.AvgPool2d,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
        nn.RNN,
        *NOTHING_IN_EVAL_MODE,
        *(kind for kind, _ in _ACTIVATIONS),
        AffineModule,
        ElmanModule,
    )
)


def layer_of(part: nn.Module, shape: Shape) -> Layer:
    """The layer that computes what ``part`` does on samples of ``shape``."""
    # Subclasses are refused below: they may compute anything.
    kind = type(part)
    if (kind, getattr(part, "approximate", "")) in _ACTIVATIONS:
        name: Any = _ACTIVATIONS[kind, getattr(part, "approximate", "")]
        return Activation(name, getattr(part, "negative_slope", 0.01))
    if kind is nn.Linear:
        _expect_width(part, "in_features", shape, 1)
        return Dense(part.out_features, bias=part.bias is not None)
    if kind is nn.Conv2d:
        _expect(part, "groups", 1)
        _expect(part, "dilation", (1, 1))
        _expect(part, "padding_mode", "zeros")
        _expect_width(part, "in_channels", shape, 3)
        layer = Conv2d(part.out_channels, part.kernel_size, part.stride, _padding(part))
        kernel, stride, padding = _windows(layer)
        return Conv2d(part.out_channels, kernel, stride, padding, bias=part.bias is not None)
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d):
        if part.running_mean is None:
            wanted, got = "running_mean and running_var", "None: the batch decides"
            raise ArgumentError(message(f"{kind.__name__}", wanted, got))
        _expect_axes(part, shape, 1 if kind is nn.BatchNorm1d else 3)
        _expect_width(part, "num_features", shape, len(shape))
        return Affine()
    if kind is AffineModule:
        return Affine()
    if kind is nn.Flatten:
        _expect(part, "start_dim", 1)
        _expect(part, "end_dim", -1, len(shape))
        return Flatten()
    if kind is nn.MaxPool2d:
        _expect(part, "dilation", 1, (1, 1))
        _expect(part, "ceil_mode", False)
        _expect(part, "return_indices", False)
        return MaxPool2d(*_pool_windows(part))
    if kind is nn.AvgPool2d:
        _expect(part, "ceil_mode", False)
        _expect(part, "divisor_override", None)
        return AvgPool2d(*_pool_windows(part), count_include_pad=bool(part.count_include_pad))
    if kind is nn.AdaptiveAvgPool2d:
        return _adaptive(part, shape)
    if kind is nn.RNN:
        _expect(part, "num_layers", 1)
        _expect(part, "bidirectional", False)
        _expect(part, "batch_first", True)
        _expect_width(part, "input_size", shape[-1:], 1)
        return Elman(part.hidden_size, part.nonlinearity, return_sequence=True)
    if kind is ElmanModule:
        activation = layer_of(part.activation, shape)
        if not isinstance(activation, Activation):
            raise ArgumentError(message("activation", "an activation", str(activation)))
        name, slope = activation.name, activation.negative_slope
        return Elman(len(part.bias), name, slope, part.return_sequence)
    expected = f"one of Sequential, {', '.join(kind.__name__ for kind in MODULES)}"
    raise ArgumentError(message("module", expected, kind.__name__, "not supported"))


def _adaptive(part: nn.Module, shape: Shape) -> AvgPool2d:
    """The pool with equal windows that gives as many outputs."""
    _expect_axes(part, shape, 3)
    size = part.output_size
    sizes = size if isinstance(size, tuple) else (size, size)
    wanted = [n if s is None else s for n, s in zip(shape[1:], sizes, strict=True)]
    if any(s < 1 or n % s for n, s in zip(shape[1:], wanted, strict=True)):
        divisors = f"divisors of the image's {list(shape[1:])}"
        raise ArgumentError(message("AdaptiveAvgPool2d.output_size", divisors, str(size)))
    kh, kw = (n // s for n, s in zip(shape[1:], wanted, strict=True))
    return AvgPool2d(kh if kh == kw else (kh, kw))


def _padding(part: nn.Module) -> tuple[int, int]:
    if part.padding == "valid":
        return 0, 0
    if part.padding == "same":
        if any(k % 2 == 0 for k in part.kernel_size):
            wanted = "an odd kernel for 'same'"
            raise ArgumentError(message("Conv2d.padding", wanted, str(part.kernel_size)))
        return part.kernel_size[0] // 2, part.kernel_size[1] // 2
    return part.padding  # type: ignore[no-any-return]


def _windows(layer: Pool2d | Conv2d) -> tuple[Any, Any, Any]:
    """Kernel, stride and padding, each written as one number where that says the same."""
    kh, kw, sh, sw, ph, pw = layer.geometry()
    kernel, stride, padding = (a if a == b else (a, b) for a, b in ((kh, kw), (sh, sw), (ph, pw)))
    return kernel, stride, padding


def _pool_windows(part: nn.Module) -> tuple[Any, Any, Any]:
    kernel, stride, padding = _windows(Pool2d(part.kernel_size, part.stride, part.padding))
    return kernel, None if stride == kernel else stride, padding


def parameters_of(path: str, part: nn.Module) -> list[F32]:
    """The parts of the genome block of ``part``, as in ``GenomeLayout.split``."""

    def values(name: str) -> F32:
        return _values(f"{path}.{name}", getattr(part, name))

    if isinstance(part, AffineModule):
        return [values("scale"), values("shift")]
    if isinstance(part, ElmanModule):
        return [values("weight_in").T, values("weight_rec").T, values("bias")]
    if isinstance(part, nn.RNN):
        weights = [values("weight_ih_l0").T, values("weight_hh_l0").T]
        if not part.bias:
            return [*weights, np.zeros(part.hidden_size, np.float32)]
        return [*weights, values("bias_ih_l0") + values("bias_hh_l0")]
    if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
        mean, variance = (values(f"running_{name}").astype(np.float64) for name in ("mean", "var"))
        scale, shift = 1 / np.sqrt(variance + part.eps), np.zeros_like(mean)
        if part.affine:
            scale = values("weight") / np.sqrt(variance + part.eps)
            shift = values("bias").astype(np.float64)
        return [scale.astype(np.float32), (shift - mean * scale).astype(np.float32)]
    weight = values("weight").reshape(len(part.weight), -1).T
    return [weight] if part.bias is None else [weight, values("bias")]


def _expect(part: nn.Module, setting: str, *supported: Any) -> None:
    got = getattr(part, setting)
    if got not in supported:
        name = f"{type(part).__name__}.{setting}"
        raise ArgumentError(message(name, str(supported[0]), str(got), "not supported"))


def _expect_width(part: nn.Module, setting: str, shape: Shape, axes: int) -> None:
    """Refuses another number of inputs; what has other axes is refused by the layer."""
    got = getattr(part, setting)
    if len(shape) == axes and got != shape[0]:
        raise ShapeError(message(f"{type(part).__name__}.{setting}", str(shape[0]), str(got)))


def _expect_axes(part: nn.Module, shape: Shape, axes: int) -> None:
    if len(shape) != axes:
        wanted = "an image [C, H, W]" if axes == 3 else "a flat input [I]"
        raise ShapeError(message(f"input of {type(part).__name__}", wanted, str(list(shape))))


def _values(name: str, parameter: Any) -> F32:
    """A weight of a module as a NumPy view."""
    if parameter.device.type != "cpu":
        got = f"weights on {parameter.device}"
        raise BackendError(message(name, "weights on the CPU", got, "try module.cpu()"))
    if parameter.dtype != torch.float32:
        got = str(parameter.dtype).removeprefix("torch.")
        raise DtypeError(message(name, "float32", got, "try module.float()"))
    values: F32 = parameter.detach().numpy()
    return values

"""Networks to and from PyTorch modules, and into ONNX files (libraries imported when used)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern._onnx_graph import Graph
from evokern._version import __version__
from evokern.errors import ArgumentError, DtypeError, ShapeError, message
from evokern.files import replace_file
from evokern.layers import (
    Activation,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Elman,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool2d,
    Residual,
    shapes_along,
)
from evokern.network import Network

OPSET, IR_VERSION = 20, 9
"""Versions of exported files: the oldest that have Gelu; onnxruntime reads them since 1.17."""

Module = Any
"""A torch.nn.Module; torch is not imported for an annotation."""

F32 = npt.NDArray[np.float32]

_MAX_ONNX_BYTES = 2**31 - 2**20  # what a protobuf message holds, less room for the nodes


def from_module(module: Module, input_shape: Sequence[int]) -> Network:
    """The architecture of ``module`` in eval mode, for one sample of ``input_shape``.

    torch.fx records what the module's ``forward`` calls: Linear, Conv2d, BatchNorm1d and 2d,
    MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Flatten, a one-layer batch-first RNN, the activations
    of `Network`, the functions and methods of the same names, ``view`` and ``mean`` where they
    flatten or average whole images, and sums of two branches, which become residual blocks (the
    first summand is the body, unless it is the block's input). Identity and Dropout vanish. An
    activation becomes part of the Dense, Conv2d, Affine or Residual before it. `genome_of` fetches
    the weights.

    Raises:
        ArgumentError, ShapeError: something cannot be mapped or does not fit what comes before it;
            the message starts with the path of the module, such as ``layer1.0.conv1``.
    """
    return _read(module, input_shape)[0]


def genome_of(network: Network, module: Module) -> F32:
    """The weights of ``module`` as a genome, float32 [G], copied.

    A batch norm gives scale = weight / sqrt(running_var + eps) and shift = bias - running_mean *
    scale, in float64 and rounded once. The two biases of an RNN are added.

    Raises:
        ArgumentError, ShapeError: the module has another architecture, or see `from_module`.
        DtypeError, BackendError: a weight is not float32 or not on the CPU.
    """
    genome = np.zeros(network.layout.size, np.float32)
    # By way of a module both are written alike: MaxPool2d(2) and MaxPool2d((2, 2), 2) are one.
    expected = from_module(to_module(network, genome), network.input_shape)
    got, parts = _read(module, network.input_shape)
    if got != expected:
        mend = "try Network.from_module(module, input_shape)"
        raise ArgumentError(message("module", str(expected.layers), str(got.layers), mend))
    from evokern._torch_layers import parameters_of

    for (path, part), views in zip(parts, network.layout.split(genome), strict=True):
        for view, values in zip(views, parameters_of(path, part), strict=True):
            view[...] = values
    return genome


def to_module(network: Network, genome: F32) -> Module:
    """``network`` with the weights of ``genome`` [G] as a torch.nn.Sequential in eval mode.

    Layers that PyTorch does not have are modules of `evokern.torch_modules`. The weights are copies
    and require grad. The outputs are those of ``ops.network_forward`` within
    ``testing.error_bound``: PyTorch adds in another order.
    """
    nn = _library("torch").nn
    genome = _genomes("genome", genome, network, ensemble=False)
    parameters = iter(network.layout.split(genome))
    return nn.Sequential(*_modules(network.layers, network.input_shape, parameters)).eval()


def export_onnx(
    path: str | Path, network: Network, genomes: F32, *, mean: F32 | None = None
) -> None:
    """Writes a network or an ensemble as an ONNX file, whole or not at all. Needs no torch.

    The model takes ``x`` float32 [batch, *input_shape], any batch, and gives ``logits`` float32
    [batch, *output_shape]. With onnxruntime these are the outputs of ``ops.network_forward`` within
    ``testing.error_bound``, but for tanh and sigmoid before the first dense layer: there its errors
    are small beside 1, not beside a small result. A sequence is one node per step.

    Args:
        path: the file.
        network: the architecture.
        genomes: one genome [G], or an ensemble [n, G] whose logits are averaged.
        mean: float32 [H, W] or ``input_shape``. The model then takes raw pixels 0..255 and starts
            with ``(x - mean) / 255``, the rule of ``problems.datasets.normalise``.
    """
    onnx = _library("onnx")
    genomes = _genomes("genomes", genomes, network, ensemble=True)
    if genomes.nbytes > _MAX_ONNX_BYTES:
        limit = f"at most {_MAX_ONNX_BYTES} bytes, for ONNX files hold 2 GiB"
        mend = "export fewer networks"
        raise ArgumentError(message("genomes", limit, f"{genomes.nbytes} bytes", mend))
    graph = Graph(onnx, len(genomes) if genomes.ndim == 2 else None)
    x = "x"
    if mean is not None:
        x = graph.node("Sub", x, graph.constant(_mean(mean, network)))
        x = graph.node("Div", x, graph.constant(np.array(255, np.float32)))
    x = graph.network(network, network.layout.split(genomes), x)
    graph.node("Identity", x, output="logits")

    def described(name: str, shape: tuple[int, ...]) -> Any:
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])

    inputs, outputs = described("x", network.input_shape), described("logits", network.output_shape)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "evokern", [inputs], [outputs], graph.constants),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="evokern",
        producer_version=__version__,
    )
    replace_file(Path(path), model.SerializeToString())


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        text = f"{name} is not installed, or not whole; pip install 'evokern[{name}]'"
        raise ImportError(text, name=name) from error


def _read(module: Module, input_shape: Sequence[int]) -> tuple[Network, list[tuple[str, Module]]]:
    nn = _library("torch").nn
    if not isinstance(module, nn.Module):
        raise DtypeError(message("module", "a torch.nn.Module", type(module).__name__))
    from evokern._from_module import read

    return read(module, input_shape)


def _modules(
    layers: tuple[Layer, ...], shape: tuple[int, ...], parameters: Iterator[tuple[F32, ...]]
) -> Iterator[Module]:
    """The modules of ``layers``, which take their parameters in genome order."""
    nn = _library("torch").nn
    from evokern import torch_modules as ours

    for layer, before in zip(layers, shapes_along(layers, shape), strict=False):
        match layer:
            # On "meta" a layer draws no numbers from torch's global generator.
            case Dense():
                linear = nn.Linear(before[0], layer.outputs, layer.bias, device="meta")
                yield _filled(linear, next(parameters))
            case Conv2d():
                kh, kw, sh, sw, ph, pw = layer.geometry()
                windows: Any = ((kh, kw), (sh, sw), (ph, pw))
                conv = nn.Conv2d(before[0], layer.outputs, *windows, bias=layer.bias, device="meta")
                yield _filled(conv, next(parameters))
            case Affine():
                yield ours.Affine(*map(_parameter, next(parameters)))
            case Activation():
                yield ours.activation_module(layer.name, layer.negative_slope)
            case Flatten():
                yield nn.Flatten()
            case MaxPool2d() | AvgPool2d():
                kh, kw, sh, sw, ph, pw = layer.geometry()
                windows = ((kh, kw), (sh, sw), (ph, pw))
                if isinstance(layer, AvgPool2d):
                    yield nn.AvgPool2d(*windows, count_include_pad=layer.count_include_pad)
                else:
                    yield nn.MaxPool2d(*windows)
            case GlobalAvgPool():
                yield nn.AdaptiveAvgPool2d(1)
                yield nn.Flatten()
            case Residual():
                body = nn.Sequential(*_modules(layer.body, before, parameters))
                shortcut = nn.Sequential(*_modules(layer.shortcut or (), before, parameters))
                activation = ours.activation_module(layer.activation, layer.negative_slope)
                yield ours.Residual(body, shortcut, activation)
            case Elman():
                w_in, w_rec, bias = next(parameters)
                activation = ours.activation_module(layer.activation, layer.negative_slope)
                yield ours.Elman(
                    _parameter(w_in.T),
                    _parameter(w_rec.T),
                    _parameter(bias),
                    activation,
                    layer.return_sequence,
                )
        if isinstance(layer, Dense | Conv2d | Affine) and layer.activation != "identity":
            yield ours.activation_module(layer.activation, layer.negative_slope)


def _filled(module: Module, parts: tuple[F32, ...]) -> Module:
    """``module`` (Linear or Conv2d) with the weights [rows, O] and perhaps the bias [O]."""
    weights, *bias = parts
    module.weight = _parameter(weights.T.reshape(module.weight.shape))
    if bias:
        module.bias = _parameter(bias[0])
    return module


def _parameter(values: F32) -> Any:
    torch = _library("torch")
    return torch.nn.Parameter(torch.from_numpy(values.copy(order="C")))


def _genomes(name: str, value: F32, network: Network, *, ensemble: bool) -> F32:
    """``value`` as float32 [G] or, where an ensemble may come, [n, G] with n >= 1."""
    array = np.asarray(value)
    size = network.layout.size
    expected = f"float32 [G={size}]" + (" or [n, G] with n >= 1" if ensemble else "")
    got = f"{array.dtype} {list(array.shape)}"
    if array.dtype != np.float32:
        raise DtypeError(message(name, expected, got, f"try {name}.astype(np.float32)"))
    axes = (1, 2) if ensemble else (1,)
    if array.ndim not in axes or array.shape[-1] != size or len(array) < array.ndim - 1:
        raise ShapeError(message(name, expected, got))
    return array


def _mean(value: F32, network: Network) -> F32:
    array = np.asarray(value)
    shapes = [network.input_shape, network.input_shape[1:]][: len(network.input_shape)]
    expected = f"float32 {' or '.join(str(list(shape)) for shape in shapes)}"
    got = f"{array.dtype} {list(array.shape)}"
    if array.dtype != np.float32:
        raise DtypeError(message("mean", expected, got, "try mean.astype(np.float32)"))
    if array.shape not in shapes:
        raise ShapeError(message("mean", expected, got))
    return array

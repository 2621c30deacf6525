"""Networks to and from PyTorch modules, and into ONNX files (libraries imported when used)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evokern._version import __version__
from evokern.errors import ArgumentError, BackendError, DtypeError, ShapeError, message
from evokern.files import replace_file
from evokern.network import (
    Activation,
    AvgPool2d,
    Dense,
    Flatten,
    Layer,
    MaxPool2d,
    Network,
    Pool2d,
)

OPSET, IR_VERSION = 20, 9
"""Versions of exported files: the oldest that have Gelu; onnxruntime reads them since 1.17."""

Module = Any
"""A torch.nn.Module; torch is not imported for an annotation."""

F32 = npt.NDArray[np.float32]

_MAX_ONNX_BYTES = 2**31 - 2**20  # what a protobuf message holds, less room for the nodes


def from_module(module: Module, input_shape: Sequence[int]) -> Network:
    """The architecture of ``module`` in eval mode, for one sample of ``input_shape``.

    Takes Sequential (nested too), Linear, ReLU, LeakyReLU, Tanh, Sigmoid, GELU, SiLU, Flatten,
    MaxPool2d, AvgPool2d; Identity and Dropout vanish. An activation after a Linear becomes part
    of the Dense layer. `genome_of` fetches the weights.

    Raises:
        ArgumentError, ShapeError: a module cannot be mapped or does not fit what comes before it;
            the message starts with its path, such as ``features.2``.
    """
    network = Network((), tuple(input_shape))
    for path, part in _parts(module):
        try:
            layers = _appended(network.layers, _layer(part, network.output_shape))
            network = Network(layers, network.input_shape)
        except (ArgumentError, ShapeError) as error:
            raise type(error)(f"{path}: {error}") from None
    return network


def genome_of(network: Network, module: Module) -> F32:
    """The weights of ``module`` as a genome, float32 [G], copied. A missing bias gives +0.

    Raises:
        ArgumentError, ShapeError: the module has another architecture, or see `from_module`.
        DtypeError, BackendError: a weight is not float32 or not on the CPU.
    """
    genome = np.zeros(network.layout.size, np.float32)
    # By way of a module both are written alike: MaxPool2d(2) and MaxPool2d((2, 2), 2) are one.
    expected = from_module(to_module(network, genome), network.input_shape)
    got = from_module(module, network.input_shape)
    if got != expected:
        mend = "try Network.from_module(module, input_shape)"
        raise ArgumentError(message("module", str(expected.layers), str(got.layers), mend))
    linears = [(path, part) for path, part in _parts(module) if hasattr(part, "in_features")]
    for (path, linear), (weights, bias) in zip(linears, network.layout.split(genome), strict=True):
        weights[...] = _values(f"{path}.weight", linear.weight).T
        if linear.bias is not None:
            bias[...] = _values(f"{path}.bias", linear.bias)
    return genome


def to_module(network: Network, genome: F32) -> Module:
    """``network`` with the weights of ``genome`` [G] as a torch.nn.Sequential in eval mode.

    The weights are copies and require grad. The outputs are those of ``ops.network_forward``
    within ``testing.error_bound``: PyTorch adds in another order.
    """
    nn = _library("torch").nn
    parameters = iter(network.layout.split(_genomes("genome", genome, network, ensemble=False)))
    modules: list[Module] = []
    for layer, shape in zip(network.layers, network.shapes, strict=False):
        if isinstance(layer, Dense):
            # On "meta" the layer draws no numbers from torch's global generator.
            linear = nn.Linear(shape[0], layer.outputs, device="meta")
            weights, bias = next(parameters)
            linear.weight, linear.bias = _parameter(weights.T), _parameter(bias)
            modules.append(linear)
            if layer.activation != "identity":
                modules.append(_activations(layer.negative_slope)[layer.activation])
        elif isinstance(layer, Activation):
            modules.append(_activations(layer.negative_slope)[layer.name])
        elif isinstance(layer, Flatten):
            modules.append(nn.Flatten())
        else:
            kh, kw, sh, sw, ph, pw = layer.geometry()
            windows = ((kh, kw), (sh, sw), (ph, pw))
            modules.append(
                nn.AvgPool2d(*windows, count_include_pad=layer.count_include_pad)
                if isinstance(layer, AvgPool2d)
                else nn.MaxPool2d(*windows)
            )
    return nn.Sequential(*modules).eval()


def export_onnx(
    path: str | Path, network: Network, genomes: F32, *, mean: F32 | None = None
) -> None:
    """Writes a network or an ensemble as an ONNX file, whole or not at all. Needs no torch.

    The model takes ``x`` float32 [batch, *input_shape], any batch, and gives ``logits`` float32
    [batch, *output_shape]. With onnxruntime these are the outputs of ``ops.network_forward`` within
    ``testing.error_bound``, but for tanh and sigmoid before the first dense layer: there its errors
    are small beside 1, not beside a small result.

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
    graph = _Graph()
    x = "x"
    if mean is not None:
        x = graph.node("Sub", x, graph.constant(_mean(mean, network)))
        x = graph.node("Div", x, graph.constant(np.array(255, np.float32)))
    parameters = iter(network.layout.split(genomes))
    for layer, shape in zip(network.layers, network.shapes, strict=False):
        if isinstance(layer, Dense):
            # An ensemble's weights [n, I, O] turn x [batch, I] into [n, batch, O].
            weights, bias = next(parameters)
            x = graph.node("MatMul", x, graph.constant(weights))
            x = graph.node("Add", x, graph.constant(bias[..., np.newaxis, :]))
            x = graph.activation(layer.activation, x, layer.negative_slope)
        elif isinstance(layer, Activation):
            x = graph.activation(layer.name, x, layer.negative_slope)
        elif isinstance(layer, Pool2d):
            x = graph.pool(layer, x)
        elif len(shape) == 3:
            x = graph.node("Flatten", x)
    if genomes.ndim == 2 and network.layout.blocks:
        x = graph.node("ReduceMean", x, graph.constant(np.array([0])), keepdims=0)
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


class _Graph:
    """The nodes and constants of an ONNX graph; every method gives the name of a tensor."""

    def __init__(self) -> None:
        self.onnx = _library("onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: npt.NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def activation(self, name: str, x: str, slope: float) -> str:
        if name == "identity":
            return x
        if name == "leaky_relu":
            return self.node("LeakyRelu", x, alpha=slope)
        if name in ("gelu", "gelu_tanh"):
            return self.node("Gelu", x, approximate="tanh" if name == "gelu_tanh" else "none")
        if name == "silu":
            return self.node("Mul", x, self.node("Sigmoid", x))
        return self.node({"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[name], x)

    def pool(self, layer: MaxPool2d | AvgPool2d, x: str) -> str:
        kh, kw, sh, sw, ph, pw = layer.geometry()
        windows: dict[str, Any] = {
            "kernel_shape": [kh, kw],
            "strides": [sh, sw],
            "pads": [ph, pw, ph, pw],
        }
        if isinstance(layer, MaxPool2d):
            return self.node("MaxPool", x, **windows)
        return self.node("AveragePool", x, **windows, count_include_pad=layer.count_include_pad)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        text = f"{name} is not installed, or not whole; pip install 'evokern[{name}]'"
        raise ImportError(text, name=name) from error


def _parts(module: Module) -> Iterator[tuple[str, Module]]:
    """(path, module) of everything in ``module`` that is no Sequential, in the order of calls."""
    nn = _library("torch").nn
    if not isinstance(module, nn.Module):
        raise DtypeError(message("module", "a torch.nn.Module", type(module).__name__))
    # A module that is used twice is called twice.
    for name, part in module.named_modules(remove_duplicate=False):
        path = name or "module"
        if part._forward_hooks or part._forward_pre_hooks:
            got = f"hooks of {type(part).__name__}"
            raise ArgumentError(message(path, "modules without forward hooks", got))
        if not (isinstance(part, nn.Sequential) and type(part).forward is nn.Sequential.forward):
            yield path, part


def _layer(part: Module, shape: tuple[int, ...]) -> Layer:
    """The layer that computes what ``part`` does on samples of ``shape``."""
    nn = _library("torch").nn
    activations = _activations(getattr(part, "negative_slope", 0.01))
    names = {_function(other): name for name, other in activations.items()}
    if _function(part) in names:
        return Activation(names[_function(part)], getattr(part, "negative_slope", 0.01))
    # Subclasses are refused below: they may compute anything.
    if type(part) is nn.Dropout:
        return Activation("identity")
    if type(part) is nn.Linear:
        if len(shape) == 1 and part.in_features != shape[0]:
            raise ShapeError(message("Linear.in_features", str(shape[0]), str(part.in_features)))
        return Dense(part.out_features)
    if type(part) is nn.Flatten:
        _expect(part, "start_dim", 1)
        _expect(part, "end_dim", -1)
        return Flatten()
    if type(part) is nn.MaxPool2d:
        _expect(part, "dilation", 1, (1, 1))
        _expect(part, "ceil_mode", False)
        _expect(part, "return_indices", False)
        return MaxPool2d(*_windows(part))
    if type(part) is nn.AvgPool2d:
        _expect(part, "ceil_mode", False)
        _expect(part, "divisor_override", None)
        return AvgPool2d(*_windows(part), count_include_pad=part.count_include_pad)
    others = [nn.Sequential, nn.Linear, nn.Flatten, nn.MaxPool2d, nn.AvgPool2d, nn.Dropout]
    kinds = [kind.__name__ for kind in (*others, *map(type, activations.values()))]
    expected = f"one of {', '.join(dict.fromkeys(kinds))}"
    raise ArgumentError(message("module", expected, type(part).__name__, "not supported yet"))


def _activations(negative_slope: float) -> dict[Any, Module]:
    """Every activation as a PyTorch module."""
    nn = _library("torch").nn
    return {
        "identity": nn.Identity(),
        "relu": nn.ReLU(),
        "leaky_relu": nn.LeakyReLU(negative_slope),
        "tanh": nn.Tanh(),
        "sigmoid": nn.Sigmoid(),
        "gelu": nn.GELU(),
        "gelu_tanh": nn.GELU(approximate="tanh"),
        "silu": nn.SiLU(),
    }


def _function(activation: Module) -> tuple[type, str]:
    return type(activation), getattr(activation, "approximate", "")


def _expect(part: Module, setting: str, *supported: Any) -> None:
    got = getattr(part, setting)
    if got not in supported:
        name = f"{type(part).__name__}.{setting}"
        raise ArgumentError(message(name, str(supported[0]), str(got), "not supported yet"))


def _windows(part: Module) -> tuple[Any, Any, Any]:
    """Kernel, stride and padding of a PyTorch pool, written as short as can be."""
    kh, kw, sh, sw, ph, pw = Pool2d(part.kernel_size, part.stride, part.padding).geometry()
    kernel, stride, padding = (a if a == b else (a, b) for a, b in ((kh, kw), (sh, sw), (ph, pw)))
    return kernel, None if stride == kernel else stride, padding


def _appended(layers: tuple[Layer, ...], layer: Layer) -> tuple[Layer, ...]:
    """``layers`` and ``layer``; an activation goes into the dense layer before it."""
    if not isinstance(layer, Activation):
        return (*layers, layer)
    if layer.name == "identity":
        return layers
    if layers and isinstance(layers[-1], Dense) and layers[-1].activation == "identity":
        slope = layer.negative_slope
        dense = replace(layers[-1], activation=layer.name, negative_slope=slope)
        return (*layers[:-1], dense)
    return (*layers, layer)


def _values(name: str, parameter: Any) -> F32:
    """A weight of a module as a NumPy view."""
    if parameter.device.type != "cpu":
        got = f"weights on {parameter.device}"
        raise BackendError(message(name, "weights on the CPU", got, "try module.cpu()"))
    if str(parameter.dtype) != "torch.float32":
        got = str(parameter.dtype).removeprefix("torch.")
        raise DtypeError(message(name, "float32", got, "try module.float()"))
    values: F32 = parameter.detach().numpy()
    return values


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

"""What a PyTorch module computes, as a network: torch.fx records its calls, each becomes a layer.

Sums of two branches become residual blocks.
"""

from __future__ import annotations

import math
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx, nn

from evokern._torch_layers import MODULES, NOTHING_IN_EVAL_MODE, layer_of
from evokern.errors import ArgumentError, EvokernError, message
from evokern.layers import (
    Activation,
    Affine,
    Conv2d,
    Dense,
    Elman,
    Flatten,
    GlobalAvgPool,
    Layer,
    Residual,
    Shape,
    output_shape,
)
from evokern.network import Network


def _max_pool2d(
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> nn.Module:
    """A module from the arguments of the function, whose order is another."""
    return nn.MaxPool2d(kernel_size, stride, padding, dilation, return_indices, ceil_mode)


def _dropout(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module:
    if training:
        raise ArgumentError(message("dropout.training", "self.training", "True in eval mode"))
    return nn.Identity()


# Functions and methods of a tensor, by the module that does the same.
_FUNCTIONS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "relu_": lambda: nn.ReLU(inplace=True),
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "flatten": lambda start_dim=0, end_dim=-1: nn.Flatten(start_dim, end_dim),
    "contiguous": nn.Identity,
    "dropout": _dropout,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": nn.AvgPool2d,
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d,
}


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor of the recorded graph: what ``layer`` makes of the tensor ``before``."""

    shape: Shape
    """Of one sample."""
    before: _Tensor | None = None
    layer: Layer | None = None
    calls: tuple[fx.Node, ...] = ()
    """The calls of modules whose weights the layer takes, in genome order."""
    global_pool: bool = False
    """Whether it is a mean over whole images, [C, 1, 1]: flattened, that is GlobalAvgPool."""
    memory: object = field(default_factory=object)
    """The same for tensors that share their elements."""


class _Proxy(fx.Proxy):  # type: ignore[misc]
    """fx takes ``x += y`` for ``x + y``, but x may be used under another name as well."""

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})


class _Tracer(fx.Tracer):  # type: ignore[misc]
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        # A subclass of Linear is named as itself, not by the functions that it calls.
        return isinstance(module, tuple(MODULES)) or super().is_leaf_module(module, path)

    def proxy(self, node: fx.Node) -> _Proxy:
        return _Proxy(node, self)

    def call_module(self, module: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(module, forward, args, kwargs)
        except EvokernError:
            raise
        except Exception as error:
            wanted = "a forward that torch.fx can trace"
            got = f"{type(error).__name__}: {error}"
            path = _users_path(self.path_of_module(module))
            raise ArgumentError(message(path, wanted, got)) from error


def read(
    module: nn.Module, input_shape: Sequence[int]
) -> tuple[Network, list[tuple[str, nn.Module]]]:
    """The network that ``module`` is, and (path, module) for every block of its layout."""
    start = _Tensor(Network((), tuple(input_shape)).input_shape)
    root = nn.Sequential(OrderedDict(module=module))
    _refuse_hooks(root)
    with _eval_mode(root):
        graph = _Tracer().trace(root)
    values: dict[fx.Node, Any] = {}
    overwritten: set[fx.Node] = set()

    def value(node: fx.Node) -> Any:
        if node in overwritten:
            wanted = "tensors that keep their values"
            raise ArgumentError(message("input", wanted, "one that was changed in place"))
        return values[node]

    for node in graph.nodes:
        path = _path(node)
        try:
            args, kwargs = (fx.node.map_arg(a, value) for a in (node.args, node.kwargs))
            if node.op == "placeholder":
                values[node] = start
            elif node.op == "output":
                values[node] = _one_tensor(args)
            else:
                values[node], in_place = _called(node, root, args, kwargs)
                if in_place:
                    overwritten |= {n for n in values if n is not node and _share(values, n, node)}
        except EvokernError as error:
            raise type(error)(f"{path}: {error}") from None
        except (TypeError, IndexError) as error:
            raise ArgumentError(f"{path}: {error}") from error
    layers, calls = _since(values[node], start)
    if len(set(calls)) < len(calls):
        path = _path(next(call for call in calls if calls.count(call) > 1))
        wanted = "layers in a row and sums of two branches"
        raise ArgumentError(message(path, wanted, "a layer that more than one branch needs"))
    return Network(layers, start.shape), [
        (_path(call), root.get_submodule(call.target)) for call in calls
    ]


def _called(
    node: fx.Node, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, bool]:
    """What a call gives, and whether it changes its first tensor.

    Besides tensors there are tuples of them (nn.RNN) and shapes, where None is the batch size.
    """
    if node.op == "call_module":
        part = root.get_submodule(node.target)
        return _behind(_one_tensor((*args, *kwargs.values())), part, node)
    if node.op == "get_attr":
        got = f"the tensor {_users_path(node.target)}"
        raise ArgumentError(message("forward", "calls of modules", got))
    name = _function_name(node)
    if "input" in kwargs:
        args, kwargs = (kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"}
    source, *rest = args
    if name == "getitem" and isinstance(source, tuple):
        return source[rest[0]], False
    if name == "squeeze" and isinstance(source, tuple) and rest == [0]:
        return source[0], False
    if name in ("add", "iadd", "add_"):
        if kwargs or not (len(rest) == 1 and all(isinstance(x, _Tensor) for x in args)):
            got = ", ".join(map(_kind, (*args, *kwargs.values())))
            raise ArgumentError(message("add", "two tensors", got))
        result = _sum(source, rest[0])
        return (result, False) if name == "add" else (replace(result, memory=source.memory), True)
    tensor = _one_tensor((source,))
    shape = (None, *tensor.shape)
    if name == "getattr" and rest == ["shape"]:
        return shape, False
    if name == "size":
        return (shape[rest[0]] if rest else shape), False
    if name == "getitem" and _is_last_step(tensor, rest[0]):
        return _last_step(tensor), False
    if name in ("view", "reshape"):
        sizes = tuple(rest[0]) if isinstance(rest[0], tuple | list) else tuple(rest)
        features = math.prod(tensor.shape)
        if sizes not in ((None, -1), (None, features), (-1, features)):
            wanted = f"[batch, {features}] for a sample of {list(tensor.shape)}"
            raise ArgumentError(message(name, wanted, str(list(sizes))))
        return _behind(tensor, nn.Flatten(), node)
    if name == "mean":
        return _mean(tensor, node, *rest, **kwargs), False
    if name not in _FUNCTIONS:
        wanted = f"one of {', '.join([*_FUNCTIONS, 'add', 'mean', 'view', 'reshape'])}"
        raise ArgumentError(message("function", wanted, name, "not supported"))
    return _behind(tensor, _FUNCTIONS[name](*rest, **kwargs), node)


def _behind(source: _Tensor, part: nn.Module, node: fx.Node) -> tuple[Any, bool]:
    """What ``part`` makes of ``source``, and whether it changes it."""
    if type(part) in NOTHING_IN_EVAL_MODE:
        return source, False
    layer = layer_of(part, source.shape)
    before = source
    if isinstance(layer, Flatten) and source.global_pool:
        layer, before = GlobalAvgPool(), source.before or source
    in_place = getattr(part, "inplace", False)
    result = _Tensor(
        output_shape(layer, before.shape),
        before,
        layer,
        (node,) if isinstance(layer, Dense | Conv2d | Affine | Elman) else (),
        isinstance(part, nn.AdaptiveAvgPool2d) and output_shape(layer, source.shape)[1:] == (1, 1),
    )
    if in_place or isinstance(part, nn.Flatten):
        result = replace(result, memory=source.memory)
    if isinstance(part, nn.RNN):
        return (result, (_last_step(result),)), False
    return result, in_place


def _mean(tensor: _Tensor, node: fx.Node, dim: Any, keepdim: bool = False) -> _Tensor:
    if len(tensor.shape) != 3 or sorted(d % 4 for d in dim) != [2, 3]:
        raise ArgumentError(message("mean.dim", "(2, 3) of an image", str(dim)))
    mean: _Tensor = _behind(tensor, nn.AdaptiveAvgPool2d(1), node)[0]
    return mean if keepdim else _behind(mean, nn.Flatten(), node)[0]


def _sum(a: _Tensor, b: _Tensor) -> _Tensor:
    """The residual block that ends in a + b. Its body is a, or b where a is what b starts from."""
    seen = set(_back(a))
    fork = next(tensor for tensor in _back(b) if tensor in seen)
    if a is fork:
        a, b = b, a
    body, body_calls = _since(a, fork)
    shortcut, shortcut_calls = _since(b, fork)
    layer = Residual(body, shortcut or None, "identity")
    return _Tensor(output_shape(layer, fork.shape), fork, layer, (*body_calls, *shortcut_calls))


def _back(tensor: _Tensor | None) -> Iterator[_Tensor]:
    while tensor is not None:
        yield tensor
        tensor = tensor.before


def _since(tensor: _Tensor, start: _Tensor) -> tuple[tuple[Layer, ...], tuple[fx.Node, ...]]:
    """The layers and calls from ``start`` to ``tensor``; activations go into the layer before."""
    tensors: list[_Tensor] = []
    while tensor is not start and tensor.before is not None:
        tensors.insert(0, tensor)
        tensor = tensor.before
    layers: list[Layer] = []
    for layer in (tensor.layer for tensor in tensors if tensor.layer is not None):
        last = layers[-1] if layers else None
        if (
            isinstance(layer, Activation)
            and isinstance(last, Dense | Conv2d | Affine | Residual)
            and last.activation == "identity"
        ):
            slope = layer.negative_slope
            layers[-1] = replace(last, activation=layer.name, negative_slope=slope)
        else:
            layers.append(layer)
    return tuple(layers), tuple(call for tensor in tensors for call in tensor.calls)


def _last_step(tensor: _Tensor) -> _Tensor:
    layer = replace(tensor.layer, return_sequence=False)  # type: ignore[type-var]
    return replace(tensor, shape=tensor.shape[1:], layer=layer)


def _is_last_step(tensor: _Tensor, index: Any) -> bool:
    every = slice(None)
    steps = ((every, -1), (every, -1, every), (..., -1, every))
    return isinstance(tensor.layer, Elman) and tensor.layer.return_sequence and index in steps


def _one_tensor(values: tuple[Any, ...]) -> _Tensor:
    if len(values) != 1 or not isinstance(values[0], _Tensor):
        raise ArgumentError(message("forward", "one tensor", ", ".join(map(_kind, values))))
    return values[0]


def _kind(value: Any) -> str:
    """A value in an error."""
    return "a tensor" if isinstance(value, _Tensor) else type(value).__name__


def _share(values: dict[fx.Node, Any], a: fx.Node, b: fx.Node) -> bool:
    return isinstance(values[a], _Tensor) and values[a].memory is values[b].memory


def _function_name(node: fx.Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    name = getattr(node.target, "__name__", str(node.target))
    # Something else may have the same name.
    homes = (torch, nn.functional, operator)
    known = node.target is getattr or any(getattr(h, name, None) is node.target for h in homes)
    return name if known else f"{getattr(node.target, '__module__', '')}.{name}"


def _path(node: fx.Node) -> str:
    if node.op == "call_module":
        return _users_path(node.target)
    return _users_path(next(reversed(node.meta.get("nn_module_stack") or {"": None})))


def _users_path(path: str) -> str:
    """``path`` without the Sequential that `read` puts around the user's module."""
    return path.removeprefix("module").removeprefix(".") or "module"


def _refuse_hooks(root: nn.Module) -> None:
    for name, part in root.named_modules():
        if part._forward_hooks or part._forward_pre_hooks:
            got = f"hooks of {type(part).__name__}"
            raise ArgumentError(message(_users_path(name), "modules without forward hooks", got))


@contextmanager
def _eval_mode(root: nn.Module) -> Iterator[None]:
    """All modules in eval mode, afterwards each in the mode it was in."""
    modes = {part: part.training for part in root.modules()}
    try:
        for part in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode

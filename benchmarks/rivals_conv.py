"""PyTorch on slots with networks of their own: what ``torch_slots`` makes ready, a form that
evaluates some slots, and ``over_slots``, which runs it on all of them.

Batch norms are folded into the convolutions beforehand, pools come before ReLUs, which then have a
quarter of the elements, and nothing records gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.workload_conv import Slots
from evokern.layers import Affine, Conv2d, Dense, Flatten, MaxPool2d
from evokern.layout import GenomeLayout

Element = Literal["float32", "bfloat16"]

Form = Callable[[range], Any]
"""Outputs [n, B, O] of n slots that follow each other."""

Pools = Callable[[int], Executor]
"""So many Python threads, each of which leaves torch one."""


class TorchLayer(NamedTuple):
    """A convolution ``weight`` [K, O, C, k, k] or dense layer [K, O, I] and what follows it.

    ``rows``: the row of each slot.
    """

    weight: Any
    bias: Any
    rows: list[int]
    relu: bool
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    pool: tuple[int, int] | None = None


class TorchSlots(NamedTuple):
    """What the forms take: layers, and samples [S, B, ...] whose images are in memory order
    ``order``."""

    layers: list[TorchLayer]
    x: Any
    order: Any


def torch_slots(
    work: Slots, element: Element = "float32", *, channels_last: bool = False
) -> TorchSlots:
    """Everything in the type and memory order that it runs with."""
    import torch

    dtype = getattr(torch, element)
    order = torch.channels_last if channels_last else torch.contiguous_format

    def laid_out(weight: Any) -> Any:
        weight = weight.to(dtype)
        if channels_last and weight.ndim == 5:
            return weight.movedim(2, 4).contiguous().movedim(4, 2)
        return weight.contiguous()

    layers = [
        layer._replace(weight=laid_out(layer.weight), bias=layer.bias.to(dtype).contiguous())
        for layer in _folded_layers(work)
    ]
    x = torch.from_numpy(work.x).to(dtype)
    images = x.flatten(0, 1).contiguous(memory_format=order)
    return TorchSlots(layers, images.unflatten(0, x.shape[:2]), order)


def _folded_layers(work: Slots) -> list[TorchLayer]:
    import torch

    parts = [
        [torch.from_numpy(part.copy()) for part in GenomeLayout((block,)).split(bank)[0]]
        for block, bank in zip(work.network.layout.blocks, work.banks, strict=True)
    ]
    number = 0
    layers: list[TorchLayer] = []
    for layer, shape in zip(work.network.layers, work.network.shapes, strict=False):
        match layer:
            case Conv2d() | Dense():
                weight = parts[number][0].transpose(1, 2)
                bias = torch.zeros(weight.shape[:2])
                if layer.bias:
                    bias = parts[number][1]
                rows = work.rows[number].tolist()
                made = TorchLayer(weight, bias, rows, layer.activation == "relu")
                if isinstance(layer, Conv2d):
                    kernel = layer.geometry()
                    weight = weight.unflatten(2, (shape[0], *kernel[:2]))
                    made = made._replace(weight=weight, stride=kernel[2:4], padding=kernel[4:])
                layers.append(made)
                number += 1
            case Affine():
                scale, shift = parts[number]
                folded, bias = layers[-1].weight, layers[-1].bias
                layers[-1] = layers[-1]._replace(
                    weight=folded * scale[:, :, None, None, None],
                    bias=bias * scale + shift,
                    relu=layer.activation == "relu",
                )
                number += 1
            case MaxPool2d():
                layers[-1] = layers[-1]._replace(pool=layer.geometry()[:2])
            case Flatten():
                pass
            case _:
                raise NotImplementedError(f"{layer} in a rival")
    return layers


@contextmanager
def thread_pools() -> Iterator[Pools]:
    """Pools that are made when first asked for and last as long as the contest."""
    with ExitStack() as stack:

        @cache
        def pool(threads: int) -> Executor:
            import torch

            leave_one = partial(torch.set_num_threads, 1)
            return stack.enter_context(ThreadPoolExecutor(threads, initializer=leave_one))

        yield pool


def over_slots(
    form: Form, slots: int, chunk: int | None = None, pools: Pools | None = None
) -> Callable[[int], Any]:
    """The form on ``chunk`` slots at a time, or on as many shares as there are threads.

    With ``pools`` the chunks go side by side, each on one thread; else torch's threads share the
    work of each operation.
    """
    import torch

    def inferred(some: range) -> Any:
        with torch.inference_mode():  # of this thread
            return form(some)

    def run(threads: int) -> Any:
        size = chunk or -(-slots // threads)
        chunks = [range(first, min(first + size, slots)) for first in range(0, slots, size)]
        if pools is None or threads == 1:
            outputs = [inferred(some) for some in chunks]
        else:
            outputs = list(pools(threads).map(inferred, chunks))
        return torch.cat(outputs).float()

    return run


def loss_of(
    outputs: Callable[[int], Any], y: npt.NDArray[np.int64], classes: npt.NDArray[np.int32]
) -> Callable[[int], tuple[Any, Any]]:
    """Mean cross entropy and correct predictions [S] of outputs [S, B, O], labels y [S, B] and
    ``classes`` [S], past which outputs take no part."""
    import torch
    from torch.nn.functional import cross_entropy

    labels = torch.from_numpy(y)
    widest = int(classes.max())
    absent = torch.arange(widest) >= torch.from_numpy(classes)[:, None]
    mask = torch.zeros(absent.shape).masked_fill_(absent, -torch.inf).unsqueeze(1)

    def run(threads: int) -> tuple[Any, Any]:
        with torch.inference_mode():
            logits = outputs(threads) + mask
            flat = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            loss = flat.view(labels.shape).mean(1)
            correct = (logits.argmax(2) == labels).sum(1)
        return loss.numpy(), correct.numpy()

    return run


def loop(given: TorchSlots) -> Form:
    """One slot after the other."""
    import torch

    images = given.x.unbind()
    networks = [
        [(layer, *_row(layer, layer.rows[slot])) for layer in given.layers]
        for slot in range(len(images))
    ]

    def form(slots: range) -> Any:
        outputs = []
        for slot in slots:
            h = images[slot]
            for layer, weight, bias in networks[slot]:
                h = _apply(layer, h, weight, bias)
            outputs.append(h)
        return torch.stack(outputs)

    return form


def grouped(given: TorchSlots) -> Form:
    """The slots as groups of one convolution, then as the batch of one matrix product.

    Where slots share rows, their weights are gathered first.
    """
    import torch
    from torch.nn.functional import conv2d, max_pool2d

    batch = given.x.shape[1]

    @cache
    def images(slots: range) -> Any:
        """[B, n * C, H, W]"""
        channels = given.x[slots.start : slots.stop].transpose(0, 1).flatten(1, 2)
        return channels.contiguous(memory_format=given.order)

    def form(slots: range) -> Any:
        h = images(slots)
        for layer in given.layers:
            weight, bias = _gathered(layer, slots)
            if weight.ndim == 5:
                flat = weight.flatten(0, 1), bias.flatten()
                h = conv2d(h, *flat, layer.stride, layer.padding, groups=len(slots))
                if layer.pool is not None:
                    h = max_pool2d(h, layer.pool)
            else:
                if h.ndim == 4:
                    h = h.reshape(batch, len(slots), -1).transpose(0, 1)
                h = torch.baddbmm(bias.unsqueeze(1), h, weight.transpose(1, 2))
            if layer.relu:
                h.relu_()
        return h

    return form


def vmap(given: TorchSlots) -> Form:
    """``torch.func.vmap`` over a functional network; shared rows are gathered first."""
    import torch

    def network(h: Any, weights: list[tuple[Any, Any]]) -> Any:
        for layer, (weight, bias) in zip(given.layers, weights, strict=True):
            h = _apply(layer, h, weight, bias)
        return h

    population = torch.func.vmap(network)

    def form(slots: range) -> Any:
        weights = [_gathered(layer, slots) for layer in given.layers]
        return population(given.x[slots.start : slots.stop], weights)

    return form


def by_row(given: TorchSlots) -> Form:
    """Layer by layer, all samples of the slots that share a row at once.

    Samples stay in the order that a layer has left them in until the next gathers its own.
    """
    import torch

    batch = given.x.shape[1]
    x = given.x.flatten(0, 1)

    @cache
    def plan(slots: range) -> tuple[list[list[tuple[int, Any]]], Any]:
        """Per layer (row, samples, or None for all as they lie); where the slots' samples end."""
        samples = torch.arange(len(slots) * batch).view(len(slots), batch)
        place = samples
        steps: list[list[tuple[int, Any]]] = []
        for layer in given.layers:
            rows = torch.tensor(layer.rows[slots.start : slots.stop])
            found = rows.unique().tolist()
            if len(found) == 1:
                steps.append([(found[0], None)])
                continue
            users = [torch.nonzero(rows == row).flatten() for row in found]
            steps.append(
                [(row, place[who].flatten()) for row, who in zip(found, users, strict=True)]
            )
            place = torch.empty_like(samples)
            place[torch.cat(users)] = samples
        return steps, place.flatten()

    def form(slots: range) -> Any:
        steps, place = plan(slots)
        h = x[slots.start * batch : slots.stop * batch]
        for layer, groups in zip(given.layers, steps, strict=True):
            outputs = [
                _apply(layer, h if who is None else h.index_select(0, who), *_row(layer, row))
                for row, who in groups
            ]
            h = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return h.index_select(0, place).unflatten(0, (len(slots), batch))

    return form


def _row(layer: TorchLayer, row: int) -> tuple[Any, Any]:
    return layer.weight[row], layer.bias[row]


def _gathered(layer: TorchLayer, slots: range) -> tuple[Any, Any]:
    """Weights and biases of the slots: views where each runs the row of its own number."""
    rows = layer.rows[slots.start : slots.stop]
    if rows == list(slots):
        return layer.weight[slots.start : slots.stop], layer.bias[slots.start : slots.stop]
    return layer.weight[rows], layer.bias[rows]


def _apply(layer: TorchLayer, h: Any, weight: Any, bias: Any) -> Any:
    from torch.nn.functional import conv2d, linear, max_pool2d

    if weight.ndim == 4:
        h = conv2d(h, weight, bias, layer.stride, layer.padding)
        if layer.pool is not None:
            h = max_pool2d(h, layer.pool)
    else:
        h = linear(h.flatten(1), weight, bias)
    return h.relu_() if layer.relu else h

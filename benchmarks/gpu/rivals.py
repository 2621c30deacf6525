"""PyTorch on the device: the same work in buffers made beforehand, fp32 without TF32.

Each function makes the data ready on ``place``, a torch.device, and returns what is timed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import rivals_conv
from benchmarks.bench_nes import LEAST, RATE, SAMPLES, Work
from benchmarks.gpu.timing import Run
from benchmarks.workload import NETWORK, SIGMA, Evaluation, Variation
from benchmarks.workload_conv import Slots
from evokern.layout import GenomeLayout


def fp32_only() -> None:
    """No TF32; convolutions by the fastest algorithm that cuDNN finds."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def network_bmm(work: Evaluation, place: Any, chunk: int) -> Run:
    """``baddbmm`` layer after layer, ``chunk`` networks at a time: losses and correct [P]."""
    import torch
    from torch.nn.functional import cross_entropy

    layers = _layers(work, place)
    population, batch = len(work.genomes), len(work.x)
    x = torch.from_numpy(work.x).to(place).expand(chunk, -1, -1)
    y = torch.from_numpy(work.y).to(place)
    labels = y.repeat(chunk)
    buffers = [torch.empty(chunk, batch, w.shape[2], device=place) for w, _ in layers]

    def evaluate(first: int) -> tuple[Any, Any]:
        count = min(chunk, population - first)
        h, here = x[:count], slice(first, first + count)
        for number, ((w, b), buffer) in enumerate(zip(layers, buffers, strict=True)):
            if number:
                h.relu_()
            h = torch.baddbmm(b[here], h, w[here], out=buffer[:count])
        flat = h.view(count * batch, -1)
        loss = cross_entropy(flat, labels[: len(flat)], reduction="none").view(count, batch)
        return loss.mean(1), (h.argmax(2) == y).sum(1)

    def run() -> tuple[Any, Any]:
        with torch.no_grad():
            parts = [evaluate(first) for first in range(0, population, chunk)]
            loss, correct = (torch.cat(part) for part in zip(*parts, strict=True))
        return loss, correct

    return run


def network_vmap(work: Evaluation, place: Any, chunk: int) -> Run:
    """``torch.func.vmap`` over a functional network, ``chunk`` networks at a time."""
    import torch
    from torch.nn.functional import cross_entropy

    layers = [(w, b.squeeze(1)) for w, b in _layers(work, place)]
    x, y = torch.from_numpy(work.x).to(place), torch.from_numpy(work.y).to(place)

    def evaluate(network: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        h = x
        for number, (w, b) in enumerate(network):
            h = torch.addmm(b, torch.relu(h) if number else h, w)
        return cross_entropy(h, y), (h.argmax(1) == y).sum()

    population = torch.func.vmap(evaluate, chunk_size=chunk)

    def run() -> tuple[Any, Any]:
        with torch.no_grad():
            loss, correct = population(layers)
        return loss, correct

    return run


def _layers(work: Evaluation, place: Any) -> list[tuple[Any, Any]]:
    """Per layer weights [P, I, O] and biases [P, 1, O], each in one piece."""
    import torch

    return [
        (torch.from_numpy(w.copy()).to(place), torch.from_numpy(b.copy()).to(place).unsqueeze(1))
        for w, b in NETWORK.layout.split(work.genomes)
    ]


def offspring(work: Variation, kind: str, layout: GenomeLayout, place: Any) -> Run:
    """The whole population at once: copies, then children, then mutants, float32 [P, G]."""
    import torch

    pool = torch.from_numpy(work.genomes).to(place)
    first, second = torch.from_numpy(work.parents).to(place)
    crossed = slice(work.elites, work.elites + work.crossed)
    mutated = slice(crossed.stop, len(pool))
    out = torch.empty(pool.shape, device=place)
    other = torch.empty(work.crossed, pool.shape[1], device=place)
    noise = torch.empty(len(pool) - crossed.stop, pool.shape[1], device=place)
    sigma = torch.from_numpy(work.sigma).to(place)[mutated, None]
    units = torch.from_numpy(units_of(layout)).to(place)
    draws = int(units.max()) + 1 if kind == "rows" else pool.shape[1]
    mask = torch.empty(work.crossed, draws, dtype=torch.bool, device=place)

    def run() -> Any:
        torch.index_select(pool, 0, first, out=out)
        if work.crossed:
            torch.index_select(pool, 0, second[crossed], out=other)
            child = out[crossed]
            if kind == "arithmetic":
                child.add_(other).mul_(0.5)
            else:
                mask.random_()
                chosen = mask.index_select(1, units) if kind == "rows" else mask
                torch.where(chosen, child, other, out=child)
        if len(noise):
            out[mutated].addcmul_(noise.normal_(), sigma)
        return out

    return run


def units_of(layout: GenomeLayout) -> np.ndarray:
    """The output unit of every gene: int32 [G]."""
    units, first = [], 0
    for block in layout.blocks:
        for part in block.parts:
            units.append(
                np.tile(np.arange(first, first + block.outputs, dtype=np.int32), part.rows)
            )
        first += block.outputs
    return np.concatenate(units)


def mutations(genes: int, lineages: int, count: int, place: Any) -> Run:
    """Founders, then so many normal mutations of all, in place."""
    import torch

    genomes = torch.empty(lineages, genes, device=place)
    noise = torch.empty_like(genomes)

    def run() -> Any:
        genomes.uniform_(-0.1, 0.1)
        for _ in range(count):
            genomes.add_(noise.normal_(), alpha=SIGMA)
        return genomes

    return run


def slots_grouped(work: Slots, place: Any, *, channels_last: bool = False) -> Run:
    """The slots as groups of one convolution, then as the batch of one product: [S, B, O]."""
    return _of_slots(rivals_conv.grouped, work, place, channels_last)


def slots_vmap(work: Slots, place: Any) -> Run:
    """``torch.func.vmap`` over the slots."""
    return _of_slots(rivals_conv.vmap, work, place, False)


def _of_slots(form: Any, work: Slots, place: Any, channels_last: bool) -> Run:
    given = rivals_conv.torch_slots(work, channels_last=channels_last)
    layers = [
        layer._replace(weight=layer.weight.to(place), bias=layer.bias.to(place))
        for layer in given.layers
    ]
    ready = form(given._replace(layers=layers, x=given.x.to(place)))
    run = rivals_conv.over_slots(ready, len(work), len(work))
    return lambda: run(1)


def nes(work: Work, place: Any) -> Run:
    """``multinomial``; the sum over samples by ``scatter_add_``: (assignments, probabilities)."""
    import torch

    table = torch.from_numpy(work.probabilities).to(place)
    losses = torch.from_numpy(work.losses).to(place)
    places = torch.linspace(-1, 1, SAMPLES, device=place)
    u = torch.empty(SAMPLES, device=place)

    def run() -> tuple[Any, Any]:
        with torch.no_grad():
            drawn = torch.multinomial(table, SAMPLES, replacement=True)
            u[losses.argsort(descending=True)] = places
            hits = torch.zeros_like(table).scatter_add_(1, drawn, u.expand(drawn.shape))
            stepped = (table + (RATE / SAMPLES) * (hits - u.sum() * table)).clamp_(min=LEAST)
            return drawn.T, stepped / stepped.sum(1, keepdim=True)

    return run

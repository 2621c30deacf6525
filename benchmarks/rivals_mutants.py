"""torch on mutants of a centre, in its strongest honest form: see ``rivals``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.rivals import Run

if TYPE_CHECKING:
    from benchmarks.bench_mutants import Work


def torch_mutants(work: Work, chunk: int) -> Run:
    """All mutated units of ``chunk`` mutants in one product, ``baddbmm`` from the centre's sums for
    the next layer, then one product per layer that all share."""
    import torch
    from torch.nn.functional import cross_entropy, relu

    n, units = len(work.genes), work.slices.units
    layers = [
        (torch.from_numpy(w[0].copy()), torch.from_numpy(b[0].copy()))
        for w, b in work.network.layout.split(work.centre)
    ]
    x, y = torch.from_numpy(work.x), torch.from_numpy(work.y)
    inputs, batch = x.shape[1], len(x)
    own = work.genes[:, : inputs * units].reshape(n, inputs, units)
    biases = torch.from_numpy(work.genes[:, inputs * units :].copy())
    weights = torch.from_numpy(np.ascontiguousarray(own.transpose(1, 0, 2)))  # [I, n, U]
    columns = torch.from_numpy(work.index[:, None].astype(np.int64)) * units + torch.arange(units)
    labels = y.repeat(chunk)

    def evaluate(first: int, before: Any, sums: Any) -> tuple[Any, Any]:
        here = slice(first, min(first + chunk, n))
        count = here.stop - first
        w = weights[:, here].reshape(inputs, count * units)
        h = torch.addmm(biases[here].reshape(-1), x, w).relu_()
        h -= before[:, columns[here].reshape(-1)]
        change = h.view(batch, count, units).transpose(0, 1)
        h = torch.baddbmm(sums.expand(count, -1, -1), change, layers[1][0][columns[here]])
        h = h.view(count * batch, -1)
        for w, b in layers[2:]:
            h = torch.addmm(b, h.relu_(), w)
        loss = cross_entropy(h, labels[: len(h)], reduction="none").view(count, batch)
        return loss.mean(1), (h.view(count, batch, -1).argmax(2) == y).sum(1)

    def run(threads: int) -> tuple[Any, Any]:
        with torch.no_grad():
            before = relu(torch.addmm(layers[0][1], x, layers[0][0]))
            sums = torch.addmm(layers[1][1], before, layers[1][0])
            parts = [evaluate(first, before, sums) for first in range(0, n, chunk)]
            loss, correct = (torch.cat(part) for part in zip(*parts, strict=True))
        return loss.numpy(), correct.numpy()

    return run

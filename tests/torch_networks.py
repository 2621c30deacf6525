"""PyTorch modules that tests read as networks, and what must hold for each. Skips without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evokern import ops
from evokern.network import Network
from evokern.testing import assert_close, assert_same_bits, error_bound

torch = pytest.importorskip("torch")
nn = torch.nn


class Module(nn.Module):  # type: ignore[misc]
    """A module whose forward is a function of itself and x."""

    def __init__(self, call: Callable[[Any, Any], Any], **parts: Any) -> None:
        super().__init__()
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.call(self, x)


class BasicBlock(nn.Module):  # type: ignore[misc]
    """He et al. 2016, figure 5 left, with torchvision's names."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or channels != outputs:
            shortcut = nn.Conv2d(channels, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):  # type: ignore[misc]
    """ResNet-18 for CIFAR: a 3x3 stem without pool; stages of width, 2, 4 and 8 times width."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        channels = width
        for stage in range(4):
            outputs = width * 2**stage
            first = BasicBlock(channels, outputs, 1 if stage == 0 else 2)
            blocks = nn.Sequential(first, BasicBlock(outputs, outputs, 1))
            setattr(self, f"layer{stage + 1}", blocks)
            channels = outputs
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Any) -> Any:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def seeded(make: Callable[[], Any]) -> Any:
    """A module of random weights, whose batch norms have seen some data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = make()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1, 0.25)
                nn.init.normal_(part.bias, 0, 0.25)
                nn.init.normal_(part.running_mean, 0, 0.25)
                nn.init.uniform_(part.running_var, 0.5, 2)
    return module


def check(module: Any, input_shape: tuple[int, ...], *, batch: int = 3) -> Network:
    """The logits of PyTorch and of the ops are those of the network in float64; round trips."""
    modes = [part.training for part in module.modules()]
    network = Network.from_module(module, input_shape)
    assert [part.training for part in module.modules()] == modes
    genome = network.genome_of(module)
    x = np.random.default_rng(3).standard_normal((batch, *input_shape), np.float32)
    expected = error_bound(network, genome[np.newaxis], x)
    again = network.to_module(genome)
    module.eval()
    for outputs in (module(torch.from_numpy(x.copy())), again(torch.from_numpy(x))):
        assert_close(outputs.detach().numpy(), expected.value[0], expected.bound[0])
    outputs = ops.network_forward(genome[np.newaxis], network, x)
    assert_close(outputs, expected.value, expected.bound)
    assert Network.from_module(again, input_shape) == network
    assert_same_bits(network.genome_of(again), genome)
    return network

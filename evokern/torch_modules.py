"""PyTorch modules for what PyTorch has no layer for; ``Network.to_module`` uses them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from evokern.layers import ActivationName

Tensor = Any
"""A torch.Tensor, which mypy must not need to know."""


class Affine(nn.Module):  # type: ignore[misc]
    """``x * scale + shift`` per channel of x [B, C, H, W] or [B, C]; the same in train mode."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> [B, C, ...]."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        return x * self.scale.view(shape) + self.shift.view(shape)


class Residual(nn.Module):  # type: ignore[misc]
    """``activation(body(x) + shortcut(x))``; an empty Sequential as shortcut adds x itself."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.activation = body, shortcut, activation

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> the body's output."""
        return self.activation(self.body(x) + self.shortcut(x))


class Elman(nn.Module):  # type: ignore[misc]
    """``evokern.Elman`` with weight_in [O, I], weight_rec [O, O] and bias [O]."""

    def __init__(
        self,
        weight_in: Tensor,
        weight_rec: Tensor,
        bias: Tensor,
        activation: nn.Module,
        return_sequence: bool,
    ) -> None:
        super().__init__()
        self.weight_in, self.weight_rec, self.bias = weight_in, weight_rec, bias
        self.activation, self.return_sequence = activation, return_sequence

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, I] -> [B, O], or [B, T, O] with ``return_sequence``."""
        state = x.new_zeros(len(x), len(self.bias))
        states = []
        for step in range(x.shape[1]):
            sums = nn.functional.linear(x[:, step], self.weight_in, self.bias)
            state = self.activation(sums + nn.functional.linear(state, self.weight_rec))
            states.append(state)
        return torch.stack(states, 1) if self.return_sequence else state


def activation_module(name: ActivationName, negative_slope: float) -> nn.Module:
    """The activation ``name`` as a PyTorch module."""
    match name:
        case "identity":
            return nn.Identity()
        case "leaky_relu":
            return nn.LeakyReLU(negative_slope)
        case "gelu" | "gelu_tanh":
            return nn.GELU("tanh" if name == "gelu_tanh" else "none")
        case _:
            kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "silu": nn.SiLU}
            return kinds[name]()

"""PyTorch modules as networks: Sequential, forwards of any kind, residual networks, refusals."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from torch_networks import Module, ResNet18, check, seeded, torch

from evokern import ops
from evokern.errors import ArgumentError, DtypeError, ShapeError
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
    Layer,
    MaxPool2d,
    Residual,
)
from evokern.network import Network
from evokern.testing import assert_close, assert_same_bits

nn, functional = torch.nn, torch.nn.functional
pytestmark = pytest.mark.torch


class TestSequential:
    def test_literal(self) -> None:
        module = nn.Sequential(
            OrderedDict(
                features=nn.Sequential(
                    nn.MaxPool2d(2),
                    nn.Tanh(),
                    nn.Conv2d(2, 4, (3, 1), padding=1, bias=False),
                    nn.BatchNorm2d(4),
                    nn.GELU(),
                    nn.AvgPool2d((2, 1), 1, (1, 0)),
                    nn.Dropout2d(0.5),
                ),
                between=nn.Sequential(nn.Identity(), nn.Flatten()),
                head=nn.Sequential(
                    nn.Linear(60, 5),
                    nn.Dropout(0.9),
                    nn.LeakyReLU(0.25),
                    nn.BatchNorm1d(5),
                    nn.SiLU(),
                    nn.Sigmoid(),
                    nn.Linear(5, 3, bias=False),
                ),
            )
        )
        assert check(module, (2, 4, 6)).layers == (
            MaxPool2d(2),
            Activation("tanh"),
            Conv2d(4, (3, 1), padding=1, bias=False),
            Affine("gelu"),
            AvgPool2d((2, 1), 1, (1, 0)),
            Flatten(),
            Dense(5, "leaky_relu", 0.25),
            Affine("silu"),
            Activation("sigmoid"),
            Dense(3, bias=False),
        )

    def test_every_activation(self) -> None:
        activations = [
            nn.Identity(),
            nn.ReLU(inplace=True),
            nn.LeakyReLU(),
            nn.Tanh(),
            nn.Sigmoid(),
            nn.GELU(),
            nn.GELU("tanh"),
            nn.SiLU(),
        ]
        layers = [Network.from_module(nn.Sequential(a), (3,)).layers for a in activations]
        assert layers == [(), *((Activation(name),) for name in ACTIVATIONS[1:])]

    def test_windows_are_written_short(self) -> None:
        module = nn.Sequential(
            nn.MaxPool2d((3, 3), (3, 3), 1),
            nn.AvgPool2d(2, 1, 0, False, False),
            nn.Conv2d(1, 2, (3, 3), (2, 1), (1, 2)),
            nn.Conv2d(2, 2, (3, 5), padding="same"),
            nn.Conv2d(2, 2, 2, padding="valid"),
        )
        assert Network.from_module(module, (1, 12, 12)).layers == (
            MaxPool2d(3, None, 1),
            AvgPool2d(2, 1, count_include_pad=False),
            Conv2d(2, 3, (2, 1), (1, 2)),
            Conv2d(2, (3, 5), 1, (1, 2)),
            Conv2d(2, 2),
        )

    def test_one_layer_and_none(self) -> None:
        assert Network.from_module(nn.Linear(3, 2), (3,)) == Network((Dense(2),), (3,))
        assert Network.from_module(nn.Sequential(), (3,)) == Network((), (3,))

    def test_a_module_used_twice_counts_twice(self) -> None:
        relu, linear = nn.ReLU(), nn.Linear(3, 3)
        network = Network.from_module(nn.Sequential(linear, relu, linear, relu), (3,))
        assert network.layers == (Dense(3, "relu"), Dense(3, "relu"))
        assert network.genome_of(nn.Sequential(linear, relu, linear, relu)).shape == (24,)

    @pytest.mark.parametrize(
        ("parts", "layers"),
        [
            ([nn.AdaptiveAvgPool2d(1), nn.Flatten()], (GlobalAvgPool(),)),
            (
                [nn.AdaptiveAvgPool2d((1, 1)), nn.Dropout(), nn.Flatten(1, 3)],
                (GlobalAvgPool(),),
            ),
            ([nn.AdaptiveAvgPool2d(1)], (AvgPool2d((4, 6)),)),
            (
                [nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 3, 1), nn.Flatten()],
                (AvgPool2d((4, 6)), Conv2d(3, 1), Flatten()),
            ),
            ([nn.AdaptiveAvgPool2d((2, None)), nn.Flatten()], (AvgPool2d((2, 1)), Flatten())),
            ([nn.AvgPool2d((4, 6)), nn.Flatten()], (AvgPool2d((4, 6)), Flatten())),
        ],
    )
    def test_global_pool(self, parts: list[Any], layers: tuple[Layer, ...]) -> None:
        assert check(nn.Sequential(*parts), (2, 4, 6)).layers == layers


class TestForward:
    """Modules with a forward of their own."""

    @pytest.mark.parametrize(
        ("call", "layers"),
        [
            (
                lambda m, x: functional.relu(m.fc(torch.flatten(x, 1))),
                (Flatten(), Dense(3, "relu")),
            ),
            (lambda m, x: m.fc(x.view(x.size(0), -1)).tanh(), (Flatten(), Dense(3, "tanh"))),
            (lambda m, x: m.fc(x.reshape(x.shape[0], 8)), (Flatten(), Dense(3))),
            (lambda m, x: m.fc(x.contiguous().view((-1, 8))), (Flatten(), Dense(3))),
            (lambda m, x: m.fc(x.flatten(start_dim=1)).relu_(), (Flatten(), Dense(3, "relu"))),
            (lambda m, x: functional.relu(input=x, inplace=False), (Activation("relu"),)),
            (
                lambda m, x: functional.leaky_relu(m.fc(x.flatten(1)), 0.5),
                (Flatten(), Dense(3, "leaky_relu", 0.5)),
            ),
            (
                lambda m, x: functional.gelu(m.fc(x.flatten(1)), approximate="tanh"),
                (Flatten(), Dense(3, "gelu_tanh")),
            ),
            (
                lambda m, x: functional.dropout(torch.sigmoid(x), 0.5, m.training),
                (Activation("sigmoid"),),
            ),
            (lambda m, x: functional.dropout(x) if m.training else functional.silu(x), "silu"),
            (lambda m, x: functional.max_pool2d(x, 2, 1), (MaxPool2d(2, 1),)),
            (
                lambda m, x: functional.avg_pool2d(x, 2, 1, 1, False, False),
                (AvgPool2d(2, 1, 1, count_include_pad=False),),
            ),
            (
                lambda m, x: functional.adaptive_avg_pool2d(x, 1).flatten(1),
                (GlobalAvgPool(),),
            ),
            (lambda m, x: x.mean((2, 3)), (GlobalAvgPool(),)),
            (lambda m, x: torch.mean(x, dim=[-1, -2]), (GlobalAvgPool(),)),
            (lambda m, x: x.mean((2, 3), keepdim=True), (AvgPool2d(2),)),
        ],
    )
    def test_functions(self, call: Any, layers: Any) -> None:
        expected = (Activation(layers),) if isinstance(layers, str) else layers
        module = seeded(lambda: Module(call, fc=nn.Linear(8, 3)))
        assert check(module, (2, 2, 2)).layers == expected

    @pytest.mark.parametrize(
        ("call", "layers"),
        [
            (lambda m, x: m.a(x) + x, (Residual((Dense(4),), None, "identity"),)),
            (lambda m, x: x + m.a(x), (Residual((Dense(4),), None, "identity"),)),
            (
                lambda m, x: torch.add(m.a(x), m.b(x)).relu(),
                (Residual((Dense(4),), (Dense(4, bias=False),)),),
            ),
            (
                lambda m, x: torch.tanh(m.b(x).add(m.a(x).relu())),
                (Residual((Dense(4, bias=False),), (Dense(4, "relu"),), "tanh"),),
            ),
            (lambda m, x: x + x, (Residual((), None, "identity"),)),
            (
                lambda m, x: m.b(h := m.a(x)) + h.relu(),
                (
                    Dense(4),
                    Residual((Dense(4, bias=False),), (Activation("relu"),), "identity"),
                ),
            ),
            (
                lambda m, x: (m.b(h := m.a(x) + x)) + h,
                (
                    Residual((Dense(4),), None, "identity"),
                    Residual((Dense(4, bias=False),), None, "identity"),
                ),
            ),
            (
                lambda m, x: (m.a(x) + x) + m.b(x),
                (
                    Residual(
                        (Residual((Dense(4),), None, "identity"),),
                        (Dense(4, bias=False),),
                        "identity",
                    ),
                ),
            ),
        ],
    )
    def test_sums(self, call: Any, layers: tuple[Layer, ...]) -> None:
        make = lambda: Module(call, a=nn.Linear(4, 4), b=nn.Linear(4, 4, bias=False))  # noqa: E731
        assert check(seeded(make), (4,)).layers == layers

    @pytest.mark.parametrize(
        ("call", "layers"),
        [
            (lambda m, x: m.rnn(x)[0][:, -1], (Elman(4, "relu"),)),
            (lambda m, x: m.rnn(x)[0][:, -1, :], (Elman(4, "relu"),)),
            (lambda m, x: m.rnn(x)[1][0], (Elman(4, "relu"),)),
            (lambda m, x: m.rnn(x)[1].squeeze(0), (Elman(4, "relu"),)),
            (lambda m, x: m.rnn(x)[0], (Elman(4, "relu", return_sequence=True),)),
            (
                lambda m, x: torch.tanh(m.rnn(x)[1][-1]),
                (Elman(4, "relu"), Activation("tanh")),
            ),
        ],
    )
    def test_rnn(self, call: Any, layers: tuple[Layer, ...]) -> None:
        make = lambda: Module(call, rnn=nn.RNN(3, 4, nonlinearity="relu", batch_first=True))  # noqa: E731
        assert check(seeded(make), (5, 3)).layers == layers

    def test_rnn_without_bias(self) -> None:
        def make() -> Any:
            return Module(lambda m, x: m.rnn(x)[0], rnn=nn.RNN(1, 2, bias=False, batch_first=True))

        network = check(seeded(make), (3, 1))
        assert network.layers == (Elman(2, return_sequence=True),)

    @pytest.mark.parametrize("call", [lambda h: h[:, -1], lambda h: h[:, :, -1], lambda h: h[0]])
    def test_other_parts_of_an_rnn(self, call: Any) -> None:
        module = Module(lambda m, x: call(m.rnn(x)[1][0]), rnn=nn.RNN(3, 4, batch_first=True))
        with pytest.raises(ArgumentError, match=r"^module: function: .*got getitem"):
            Network.from_module(module, (5, 3))

    def test_literal_rnn(self) -> None:
        rnn = nn.RNN(1, 2, batch_first=True)
        for number, parameter in enumerate(rnn.parameters()):
            values = torch.arange(float(parameter.numel())) + 10 * number
            parameter.data[:] = values.reshape(parameter.shape)
        genome = Network((Elman(2),), (4, 1)).genome_of(
            Module(lambda m, x: m.rnn(x)[1][0], rnn=rnn)
        )
        assert_same_bits(genome, np.array([0, 1, 10, 12, 11, 13, 50, 52], np.float32))

    def test_a_default_stays_what_it_is(self) -> None:
        class Optional(nn.Module):  # type: ignore[misc]
            def forward(self, x: Any, flag: bool = False) -> Any:
                return x.tanh() if flag else x.relu()

        assert Network.from_module(Optional(), (3,)).layers == (Activation("relu"),)

    def test_what_was_changed_in_place_may_be_read_before(self) -> None:
        def call(module: Any, x: Any) -> Any:
            h = module.a(x)
            h += module.b(h)
            return h.relu_()

        make = lambda: Module(call, a=nn.Linear(4, 4), b=nn.Linear(4, 4))  # noqa: E731
        assert check(seeded(make), (4,)).layers == (Dense(4), Residual((Dense(4),)))

    @pytest.mark.parametrize(
        "call",
        [
            lambda m, x: m.b(m.relu(h := m.a(x))) + h,
            lambda m, x: functional.relu(h := m.a(x), inplace=True) + h,
            lambda m, x: m.b((h := m.a(x)).relu_()) + h,
            lambda m, x: m.b((h := m.a(x)).add_(x)) + h,
            lambda m, x: m.b((h := m.a(x)).flatten(1).relu_()) + h,
            lambda m, x: m.b(functional.dropout(h := m.a(x), training=False).relu_()) + h,
            lambda m, x: (functional.relu_(h := m.a(x)), m.b(h))[1],
        ],
    )
    def test_what_was_changed_in_place_is_not_read_again(self, call: Any) -> None:
        module = Module(call, a=nn.Linear(4, 4), b=nn.Linear(4, 4), relu=nn.ReLU(inplace=True))
        wanted = "input: expected tensors that keep their values, got one that was changed in place"
        with pytest.raises(ArgumentError, match=wanted):
            Network.from_module(module, (4,))

    def test_sum_in_place_under_another_name(self) -> None:
        def call(module: Any, x: Any) -> Any:
            h = identity = module.a(x)
            h += x
            return h + identity

        with pytest.raises(ArgumentError, match=r"module: input: .* changed in place"):
            Network.from_module(Module(call, a=nn.Linear(4, 4)), (4,))

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            (lambda m, x: abs(x), "function: expected one of relu, .*, mean.*got abs"),
            (lambda m, x: x * m.b(x), "function: .*got mul"),
            (lambda m, x: torch.cat([x, x]), "forward: expected one tensor, got immutable_list"),
            (lambda m, x: x + 1, "add: expected two tensors, got a tensor, int"),
            (lambda m, x: torch.add(x, x, alpha=2), "add: .*, got a tensor, a tensor, int"),
            (
                lambda m, x: x @ m.b.weight,
                r"expected calls of modules, got .* block\.b\.weight",
            ),
            (lambda m, x: x.view(-1, 2), r"view: expected \[batch, 4\] .*, got \[-1, 2\]"),
            (lambda m, x: x.mean(1), r"mean.dim: expected \(2, 3\) of an image, got 1"),
            (lambda m, x: x if x.sum() > 0 else -x, "that torch.fx can trace, got TraceError"),
            (lambda m, x: m.nothing(x), "that torch.fx can trace, got AttributeError"),
            (lambda m, x: functional.dropout(x), r"dropout.training: expected self\.training"),
            (lambda m, x: torch.tanh(x, out=x), "unexpected keyword argument 'out'"),
            (lambda m, x: m.c(x) + m.b(x), r"shortcut: expected .* \[1\], got \[4\]"),
        ],
    )
    def test_what_cannot_be_mapped(self, call: Any, text: str) -> None:
        module = Module(call, b=nn.Linear(4, 4), c=nn.Linear(4, 1))
        body = nn.Sequential(OrderedDict(block=module))
        with pytest.raises((ArgumentError, ShapeError), match=rf"^block: .*{text}"):
            Network.from_module(body, (4,))

    def test_a_layer_before_a_branch_that_crosses_another(self) -> None:
        """The block x + a(x) starts at x, so its end cannot be added to a(x) again."""
        module = Module(
            lambda m, x: m.b((h := m.a(x)) + x) + h, a=nn.Linear(4, 4), b=nn.Linear(4, 4)
        )
        wanted = "a: expected layers in a row and sums of two branches"
        with pytest.raises(ArgumentError, match=wanted):
            Network.from_module(module, (4,))

    def test_the_mode_is_restored_after_an_error(self) -> None:
        module = nn.Sequential(nn.Linear(3, 3).eval(), nn.Bilinear(3, 3, 3))
        with pytest.raises(ArgumentError):
            Network.from_module(module, (3,))
        assert [part.training for part in module.modules()] == [True, False, True]


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda: nn.PReLU(), "one of .*LeakyReLU, Tanh, Sigmoid, GELU, SiLU.*, got PReLU"),
            (lambda: nn.ConvTranspose2d(2, 3, 1), "one of Sequential, Linear, .*ConvTranspose2d"),
            (lambda: nn.Bilinear(2, 2, 2), "got Bilinear"),
            (lambda: nn.GELU("other"), "one of .*got GELU"),
            (lambda: type("Mine", (nn.Linear,), {})(4, 2), "got Mine"),
            (lambda: type("Mine", (nn.Sequential,), {"forward": abs})(), "got abs"),
            (lambda: nn.Flatten(2), r"Flatten.start_dim: expected 1, got 2"),
            (lambda: nn.Flatten(1, 2), r"Flatten.end_dim: expected -1, got 2"),
            (lambda: nn.MaxPool2d(2, dilation=2), "MaxPool2d.dilation: expected 1, got 2"),
            (lambda: nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d.ceil_mode: expected False"),
            (lambda: nn.MaxPool2d(2, return_indices=True), "return_indices: expected False"),
            (lambda: nn.AvgPool2d(2, ceil_mode=True), "AvgPool2d.ceil_mode: expected False"),
            (lambda: nn.AvgPool2d(2, divisor_override=3), "divisor_override: expected None"),
            (lambda: nn.AvgPool2d(9), "kernel: expected at most the padded input 4x5, got 9x9"),
            (lambda: nn.AdaptiveAvgPool2d(2), r"output_size: expected divisors .*\[4, 5\], got 2"),
            (lambda: nn.Linear(5, 2), r"input: expected a flat input .*add Flatten"),
            (lambda: nn.Conv2d(3, 3, 1), "Conv2d.in_channels: expected 2, got 3"),
            (lambda: nn.Conv2d(2, 4, 1, groups=2), "Conv2d.groups: expected 1, got 2"),
            (lambda: nn.Conv2d(2, 4, 2, dilation=2), r"Conv2d.dilation: expected \(1, 1\)"),
            (lambda: nn.Conv2d(2, 4, 1, padding_mode="reflect"), "padding_mode: expected zeros"),
            (lambda: nn.Conv2d(2, 4, 2, padding="same"), r"padding: expected an odd kernel"),
            (lambda: nn.Conv2d(2, 4, 6), "kernel: expected at most the padded input 4x5"),
            (lambda: nn.BatchNorm2d(3), "BatchNorm2d.num_features: expected 2, got 3"),
            (lambda: nn.BatchNorm1d(2), r"input of BatchNorm1d: expected a flat input \[I\]"),
            (
                lambda: nn.BatchNorm2d(2, track_running_stats=False),
                "BatchNorm2d: expected running_mean and running_var, got None",
            ),
            (lambda: nn.RNN(5, 2, batch_first=True), r"input: expected a sequence \[T, I\]"),
            (lambda: nn.RNN(5, 2), "RNN.batch_first: expected True, got False"),
            (lambda: nn.RNN(5, 2, 2, batch_first=True), "RNN.num_layers: expected 1, got 2"),
            (lambda: nn.LSTM(5, 2), "got LSTM"),
        ],
    )
    def test_modules(self, make: Any, text: str) -> None:
        module = nn.Sequential(OrderedDict(first=nn.ReLU(), features=nn.Sequential(make())))
        with pytest.raises((ArgumentError, ShapeError), match=rf"^features\.0: .*{text}"):
            Network.from_module(module, (2, 4, 5))

    def test_linear_of_another_width(self) -> None:
        module = nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 2))
        with pytest.raises(ShapeError, match=r"^1: Linear.in_features: expected 3, got 4"):
            Network.from_module(module, (4,))

    def test_hooks_may_change_anything(self) -> None:
        module = nn.Sequential(nn.Linear(4, 3))
        module[0].register_forward_hook(lambda *_: None)
        wanted = r"^0: .*without forward hooks, got hooks of Linear"
        with pytest.raises(ArgumentError, match=wanted):
            Network.from_module(module, (4,))

    def test_what_is_no_module(self) -> None:
        with pytest.raises(ArgumentError, match=r"^module: .*can trace, got NotImplementedError"):
            Network.from_module(type("Mine", (nn.Module,), {})(), (4,))
        with pytest.raises(ArgumentError, match=r"^module: .*expected one tensor, got tuple"):
            Network.from_module(Module(lambda m, x: (x, x)), (4,))
        with pytest.raises(DtypeError, match=r"module: expected a torch.nn.Module, got list"):
            Network.from_module([nn.Linear(4, 3)], (4,))


def block(outputs: int, stride: int, shortcut: bool) -> Residual:
    """`BasicBlock` as a layer."""
    return Residual(
        (
            Conv2d(outputs, 3, stride, 1, bias=False),
            Affine("relu"),
            Conv2d(outputs, 3, 1, 1, bias=False),
            Affine(),
        ),
        (Conv2d(outputs, 1, stride, bias=False), Affine()) if shortcut else None,
    )


class TestResNet18:
    def test_layers(self) -> None:
        assert Network.from_module(ResNet18(4, 10), (3, 32, 32)).layers == (
            Conv2d(4, 3, 1, 1, bias=False),
            Affine("relu"),
            block(4, 1, shortcut=False),
            block(4, 1, shortcut=False),
            block(8, 2, shortcut=True),
            block(8, 1, shortcut=False),
            block(16, 2, shortcut=True),
            block(16, 1, shortcut=False),
            block(32, 2, shortcut=True),
            block(32, 1, shortcut=False),
            GlobalAvgPool(),
            Dense(10),
        )

    @pytest.mark.parametrize(
        ("width", "classes", "shape", "genes"),
        [
            (5, 7, (3, 17, 15), 69_272),
            pytest.param(64, 10, (3, 32, 32), 11_173_962, marks=pytest.mark.slow),
        ],
    )
    def test_logits(
        self, width: int, classes: int, shape: tuple[int, int, int], genes: int
    ) -> None:
        module = seeded(lambda: ResNet18(width, classes))
        network = check(module, shape)
        genome = network.genome_of(module)
        assert genome.shape == (genes,)
        # Over so many layers the bound has grown beyond use. One rounding for each of the 20 batch
        # norms and one for the logits is what float32 needs here, with room to spare.
        x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            outputs = network.to_module(genome)(x).numpy()
            exact = module.double()(x.double()).numpy()
        tolerance = 21 * 2.0**-24 * np.abs(exact).max()
        assert_close(outputs, exact, tolerance)
        (outputs,) = ops.network_forward(genome[np.newaxis], network, x.numpy())
        assert_close(outputs, exact, tolerance)

    def test_a_part_that_cannot_be_mapped(self) -> None:
        module = ResNet18(4, 10)
        module.layer2[1].bn2 = nn.GroupNorm(2, 8)
        with pytest.raises(ArgumentError, match=r"^layer2\.1\.bn2: module: .*got GroupNorm"):
            Network.from_module(module, (3, 32, 32))

    def test_weights_of_another_width(self) -> None:
        network = Network.from_module(ResNet18(4, 10), (3, 8, 8))
        with pytest.raises(ArgumentError, match=r"module: expected .*try Network.from_module"):
            network.genome_of(ResNet18(5, 10))

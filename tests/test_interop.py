"""Networks as PyTorch modules and ONNX files: what maps, what is refused, the same outputs."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evokern import ops
from evokern.errors import ArgumentError, BackendError, DtypeError, EvokernError, ShapeError
from evokern.interop import export_onnx
from evokern.network import (
    ACTIVATIONS,
    Activation,
    AvgPool2d,
    Dense,
    Flatten,
    MaxPool2d,
    Network,
)
from evokern.problems.datasets import normalise
from evokern.testing import Bounded, assert_close, assert_same_bits, error_bound

F = np.float32
NETWORK = Network((MaxPool2d(2), Flatten(), Dense(3, "relu"), Dense(2)), (1, 4, 5))


@pytest.fixture
def nn() -> Any:
    return pytest.importorskip("torch").nn


@pytest.fixture
def onnx() -> Any:
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([*shape, seed]).standard_normal(shape, F)


@st.composite
def pools(draw: st.DrawFn, height: int, width: int) -> MaxPool2d | AvgPool2d:
    kernel = draw(st.integers(1, min(height, 4))), draw(st.integers(1, min(width, 4)))
    stride = draw(st.none() | st.integers(1, 3) | st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    if draw(st.booleans()):
        return MaxPool2d(kernel, stride, padding)
    return AvgPool2d(kernel, stride, padding, count_include_pad=draw(st.booleans()))


@st.composite
def networks(draw: st.DrawFn, early: tuple[str, ...] = ACTIVATIONS) -> Network:
    """Up to two pools, activations anywhere (``early`` ones before the first dense layer), up to
    three dense layers of odd widths."""
    names = st.sampled_from(ACTIVATIONS)
    slopes = st.sampled_from([0.01, 0.25, 0.0, -1.5])
    layers: list[Any] = []
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 7)))
    for _ in range(draw(st.integers(0, 2))):
        height, width = Network(tuple(layers), shape).output_shape[1:]
        layers.append(draw(pools(height, width)))
        if draw(st.booleans()):
            layers.append(Activation(draw(st.sampled_from(early)), draw(slopes)))
    if layers and draw(st.integers(0, 3)) == 0:
        return Network(tuple(layers), shape)
    inputs: tuple[int, ...] = shape if layers else (draw(st.integers(1, 17)),)
    layers.append(Flatten())
    for _ in range(draw(st.integers(0, 3))):
        layers.append(Dense(draw(st.integers(1, 17)), draw(names), draw(slopes)))
        if draw(st.booleans()):
            layers.append(draw(st.builds(Activation, names, slopes) | st.just(Flatten())))
    return Network(tuple(layers), inputs)


EVERY_ACTIVATION = Network(
    (*(Dense(9, name, 0.3) for name in ACTIVATIONS), *(Activation(name) for name in ACTIVATIONS)),
    (5,),
)


class TestFromModule:
    pytestmark = pytest.mark.torch

    def test_literal(self, nn: Any) -> None:
        module = nn.Sequential(
            OrderedDict(
                features=nn.Sequential(nn.MaxPool2d(2), nn.Tanh(), nn.AvgPool2d((2, 1), 1, (1, 0))),
                between=nn.Sequential(nn.Identity(), nn.Flatten()),
                head=nn.Sequential(
                    nn.Linear(18, 5),
                    nn.Dropout(0.9),
                    nn.LeakyReLU(0.25),
                    nn.SiLU(),
                    nn.Linear(5, 3),
                ),
            )
        )
        network = Network.from_module(module, [2, 4, 6])
        assert network == Network(
            (
                MaxPool2d(2),
                Activation("tanh"),
                AvgPool2d((2, 1), 1, (1, 0)),
                Flatten(),
                Dense(5, "leaky_relu", 0.25),
                Activation("silu"),
                Dense(3),
            ),
            (2, 4, 6),
        )

    def test_every_activation(self, nn: Any) -> None:
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

    def test_pools_are_written_short(self, nn: Any) -> None:
        pools = nn.Sequential(nn.MaxPool2d((3, 3), (3, 3), 1), nn.AvgPool2d(2, 1, 0, False, False))
        expected = (MaxPool2d(3, None, 1), AvgPool2d(2, 1, count_include_pad=False))
        assert Network.from_module(pools, (1, 9, 9)).layers == expected

    def test_one_layer_and_none(self, nn: Any) -> None:
        assert Network.from_module(nn.Linear(3, 2), (3,)) == Network((Dense(2),), (3,))
        assert Network.from_module(nn.Sequential(), (3,)) == Network((), (3,))

    def test_a_module_used_twice_counts_twice(self, nn: Any) -> None:
        relu, linear = nn.ReLU(), nn.Linear(3, 3)
        network = Network.from_module(nn.Sequential(linear, relu, linear, relu), (3,))
        assert network.layers == (Dense(3, "relu"), Dense(3, "relu"))

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda nn: nn.Conv2d(1, 8, 3), r"expected one of .*, got Conv2d; not supported yet"),
            (lambda nn: nn.BatchNorm2d(1), "expected one of Sequential, Linear, .*got BatchNorm2d"),
            (lambda nn: nn.PReLU(), "one of .*LeakyReLU, Tanh, Sigmoid, GELU, SiLU, got PReLU"),
            (lambda nn: nn.GELU("other"), "one of .*got GELU"),
            (lambda nn: type("Mine", (nn.Linear,), {})(4, 2), "got Mine"),
            (lambda nn: type("Mine", (nn.Sequential,), {"forward": abs})(), "got Mine"),
            (lambda nn: nn.Flatten(2), r"Flatten.start_dim: expected 1, got 2"),
            (lambda nn: nn.Flatten(1, 2), r"Flatten.end_dim: expected -1, got 2"),
            (lambda nn: nn.MaxPool2d(2, dilation=2), "MaxPool2d.dilation: expected 1, got 2"),
            (lambda nn: nn.MaxPool2d(2, ceil_mode=True), "MaxPool2d.ceil_mode: expected False"),
            (lambda nn: nn.MaxPool2d(2, return_indices=True), "return_indices: expected False"),
            (lambda nn: nn.AvgPool2d(2, ceil_mode=True), "AvgPool2d.ceil_mode: expected False"),
            (lambda nn: nn.AvgPool2d(2, divisor_override=3), "divisor_override: expected None"),
            (lambda nn: nn.AvgPool2d(9), "kernel: expected at most the padded input 4x5, got 9x9"),
            (lambda nn: nn.Linear(5, 2), r"layers\[1\] Dense.* a flat input .*add Flatten"),
        ],
    )
    def test_what_cannot_be_mapped(self, make: Any, text: str, nn: Any) -> None:
        module = nn.Sequential(OrderedDict(first=nn.ReLU(), features=nn.Sequential(make(nn))))
        with pytest.raises((ArgumentError, ShapeError), match=rf"^features\.0: .*{text}"):
            Network.from_module(module, (1, 4, 5))

    def test_linear_of_another_width(self, nn: Any) -> None:
        module = nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 2))
        with pytest.raises(ShapeError, match=r"^1: Linear.in_features: expected 3, got 4"):
            Network.from_module(module, (4,))

    def test_hooks_may_change_anything(self, nn: Any) -> None:
        module = nn.Sequential(nn.Linear(4, 3))
        module[0].register_forward_hook(lambda *_: None)
        with pytest.raises(
            ArgumentError, match=r"^0: .*without forward hooks, got hooks of Linear"
        ):
            Network.from_module(module, (4,))

    def test_what_is_no_sequential(self, nn: Any) -> None:
        with pytest.raises(ArgumentError, match=r"^module: .*one of Sequential.*, got Module"):
            Network.from_module(nn.Module(), (4,))
        with pytest.raises(DtypeError, match=r"module: expected a torch.nn.Module, got list"):
            Network.from_module([nn.Linear(4, 3)], (4,))


class TestGenomeOf:
    pytestmark = pytest.mark.torch

    def test_literal(self, nn: Any) -> None:
        import torch

        module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False))
        with torch.no_grad():
            module[0].weight[:] = torch.tensor([[1, 2], [3, 4], [5, 6]])
            module[0].bias[:] = torch.tensor([7, 8, 9])
            module[2].weight[:] = torch.tensor([[-1, -2, -3]])
        genome = Network.mlp(2, [3], 1).genome_of(module)
        assert_same_bits(genome, np.array([1, 3, 5, 2, 4, 6, 7, 8, 9, -1, -2, -3, 0], F))
        genome[:] = 0
        assert module[0].bias.tolist() == [7, 8, 9]

    def test_no_weights(self, nn: Any) -> None:
        assert Network((), (3,)).genome_of(nn.Sequential()).shape == (0,)

    def test_a_network_may_be_written_in_several_ways(self, nn: Any) -> None:
        network = Network(
            (MaxPool2d((2, 2), 2), Flatten(), Dense(3, negative_slope=7), Activation("relu")),
            (1, 4, 5),
        )
        module = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
        assert_same_bits(network.genome_of(module)[-3:], module[2].bias.detach().numpy())

    @pytest.mark.parametrize(
        ("make", "error", "text"),
        [
            (
                lambda nn: nn.Sequential(nn.Linear(3, 2), nn.Tanh()),
                ArgumentError,
                r"module: expected \(Dense.*relu.*\), got \(Dense.*tanh.*\); try Network.from_mod",
            ),
            (
                lambda nn: nn.Sequential(nn.Linear(3, 2), nn.ReLU()).double(),
                DtypeError,
                r"0\.weight: expected float32, got float64; try module\.float\(\)",
            ),
            (
                lambda nn: nn.Sequential(nn.Linear(3, 2), nn.ReLU()).to("meta"),
                BackendError,
                r"0\.weight: expected weights on the CPU, got weights on meta; try module\.cpu",
            ),
        ],
    )
    def test_errors(self, make: Any, error: type[EvokernError], text: str, nn: Any) -> None:
        with pytest.raises(error, match=text):
            Network((Dense(2, "relu"),), (3,)).genome_of(make(nn))


class TestToModule:
    pytestmark = pytest.mark.torch

    @given(networks(), st.sampled_from([1, 2, 7]))
    def test_outputs_are_those_of_the_ops(self, network: Network, batch: int) -> None:
        torch = pytest.importorskip("torch")
        check_module(torch, network, batch)

    def test_every_activation(self) -> None:
        check_module(pytest.importorskip("torch"), EVERY_ACTIVATION, 33)

    def test_evaluates_trains_and_shares_nothing(self, nn: Any) -> None:
        import torch

        genome = numbers(NETWORK.layout.size)
        before = genome.copy()
        state = torch.get_rng_state()
        module = NETWORK.to_module(genome)
        assert torch.equal(state, torch.get_rng_state())
        assert [type(part) for part in module] == [
            nn.MaxPool2d,
            nn.Flatten,
            nn.Linear,
            nn.ReLU,
            nn.Linear,
        ]
        assert not module.training
        module(torch.ones(3, 1, 4, 5)).sum().backward()
        torch.optim.SGD(module.parameters(), 0.1).step()
        assert_same_bits(genome, before)
        changed = NETWORK.genome_of(module) != before
        assert changed[-2:].all()

    def test_errors(self, nn: Any) -> None:
        genome = numbers(NETWORK.layout.size)
        with pytest.raises(DtypeError, match=r"genome: expected float32 \[G=23\], got float64"):
            NETWORK.to_module(genome.astype(float))
        for wrong in (genome[:-1], genome[np.newaxis], genome[0]):
            with pytest.raises(ShapeError, match=r"genome: expected float32 \[G=23\], got float32"):
                NETWORK.to_module(wrong)


def check_module(torch: Any, network: Network, batch: int) -> None:
    genome, x = numbers(network.layout.size), numbers(batch, *network.input_shape)
    module = network.to_module(genome)
    with torch.no_grad():
        outputs = module(torch.from_numpy(x)).numpy()
    expected = error_bound(network, genome[np.newaxis], x)
    assert_close(outputs, expected.value[0], expected.bound[0])
    forward = ops.network_forward(genome[np.newaxis], network, x)
    assert_close(forward, expected.value, expected.bound)
    assert_same_bits(network.genome_of(module), genome)
    again = Network.from_module(module, network.input_shape)
    assert_same_bits(ops.network_forward(genome[np.newaxis], again, x), forward)


# The errors of onnxruntime's tanh and sigmoid are small beside 1, not beside a small result; the
# bound has room for that only after a dense layer.
EARLY = tuple(name for name in ACTIVATIONS if name not in ("tanh", "sigmoid"))


class TestExportOnnx:
    @given(networks(EARLY), st.sampled_from([1, 2, 7]), st.sampled_from([None, 1, 2, 5]))
    def test_outputs_are_those_of_the_ops(
        self, tmp_path_factory: Any, network: Network, batch: int, n: int | None
    ) -> None:
        path = tmp_path_factory.mktemp("onnx") / "network.onnx"
        genomes = numbers(*(() if n is None else (n,)), network.layout.size)
        check_file(path, network, genomes, numbers(batch, *network.input_shape))

    @pytest.mark.parametrize("shape", [(), (3,)])
    def test_every_activation(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        genomes = numbers(*shape, EVERY_ACTIVATION.layout.size)
        check_file(tmp_path / "network.onnx", EVERY_ACTIVATION, genomes, numbers(33, 5))

    @pytest.mark.parametrize("axes", [2, 3])
    def test_raw_pixels(self, tmp_path: Path, onnx: Any, axes: int) -> None:
        pixels = np.random.default_rng(3).integers(0, 256, (6, 4, 5), np.uint8)
        mean = numbers(4, 5) * F(10) + F(99)
        genomes = numbers(3, NETWORK.layout.size)
        path = tmp_path / "network.onnx"
        export_onnx(path, NETWORK, genomes, mean=mean if axes == 2 else mean[np.newaxis])
        expected = averaged(error_bound(NETWORK, genomes, normalise(pixels, mean)))
        outputs = run_file(path, pixels[:, np.newaxis].astype(F))
        assert_close(outputs, expected.value, expected.bound)

    def test_the_file(self, tmp_path: Path, onnx: Any) -> None:
        path = tmp_path / "network.onnx"
        path.write_text("old")
        export_onnx(str(path), NETWORK, numbers(2, NETWORK.layout.size))
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        operators = " ".join(node.op_type for node in model.graph.node)
        assert operators == "MaxPool Flatten MatMul Add Relu MatMul Add ReduceMean Identity"
        assert (model.ir_version, [opset.version for opset in model.opset_import]) == (9, [20])
        (x,), (logits,) = model.graph.input, model.graph.output
        dimensions = [
            [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (x, logits)
        ]
        assert (x.name, logits.name) == ("x", "logits")
        assert dimensions == [["batch", 1, 4, 5], ["batch", 2]]
        assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]

    @pytest.mark.parametrize(
        ("change", "error", "text"),
        [
            ({"genomes": np.zeros((2, 23))}, DtypeError, r"genomes: .*G=23\] or \[n, G\].*float64"),
            ({"genomes": np.zeros((2, 22), F)}, ShapeError, r"genomes: .*got float32 \[2, 22\]"),
            ({"genomes": np.zeros((0, 23), F)}, ShapeError, r"with n >= 1, got float32 \[0, 23\]"),
            ({"genomes": np.zeros((1, 1, 23), F)}, ShapeError, r"got float32 \[1, 1, 23\]"),
            (
                {"mean": np.zeros((4, 5))},
                DtypeError,
                r"mean: .*\[1, 4, 5\] or \[4, 5\], got float64",
            ),
            ({"mean": np.zeros((5, 4), F)}, ShapeError, r"mean: .*got float32 \[5, 4\]"),
            ({"mean": np.zeros(5, F)}, ShapeError, r"mean: .*got float32 \[5\]"),
            (
                {"genomes": np.broadcast_to(F(0), (2**25, 23))},
                ArgumentError,
                "genomes: expected at most 2146435072 bytes.*; export fewer networks",
            ),
        ],
    )
    def test_errors(
        self,
        tmp_path: Path,
        onnx: Any,
        change: dict[str, Any],
        error: type[EvokernError],
        text: str,
    ) -> None:
        path = tmp_path / "network.onnx"
        with pytest.raises(error, match=text):
            export_onnx(path, NETWORK, **{"genomes": np.zeros((2, 23), F), **change})
        assert not path.exists()


def averaged(outputs: Bounded) -> Bounded:
    """The mean over the networks of an ensemble; one rounding per addition and for the division."""
    n = len(outputs.value)
    rounding = 0.0 if n == 1 else (n + 1) * 2.0**-24
    sizes = np.abs(outputs.value) + outputs.bound
    return Bounded(
        outputs.value.mean(axis=0), outputs.bound.mean(axis=0) + rounding * sizes.mean(axis=0)
    )


def run_file(path: Path, x: np.ndarray) -> np.ndarray:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"x": x})
    return np.asarray(logits)


def check_file(path: Path, network: Network, genomes: np.ndarray, x: np.ndarray) -> None:
    pytest.importorskip("onnx")
    export_onnx(path, network, genomes)
    expected = averaged(error_bound(network, np.atleast_2d(genomes), x))
    assert_close(run_file(path, x), expected.value, expected.bound)


@pytest.mark.parametrize(
    ("library", "call"),
    [
        ("torch", lambda path: Network.from_module(None, (3,))),
        ("torch", lambda path: NETWORK.to_module(np.zeros(23, F))),
        ("onnx", lambda path: export_onnx(path, NETWORK, np.zeros(23, F))),
    ],
)
def test_a_missing_library(
    library: str, call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"{library} is not installed.*evokern\[{library}\]"):
        call(tmp_path / "network.onnx")

"""Networks as PyTorch modules and ONNX files: what maps, what is refused, the same outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import LAYERED

from evokern import ops
from evokern.errors import ArgumentError, BackendError, DtypeError, EvokernError, ShapeError
from evokern.interop import export_onnx
from evokern.network import (
    ACTIVATIONS,
    Activation,
    Affine,
    AvgPool2d,
    Conv2d,
    Dense,
    Flatten,
    GlobalAvgPool,
    MaxPool2d,
    Network,
    Residual,
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
def dense_networks(draw: st.DrawFn, early: tuple[str, ...] = ACTIVATIONS) -> Network:
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


class TestGenomeOf:
    pytestmark = pytest.mark.torch

    def test_literal(self, nn: Any) -> None:
        import torch

        module = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False))
        with torch.no_grad():
            module[0].weight[:] = torch.tensor([[1, 2], [3, 4], [5, 6]])
            module[0].bias[:] = torch.tensor([7, 8, 9])
            module[2].weight[:] = torch.tensor([[-1, -2, -3]])
        genome = Network((Dense(3, "relu"), Dense(1, bias=False)), (2,)).genome_of(module)
        assert_same_bits(genome, np.array([1, 3, 5, 2, 4, 6, 7, 8, 9, -1, -2, -3], F))
        genome[:] = 0
        assert module[0].bias.tolist() == [7, 8, 9]

    def test_literal_convolution(self, nn: Any) -> None:
        """Rows are input channels, in them kernel rows, in them kernel columns."""
        import torch

        conv = nn.Conv2d(2, 3, (1, 2))
        with torch.no_grad():
            conv.weight[:] = torch.arange(12.0).reshape(3, 2, 1, 2)  # [O, C, K, K]
            conv.bias[:] = torch.tensor([-1, -2, -3])
        genome = Network((Conv2d(3, (1, 2)),), (2, 4, 5)).genome_of(conv)
        expected = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, -1, -2, -3]
        assert_same_bits(genome, np.array(expected, F))

    def test_literal_batch_norm(self, nn: Any) -> None:
        import torch

        norm = nn.BatchNorm2d(2, eps=0.25)
        with torch.no_grad():
            norm.weight[:], norm.bias[:] = torch.tensor([3, -8]), torch.tensor([1, 0.5])
            norm.running_mean[:], norm.running_var[:] = (
                torch.tensor([2, 1]),
                torch.tensor([2, 15.75]),
            )
        network = Network((Affine(),), (2, 3, 3))
        assert_same_bits(network.genome_of(norm), np.array([2, -2, -3, 2.5], F))
        plain = nn.BatchNorm1d(2, eps=0.25, affine=False)
        plain.running_mean[:], plain.running_var[:] = torch.tensor([2, 1]), torch.tensor([3.75, 0])
        genome = Network((Affine(),), (2,)).genome_of(plain)
        assert_same_bits(genome, np.array([0.5, 2, -1, -2], F))

    def test_batch_norm_is_rounded_once(self, nn: Any) -> None:
        import torch

        norm = nn.BatchNorm1d(999)
        weight, bias, mean, variance = np.abs(numbers(4, 999))
        for tensor, values in zip(
            (norm.weight, norm.bias, norm.running_mean, norm.running_var),
            (weight, bias, mean, variance),
            strict=True,
        ):
            tensor.data[:] = torch.from_numpy(values)
        scale = weight / np.sqrt(variance.astype(np.float64) + 1e-5)
        expected = np.concatenate([scale, bias - mean * scale]).astype(F)
        assert_same_bits(Network((Affine(),), (999,)).genome_of(norm), expected)

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

    @given(dense_networks(), st.sampled_from([1, 2, 7]))
    def test_dense_networks(self, network: Network, batch: int) -> None:
        check_module(pytest.importorskip("torch"), network, batch)

    @pytest.mark.parametrize("name", LAYERED)
    @pytest.mark.parametrize("batch", [1, 3])
    def test_outputs_are_those_of_the_ops(self, name: str, batch: int) -> None:
        check_module(pytest.importorskip("torch"), LAYERED[name], batch)

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
    assert Network.from_module(again.to_module(genome), network.input_shape) == again
    assert_same_bits(again.genome_of(module), genome)


# The errors of onnxruntime's tanh and sigmoid are small beside 1, not beside a small result; the
# bound has room for that only after a dense layer.
EARLY = tuple(name for name in ACTIVATIONS if name not in ("tanh", "sigmoid"))


class TestExportOnnx:
    @given(dense_networks(EARLY), st.sampled_from([1, 2, 7]), st.sampled_from([None, 1, 2, 5]))
    def test_dense_networks(
        self, tmp_path_factory: Any, network: Network, batch: int, n: int | None
    ) -> None:
        path = tmp_path_factory.mktemp("onnx") / "network.onnx"
        genomes = numbers(*(() if n is None else (n,)), network.layout.size)
        check_file(path, network, genomes, numbers(batch, *network.input_shape))

    @pytest.mark.parametrize("name", LAYERED)
    @pytest.mark.parametrize("n", [None, 1, 3])
    def test_outputs_are_those_of_the_ops(self, tmp_path: Path, name: str, n: int | None) -> None:
        network = LAYERED[name]
        genomes = numbers(*(() if n is None else (n,)), network.layout.size)
        check_file(tmp_path / "network.onnx", network, genomes, numbers(2, *network.input_shape))

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

    def test_the_networks_of_an_ensemble_are_one_chain(self, tmp_path: Path, onnx: Any) -> None:
        network = Network(
            (
                Conv2d(2, 3, padding=1, activation="relu"),
                Residual((Conv2d(2, 1, bias=False), Affine())),
                GlobalAvgPool(),
                Dense(3),
            ),
            (1, 4, 5),
        )
        path = tmp_path / "network.onnx"
        export_onnx(path, network, numbers(7, network.layout.size))
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        operators = " ".join(node.op_type for node in model.graph.node)
        assert operators == (
            "Conv Relu Conv Mul Add Add Relu GlobalAveragePool Reshape Transpose"
            " MatMul Add ReduceMean Identity"
        )

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

"""Any array on the host goes in, the caller's kind comes out, nothing is copied."""

from __future__ import annotations

from typing import Any

import cases_network
import cases_variation
import numpy as np
import pytest
from cases import Case, numbers

from evokern import _arrays, ops
from evokern.errors import ArgumentError, BackendError, DtypeError
from evokern.layout import DenseGenes, GenomeLayout
from evokern.network import Network
from evokern.testing import assert_same_bits

CASES = cases_variation.CASES | cases_network.CASES
FEW = [case for op, cases in CASES.items() if op != "init_genomes" for case in cases[6::40]]
NETWORK = Network.mlp(2, [], 3)


class Exported:
    """An array of a library that evokern does not know: DLPack is all it has."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class OnDevice(Exported):
    """An array that lies on a GPU, as CuPy's do."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.mark.torch
@pytest.mark.parametrize("case", FEW, ids=str)
def test_tensors_give_tensors(case: Case, torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = case.run("cpu")
    arguments, options = case.make()

    def tensor(value: Any) -> Any:
        # Tensors have no negative strides.
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    made = []

    def remember(*arguments: Any) -> np.ndarray:
        made.append(empty(*arguments))
        return made[-1]

    empty = _arrays.empty
    monkeypatch.setattr(_arrays, "empty", remember)
    call = (
        tuple(tensor(value) for value in arguments),
        {name: tensor(value) for name, value in options.items()},
    )
    results = case.run("cpu", call)
    for result, reference in zip(results, expected, strict=True):
        assert isinstance(result, torch.Tensor)
        assert_same_bits(result.numpy(), reference)
    if "out" in call[1]:
        assert results[0] is call[1]["out"]
    else:
        places = [array.ctypes.data for array in made]
        assert [tensor.data_ptr() for tensor in results if tensor.numel()] == [
            place for place, array in zip(places, made, strict=True) if array.size
        ]


@pytest.mark.torch
def test_tensors_are_written_in_place(torch: Any) -> None:
    layout = GenomeLayout((DenseGenes(2, 3),))
    out = torch.full((5, 12), 7.0)
    assert ops.init_genomes(layout, 5, seed=1, out=out[:, :9]).data_ptr() == out.data_ptr()
    assert_same_bits(out[:, :9].numpy(), ops.init_genomes(layout, 5, seed=1))
    assert (out[:, 9:] == 7).all()


@pytest.mark.torch
def test_tensors_that_an_op_cannot_take(torch: Any) -> None:
    genomes, x = torch.zeros(4, 9, requires_grad=True), torch.zeros(5, 2)
    words = r"genomes: expected a tensor without grad, got requires_grad=True; try genomes.detach"
    with pytest.raises(ArgumentError, match=words):
        ops.network_forward(genomes, NETWORK, x)
    out = torch.zeros(4, 5, 3, requires_grad=True)
    with pytest.raises(ArgumentError, match="out: expected a tensor without grad"):
        ops.network_forward(genomes.detach(), NETWORK, x, out=out)
    with pytest.raises(DtypeError, match=r"x: .*torch\.bfloat16"):
        ops.network_forward(genomes.detach(), NETWORK, x.bfloat16())
    with pytest.raises(DtypeError, match=r"x: expected float32 .*got float64 \[5, 2\]"):
        ops.network_forward(genomes.detach(), NETWORK, x.double())
    with pytest.raises(BackendError, match="x: expected an array on the host, got an array on a"):
        ops.network_forward(genomes.detach(), NETWORK, x.to("meta"))


def test_dlpack_is_enough() -> None:
    genomes, x = numbers(4, 9), numbers(5, 2)
    outputs = ops.network_forward(Exported(genomes), NETWORK, Exported(x))
    assert_same_bits(outputs, ops.network_forward(genomes, NETWORK, x))


def test_arrays_on_a_device_of_no_known_library_are_refused() -> None:
    words = "genomes: expected an array of torch, cupy on the device, got test_arrays"
    with pytest.raises(BackendError, match=words):
        ops.network_forward(OnDevice(numbers(4, 9)), NETWORK, numbers(5, 2))

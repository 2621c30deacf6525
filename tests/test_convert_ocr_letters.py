"""The tool that converts the pickled copy of the OCR letters: what it refuses, what it writes."""

from __future__ import annotations

import importlib.util
import os
import pickle
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from evokern.problems.formats import parse_ocr_letters

TOOL = Path(__file__).parent / "tools" / "convert_ocr_letters.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert_ocr_letters", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Command:
    """Unpickling it runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def pickled(letters: object) -> bytes:
    """With the names of NumPy 1; protocol 3 is the oldest without a detour for bytes."""
    return pickle.dumps(letters, protocol=3).replace(b"numpy._core", b"numpy.core")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_os_system_is_refused(protocol: int, tool: ModuleType, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps({"data": Command(f"touch {trace}")}, protocol)
    with pytest.raises(pickle.UnpicklingError, match=r"system is not allowed"):
        tool.read_letters(content)
    assert not trace.exists()
    # The pickle does what it is feared to do.
    pickle.loads(content)
    assert trace.exists()


@pytest.mark.parametrize("name", [b"builtins\neval", b"__builtin__\neval", b"numpy\nload"])
def test_other_names_are_refused(name: bytes, tool: ModuleType) -> None:
    with pytest.raises(pickle.UnpicklingError, match="is not allowed"):
        tool.read_letters(b"c" + name + b"\n(tR.")


def test_other_content(tool: ModuleType) -> None:
    with pytest.raises(pickle.UnpicklingError, match="no dictionary with data"):
        tool.read_letters(pickled({"data": [], "labels": []}))


def test_converts_words(tool: ModuleType, tmp_path: Path) -> None:
    first = np.zeros((2, 128), np.uint8)
    first[0, 0] = first[1, 127] = 1
    letters = {
        "data": [first, np.ones((1, 128), np.uint8)],
        "labels": [np.array([14, 0]), np.array([25])],
        "folds": np.array([0, 9]),
    }
    output = tmp_path / "new" / "letter.data.gz"
    tool.convert(pickled(letters), output)

    rows = [line.split("\t") for line in tool.lines(letters)]
    assert [row[:7] for row in rows] == [
        ["1", "o", "2", "1", "1", "0", "1"],
        ["2", "a", "-1", "1", "2", "0", "0"],
        ["3", "z", "-1", "2", "1", "9", "1"],
    ]
    assert {len(row) for row in rows} == {135}

    images, labels, folds = parse_ocr_letters(output)
    np.testing.assert_array_equal(images[:2], first.reshape(2, 16, 8) * 255)
    assert (images[2] == 255).all()
    assert (labels.tolist(), folds.tolist()) == ([14, 0, 25], [0, 0, 9])

    before = output.read_bytes()
    tool.convert(pickled(letters), output)
    assert output.read_bytes() == before


def test_another_pickle(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letters.pickle").write_bytes(pickled({}))
    arguments = ["--pickle", str(tmp_path / "letters.pickle"), str(tmp_path / "out.gz")]
    assert tool.main(arguments) == 1
    assert capsys.readouterr().err.startswith(f"expected SHA-256 {tool.PICKLE.sha256}, got ")
    assert not (tmp_path / "out.gz").exists()

"""What holds for the package as a whole: layers, light imports, kernels free of std."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "evokern"
CSRC = ROOT / "csrc"

# Imports point to the same line or to one above. What is not named here (the command, testing,
# helpers, evokern/__init__.py) stands below all others.
LAYERS = [
    "_version errors _values memory layout layers network lineage _replay_program rules files"
    " interop torch_modules _torch_layers _from_module _onnx_graph",
    "_cpu _cuda backends",
    "_table",
    "_devices _arrays _default _dispatch _checks",
    "ops extension",
    "population slices selection schedules nes ensemble checkpoint metrics archive comparison"
    " plots progress tensorboard",
    "problems",
    "drivers",
]


def layer(module: str) -> int:
    """The layer of ``evokern.<name>...``; the package itself and unnamed modules come last."""
    name = [*module.split("."), ""][1]
    return next((i for i, names in enumerate(LAYERS) if name in names.split()), len(LAYERS))


def imports(source: str, package: str) -> Iterator[str]:
    """The evokern modules that a module of `package` imports, wherever in the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            # `from evokern import ops` imports evokern.ops.
            names = [f"{base}.{alias.name}" for alias in node.names]
            names = names if base == "evokern" else [base]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "evokern")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import numpy, evokern.ops", ["evokern.ops"]),
        ("from evokern import ops, nes", ["evokern.ops", "evokern.nes"]),
        ("def f():\n    from evokern.drivers.ea import EA", ["evokern.drivers.ea"]),
        ("from .. import ops", ["evokern.ops"]),
        ("from ..drivers import ea", ["evokern.drivers"]),
        ("from .random import normal", ["evokern.backends.random"]),
    ],
)
def test_imports_are_found(source: str, expected: list[str]) -> None:
    assert list(imports(source, "evokern.backends")) == expected


def test_layers_are_ordered() -> None:
    names = ["layout", "backends.reference.dense", "_table", "ops", "nes", "drivers.ea", "__main__"]
    assert [layer(f"evokern.{name}") for name in names] == [0, 1, 2, 4, 5, 7, 8]
    assert layer("evokern") == 8


def test_imports_point_one_way() -> None:
    wrong = []
    for path in modules():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        package = module.rpartition(".")[0]
        wrong += [
            f"{module} imports {name}"
            for name in imports(path.read_text(), package)
            if layer(name) > layer(module)
        ]
    assert modules()
    assert wrong == []


def test_every_folder_of_modules_is_a_package() -> None:
    """Without __init__.py a folder is left out of the wheel."""
    folders = {path.parent for path in modules()}
    assert [f"{f.name}/" for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_import_is_light(tmp_path: Path) -> None:
    code = "import sys, evokern, evokern.errors; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert "evokern.errors" in loaded
    assert loaded & {"torch", "triton", "cupy", "matplotlib", "scipy", "sklearn", "jax"} == set()


def test_kernels_include_nothing_of_std() -> None:
    """An inline std function compiled for AVX-512 could be the one copy that the linker keeps.

    The program would then crash on older processors (illegal instruction).
    """
    allowed = {"immintrin.h", "omp.h", "stddef.h", "stdint.h", "string.h", "simde/x86/avx512.h"}
    waiting = [path for path in (CSRC / "cpu").glob("*.cpp") if "bindings" not in path.name]
    waiting += (CSRC / "core").glob("*.h")
    seen: set[Path] = set()
    wrong = []
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for kind, name in re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)', path.read_text(), re.M):
            if kind == "<" and name not in allowed:
                wrong.append(f"{path.name} includes <{name}>")
            elif kind == '"':
                local = path.parent / name
                waiting.append((local if local.exists() else CSRC / name).resolve())
    assert CSRC / "core" / "element.h" in seen
    assert wrong == []

"""The examples run, and do what they say."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_numpy_loop_learns_the_spirals(capsys):
    example = runpy.run_path(str(EXAMPLES / "numpy_loop.py"))
    accuracy = example["main"](generations=100)
    assert accuracy > 0.75
    assert "generation 100" in capsys.readouterr().out

"""The examples run, and do what they say."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from real_data import require_data

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_numpy_loop_learns_the_spirals(capsys):
    example = runpy.run_path(str(EXAMPLES / "numpy_loop.py"))
    accuracy = example["main"](generations=100)
    assert accuracy > 0.75
    assert "generation 100" in capsys.readouterr().out


def run(name, arguments, monkeypatch, capsys, data="mnist"):
    require_data(data)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.data
def test_a_rare_class_by_f1(monkeypatch, capsys):
    output = run("imbalanced_f1.py", ["--generations", "4", "--seeds", "1"], monkeypatch, capsys)
    assert "2.1% of 55,319 digits are an 8" in output
    assert len(re.findall(r"test F1 [01]\.\d{3} \(recall", output)) == 3


@pytest.mark.data
def test_a_network_of_signs(tmp_path, monkeypatch, capsys):
    arguments = ["--generations", "2", "--folder", str(tmp_path / "run")]
    output = run("binary_mnist.py", arguments, monkeypatch, capsys)
    assert "91,776 weights of one bit and 458 biases: 13.0 KiB instead of 360 KiB" in output


@pytest.mark.data
def test_convolutional_networks_on_fashion_mnist(tmp_path, monkeypatch, capsys):
    arguments = ["--generations", "2", "--folder", str(tmp_path / "run")]
    output = run("fashion_convnet.py", arguments, monkeypatch, capsys, data="fashion-mnist")
    assert re.search(r"test accuracy \d+\.\d\d%, hold-out \d+\.\d\d%, \d+ s", output)

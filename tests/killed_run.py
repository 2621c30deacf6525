"""Runs of the tiny problem in children that are killed on request. test_kill.py talks to it.

A line of stdin is a request in JSON, a line of stdout the answer. Children are forked from this
process, which has imported everything, so that one costs milliseconds.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, BinaryIO

import tiny

from evokern import files
from evokern.drivers.es import ESConfig
from evokern.drivers.train import train
from evokern.drivers.train_es import train_es

REQUEST = {"folder": "", "mode": "", "n": 0, "seconds": None, "config": {}, "options": {}}
# "strategy" in a request: the settings of a run of the evolution strategy instead.
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir")
real_write = files.write


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_around_write(mode: str, n: int) -> None:
    """Kills this process before, in the middle of, or after its n-th write."""
    calls = 0

    def write(file: BinaryIO, content: files.Content) -> None:
        nonlocal calls
        calls += 1
        if calls < n:
            return real_write(file, content)
        if mode == "half":
            real_write(file, content[: len(content) // 2])
        elif mode == "after":
            real_write(file, content)
        file.flush()
        die()

    files.write = write


def kill_before_call(folder: Path, n: int) -> None:
    """Kills this process before it opens, renames, deletes or creates the n-th file in its folder.

    Opening is for writing or reading; safetensors' own reads do not count.
    """
    calls = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal calls
        if event in FILE_EVENTS and str(arguments[0]).startswith(str(folder)):
            calls += 1
            if calls == n:
                die()

    sys.addaudithook(hook)


def run(request: dict[str, Any]) -> None:
    folder = Path(request["folder"])
    if request["mode"] == "call":
        kill_before_call(folder, request["n"])
    elif request["mode"]:
        kill_around_write(request["mode"], request["n"])
    if "strategy" in request:
        config = ESConfig(**request["strategy"])
        train_es(tiny.problem_by_importance(), config, folder, tiny.WATCH)
        return
    config = tiny.config(**request["config"])
    train(tiny.problem(), config, folder, tiny.options(**request["options"]))


def child(request: dict[str, Any]) -> int:
    """The child's process id."""
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        run(request)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The child's exit code, minus the signal that killed it, and the time it took."""
    started = time.monotonic()
    pid = child(request)
    if request["seconds"] is not None:
        time.sleep(request["seconds"])
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"code": code, "seconds": time.monotonic() - started}


def main() -> None:
    with tiny.quickly():
        with tiny.memory() as folder, redirect_stdout(io.StringIO()):
            run({**REQUEST, "folder": folder, "config": {"lineages": True}})  # imports the rest
        for line in sys.stdin:
            print(json.dumps(answer({**REQUEST, **json.loads(line)})), flush=True)


if __name__ == "__main__":
    main()

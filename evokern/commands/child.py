"""``python -m evokern.commands.child WORD...``: a command that stops when its parent is gone.

Its stdin is a pipe that the parent holds open and never writes to. When the parent ends, even by
SIGKILL, the pipe does, too, and the command gets SIGINT: a run then saves and stops.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from threading import Thread

from evokern.__main__ import main as run_command


def main(arguments: Sequence[str]) -> int:
    """Runs the command."""
    Thread(target=_interrupt_at_end_of_stdin, daemon=True).start()
    return run_command(arguments)


def _interrupt_at_end_of_stdin() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

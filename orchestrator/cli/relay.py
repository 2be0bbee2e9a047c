"""The far end of `orchestrator remote`: runs one command on the head, and marks what it prints line by line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from orchestrator.cli.main import main as run_command
from orchestrator.core.errors import OrchestratorError, UsageError
from orchestrator.launch.ray_connection import dashboard_here
from orchestrator.launch.remote import TO_STDERR, TO_STDOUT
from orchestrator.launch.store import STORAGE_VARIABLE


class Marked(io.TextIOBase):
    """Writes lines, each behind a mark.

    Args:
        stream: where to.
        mark: before each line.
    """

    def __init__(self, stream: TextIO, mark: str) -> None:
        self._stream, self._mark, self._rest = stream, mark, ""

    def write(self, text: str) -> int:
        """Complete lines go on at once; the rest waits for its end."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._stream.write(f"{self._mark}{line}\n")
        self._stream.flush()
        return len(text)

    def flush(self) -> None:
        """Nothing waits but a line's beginning."""

    def finish(self) -> None:
        """Write what has no end."""
        if self._rest:
            self.write("\n")


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns its exit code.

    Args:
        arguments: `named` or `unnamed`, whether the command names a storage itself; then the command's own.
    """
    out, err = Marked(sys.stdout, TO_STDOUT), Marked(sys.stderr, TO_STDERR)
    sys.stdout, sys.stderr = out, err
    storage, *command = arguments
    try:
        if storage == "unnamed" and not os.environ.get(STORAGE_VARIABLE):
            raise UsageError(
                f"storage: which folder of the cluster? Give --storage, or set {STORAGE_VARIABLE} on its nodes."
            )
        os.environ["RAY_API_SERVER_ADDRESS"] = dashboard_here()
        return run_command(command)
    except OrchestratorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        out.finish()
        err.finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

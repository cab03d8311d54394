"""How the process says why it ends: an exit status, and a line for Kubernetes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

EXIT_FAILED: Final = 2
EXIT_USAGE: Final = 64  # EX_USAGE of sysexits.h


def write_termination_message(reason: str, message: str, **figures: int) -> None:
    """Write one JSON line to the file that Kubernetes shows as the container's termination message, if it is there.

    The operator reads it, puts reason and message into the ModelServer's conditions, and counts the figures.
    """
    _write(json.dumps({"reason": reason, "message": message, **figures}) + "\n")


def forget_termination_message() -> None:
    """Take back what was written."""
    _write("")


def _write(text: str) -> None:
    path = Path(os.environ.get("OCTAVO_TERMINATION_LOG", "/dev/termination-log"))
    if path.exists() and os.access(path, os.W_OK):
        path.write_text(text, encoding="utf-8")

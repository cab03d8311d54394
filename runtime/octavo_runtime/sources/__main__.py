"""The fetching process: `python -m octavo_runtime.sources MODEL CACHE PARENT_PID`. One JSON object per line on stdout.

    {"done": bytes, "total": bytes}    now and then
    {"path": …, "revision": …}         the end, or
    {"reason": …, "message": …}        the end, with errors.StartError's words

A process of its own, so that the API process keeps neither the libraries nor their threads, and can end while bytes
are under way.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from octavo_runtime.child_process import die_with_parent, ignore_terminal_and_pod_signals
from octavo_runtime.errors import StartError
from octavo_runtime.logs import configure_logging
from octavo_runtime.sources.fetch import fetch_model
from octavo_runtime.sources.reference import parse_model


def main() -> int:
    text, cache, parent_pid = sys.argv[1:]
    die_with_parent(int(parent_pid))
    ignore_terminal_and_pod_signals()
    configure_logging()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the hub's library reads it when it is imported
    try:
        model = parse_model(text)
        assert not isinstance(model, Path), "a local model needs no fetching"
        fetched = fetch_model(model, Path(cache), lambda done, total: _say(done=done, total=total))
    except StartError as error:
        _say(reason=error.reason, message=str(error))
        return 1
    _say(path=str(fetched.path), revision=fetched.revision)
    return 0


def _say(**fields: Any) -> None:  # noqa: ANN401  JSON
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

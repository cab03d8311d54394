"""One line per event: time, level, words, then key=value pairs; `extra={"kv": {...}}` carries the pairs."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@,%")


class LineFormatter(logging.Formatter):
    """logfmt after the message; tracebacks stay inside the line, so that a log line is always one record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        pairs: dict[str, Any] = getattr(record, "kv", {})
        if record.exc_info:
            pairs = {**pairs, "traceback": self.formatException(record.exc_info)}
        words = " ".join(record.getMessage().split())
        tail = "".join(f" {key}={_quoted(value)}" for key, value in pairs.items())
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return f"{when.removesuffix('+00:00')}Z {record.levelname:<7} {words}{tail}"


def configure_logging(level: str) -> None:
    """Sends everything to stderr; kopf speaks up only when something is wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("kopf", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def kv(**pairs: object) -> dict[str, dict[str, object]]:
    """`extra` for a log call."""
    return {"kv": pairs}


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and set(text) <= _PLAIN else json.dumps(text, ensure_ascii=False)

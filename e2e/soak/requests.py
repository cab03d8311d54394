"""Requests as bytes, for clients that do what HTTP libraries do not."""

from __future__ import annotations

import json
from typing import Any


def post(**fields: Any) -> bytes:
    """POST /v1/completions with these fields."""
    content = json.dumps(fields).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

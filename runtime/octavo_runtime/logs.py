"""Log lines of both processes: time, level, who, what. Prompts and answers are never logged."""

from __future__ import annotations

import logging


def configure_logging() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)

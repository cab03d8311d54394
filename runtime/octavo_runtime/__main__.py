"""`python -m octavo_runtime` is `octavo`."""

from __future__ import annotations

import sys

from octavo_runtime.cli import entry

if __name__ == "__main__":
    sys.exit(entry())

"""What must be set before any test imports torch."""

from __future__ import annotations

import os

# As the runtime does (octavo_runtime/runner/build.py): threads that spin for each other starve on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

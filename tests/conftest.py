"""What must be set before any test imports torch, and what holds for all examples of hypothesis."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# As the runtime does (octavo_runtime/runner/build.py): threads that spin for each other starve on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# How long an example takes says nothing about what it checks, and four lanes of tests share the machine.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

"""Kubernetes' way to write a moment, and back."""

from datetime import UTC, datetime


def to_timestamp(now: float) -> str:
    """Seconds since the epoch -> RFC 3339 in UTC, to the second."""
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_timestamp(text: str) -> float:
    """RFC 3339 -> seconds since the epoch. ValueError for anything else."""
    return datetime.fromisoformat(text).timestamp()

"""How many replicas an amount of money pays for."""

from octavo_operator.core.units import parse_quantity


def affordable(most_per_hour: str, price_per_hour: str) -> int:
    """Replicas at `price_per_hour` each for `most_per_hour`, both in one currency; exact, as 0.3 / 0.1 must be 3."""
    return int(parse_quantity(most_per_hour) // parse_quantity(price_per_hour))

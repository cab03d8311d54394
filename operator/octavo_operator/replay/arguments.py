"""The arguments of `octavo-operator replay`; apart, because the runtime is imported only when it runs."""

import argparse
import contextlib
import math
from datetime import datetime

from octavo_operator.replay.trace import SHAPES
from octavo_operator.replay.variants import trial


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds them to a parser."""
    parser.add_argument(
        "--policy",
        action="append",
        required=True,
        metavar="FILE",
        help="YAML of a ModelServer with spec.autoscaling; several are compared, and the first says what a replica is",
    )
    parser.add_argument(
        "--try",
        dest="trials",
        action="append",
        type=trial,
        default=[],
        metavar="FIELD=VALUE,VALUE",
        help="instead of the policy itself play it with each of these values, such as "
        "autoscaling.targets.kvUtilizationPercent=60,70,80; several fields give all combinations",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--trace", metavar="FILE", help="CSV with the columns time,prompt_tokens,output_tokens")
    source.add_argument(
        "--prometheus",
        metavar="URL",
        help="arrivals as a Prometheus counted them, of the ModelServer --namespace/--name between --from and --to",
    )
    source.add_argument("--generate", choices=sorted(SHAPES), help="a made-up trace of this shape")
    parser.add_argument("--from", dest="start", type=_moment, metavar="TIME", help="such as 2026-11-25T08:00:00Z")
    parser.add_argument("--to", dest="end", type=_moment, metavar="TIME", help="the same; or seconds since 1970")
    parser.add_argument("--namespace", default="default", help="of the ModelServer that was counted (default: default)")
    parser.add_argument("--name", help="of the ModelServer that was counted")
    parser.add_argument(
        "--authorization", metavar="FILE", help="file with a token for Prometheus, or with an Authorization header"
    )
    parser.add_argument("--duration", type=_positive, default=1800, help="its seconds (default: 1800)")
    parser.add_argument("--peak", type=_positive, default=6, help="its requests per second at the highest (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same trace (default: 0)")
    parser.add_argument("--startup", type=_positive, default=60, help="seconds until a replica serves (default: 60)")
    parser.add_argument("--kv-tokens", type=_tokens, default=16_384, help="KV tokens of a replica (default: 16384)")
    parser.add_argument("--step-profile", metavar="FILE", help="JSON of the time of a step, from sim_profile.py")
    parser.add_argument(
        "--slo", type=_positive, default=2, help="seconds to the first token, without slo.ttftP95 (default: 2)"
    )
    parser.add_argument(
        "--cost",
        type=_positive,
        metavar="PRICE",
        help="price of a replica for an hour (default: budget.replicaCostPerHour of the first policy, if it has one)",
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="HTML page to write: load, replicas and late requests over time, in one file"
    )
    parser.add_argument("--rivals", action="store_true", help="also play HPA on queue, KEDA on KV percent, and Knative")


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text}: must be a number above 0")


def _moment(text: str) -> float:
    """Seconds since 1970."""
    with contextlib.suppress(ValueError):
        return float(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: must be a time such as 2026-11-25T08:00:00Z") from None
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text}: must end in Z or in an offset such as +01:00")
    return moment.timestamp()


def _tokens(text: str) -> int:
    with contextlib.suppress(ValueError):
        if (value := int(text)) >= 1024:
            return value
    raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 1024")

"""How much sooner the first token comes when a prompt's beginning is in the prefix cache, over HTTP.

    octavo serve MODEL --port 8000
    python runtime/bench/shared_prefix.py --url http://127.0.0.1:8000

Each round sends 16 prompts of random tokens one after another. Their first 1,000 tokens are those of the round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from typing import Final

import httpx

PREFIX: Final = 1000  # tokens
SUFFIX: Final = 24
REQUESTS: Final = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=40_000, help="token ids are drawn below it")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    source = random.Random(args.seed)

    def tokens(count: int) -> list[int]:
        return [source.randrange(100, args.vocabulary) for _ in range(count)]

    print("round  first s  others s: p50, worst  ratio: p50, worst")
    with httpx.Client(base_url=args.url, timeout=600, trust_env=False) as client:
        time_to_first_token(client, tokens(PREFIX))  # whatever the server does at its first request only
        for number in range(args.rounds):
            prefix = tokens(PREFIX)
            first, *others = [time_to_first_token(client, prefix + tokens(SUFFIX)) for _ in range(REQUESTS)]
            median, worst = statistics.median(others), max(others)
            print(f"{number:5}  {first:7.3f}  {median:.3f}, {worst:.3f}  {median / first:.3f}, {worst / first:.3f}")


def time_to_first_token(client: httpx.Client, prompt: list[int]) -> float:
    """Seconds. Two tokens are asked for, so that the first is an event of its own."""
    body = {"prompt": prompt, "max_tokens": 2, "ignore_eos": True, "temperature": 0, "stream": True}
    since = time.perf_counter()
    with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        lines = response.iter_lines()
        next(lines)
        seconds = time.perf_counter() - since
        for _ in lines:
            pass
    return seconds


if __name__ == "__main__":
    main()

"""A served model under streams: bad requests disturb nobody, and a rolling update cuts nothing."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from kit import figures
from kit.kube import wait_reachable, wait_until
from kit.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.kube import Kube
    from kit.target import Target

NAME = "chat"
CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
BAD_REQUESTS = {
    "too long": (json.dumps(CHAT | {"messages": [{"role": "user", "content": "word " * 2000}]}), 400, "messages"),
    "unknown model": (json.dumps(CHAT | {"model": "gpt-5"}), 404, "model"),
    "malformed JSON": ('{"model": ', 400, "body"),
    "negative max_tokens": (json.dumps(CHAT | {"max_tokens": -1}), 400, "max_tokens"),
    "10 MB body": (json.dumps(CHAT | {"user": "x" * 10_000_000}), 413, "body"),
}


@pytest.fixture(scope="module")
def url(where: Target, namespace: str, make: Callable[..., dict[str, Any]]) -> str:
    where.kube.apply(make(NAME, namespace))
    wait_until("Ready", lambda: is_ready(where.kube, namespace), seconds=180)
    found = where.url(NAME, namespace)
    wait_reachable(found)
    return found


def is_ready(kube: Kube, namespace: str) -> bool:
    view = kube.modelserver(NAME, namespace)
    return view is not None and view.ready


def post(url: str, body: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", data=body.encode(), headers={"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_bad_requests_are_told_what_is_wrong_and_streams_go_on(url: str) -> None:
    with Load(url, "smollm2", users=2) as load:
        wait_until("a running stream", lambda: load.tally.pieces > 0, seconds=60)
        for case, (body, status, param) in BAD_REQUESTS.items():
            got, answer = post(url, body)
            assert got == status, f"{case}: {got} {answer}"
            assert answer["error"]["message"], case
            assert answer["error"]["param"] == param, f"{case}: {answer}"
        before = load.tally.finished
        wait_until("streams that go on", lambda: load.tally.finished > before, seconds=60)
    load.tally.assert_whole()


def test_a_rolling_update_under_streams_cuts_none(
    url: str, kube: Kube, namespace: str, make: Callable[..., dict[str, Any]]
) -> None:
    (old,) = (pod.metadata.name for pod in kube.pods(NAME, namespace))
    changed = make(NAME, namespace)
    changed["spec"]["runtime"]["env"] = [{"name": "OCTAVO_E2E", "value": "rolled"}]
    began = time.monotonic()
    with Load(url, "smollm2", users=2) as load:
        wait_until("a running stream", lambda: load.tally.pieces > 0, seconds=60)
        kube.apply(changed)

        def rolled() -> bool:
            names = [pod.metadata.name for pod in kube.pods(NAME, namespace)]
            return len(names) == 1 and names != [old]

        wait_until("the new pod alone", rolled, seconds=300, every=1.0)
        before = load.tally.finished
        wait_until("streams from the new pod", lambda: load.tally.finished >= before + 2, seconds=60)
    load.tally.assert_whole()
    figures.record(
        "streams lost in a rolling update",
        goal="0",
        value=f"0 of {load.tally.started} ({time.monotonic() - began:.0f} s)",
    )

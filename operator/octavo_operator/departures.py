"""What replicas say of their end: how many requests they have cut.

The last words of a container stand in its pod. A pod that is deleted has them in its last event, and a moment later it
is gone, also from the store. One that its node ends by itself (a spot interruption, a shutdown) stays as a failed pod
for minutes or hours, and one whose container is started again has them until it runs. So what counts is kept here, once
for each end, until its ModelServer is looked at. An end that no operator watches is not counted, unless the pod is
deleted later, and one that is killed (its drain hangs) says nothing.
"""

from collections import deque
from typing import Final, NamedTuple

from octavo_operator.core.observed import Ending, ending
from octavo_operator.store import Key, Raw, owner_key

_MOST: Final = 1000
"""Of all ModelServers: a standby hears them too and reports none."""


class Cut(NamedTuple):
    """One pod's end that was not free of loss."""

    key: Key
    pod: str
    requests: int


class Departures:
    """Ends that nobody was told of yet. What lies before `since`, the start of this process, another one has told."""

    def __init__(self, since: float = 0.0) -> None:
        self._since = since
        self._cuts: deque[Cut] = deque(maxlen=_MOST)
        self._seen: deque[tuple[str, Ending]] = deque(maxlen=_MOST)

    def see(self, pod: Raw, *, gone: bool) -> None:
        """Takes in a pod as it is, or as it was last."""
        end, key = ending(pod), owner_key(pod)
        if end is None or key is None or not (gone or end.time >= self._since):
            return
        once = (str(pod["metadata"]["uid"]), end)
        if once not in self._seen:
            self._seen.append(once)
            self._cuts.append(Cut(key, pod["metadata"]["name"], end.requests_cut))

    def take(self, key: Key) -> tuple[Cut, ...]:
        """The ends of a ModelServer's replicas since the last time."""
        taken = tuple(cut for cut in self._cuts if cut.key == key)
        for cut in taken:
            self._cuts.remove(cut)
        return taken

    def forget_all(self) -> None:
        """Whoever led before has told of them."""
        self._cuts.clear()

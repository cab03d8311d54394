"""What replicas say of their end: how many requests they have cut.

The last event of a pod has its container's last words; a moment later it is gone, also from the store. So what counts
is kept here until its ModelServer is looked at. A pod that ends while no operator watches is not counted, and one that
is killed (its node is gone, its drain hangs) says nothing.
"""

from collections import deque
from typing import Final, NamedTuple

from octavo_operator.core.observed import requests_cut
from octavo_operator.store import Key, Raw, owner_key

_MOST: Final = 1000
"""Of all ModelServers: a standby hears them too and reports none."""


class Cut(NamedTuple):
    """One pod's end that was not free of loss."""

    key: Key
    pod: str
    requests: int


class Departures:
    """Ends that nobody was told of yet."""

    def __init__(self) -> None:
        self._cuts: deque[Cut] = deque(maxlen=_MOST)

    def see(self, pod: Raw) -> None:
        """Takes in a pod that is gone, as it was last."""
        key, requests = owner_key(pod), requests_cut(pod)
        if key is not None and requests:
            self._cuts.append(Cut(key, pod["metadata"]["name"], requests))

    def take(self, key: Key) -> tuple[Cut, ...]:
        """The ends of a ModelServer's replicas since the last time."""
        taken = tuple(cut for cut in self._cuts if cut.key == key)
        for cut in taken:
            self._cuts.remove(cut)
        return taken

    def forget_all(self) -> None:
        """Whoever led before has told of them."""
        self._cuts.clear()

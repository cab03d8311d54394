"""The full lists, against a cluster that is played."""

import asyncio

import pytest

from octavo_operator.core import names
from octavo_operator.core.errors import Rejected, Unavailable
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.resync import Resync
from octavo_operator.store import Store
from octavo_operator.workqueue import WorkQueue


class Cluster:
    """Has every kind, and nothing of any; lists of `refused` end with that error."""

    def __init__(self, **refused):
        self.refused = refused

    async def serves(self, _):
        return True

    async def list_all(self, kind, _):
        if kind in self.refused:
            raise self.refused[kind]
        return [], 7

    async def get(self, *_):
        return None


def resync_of(cluster):
    store, metrics = Store(), Metrics()
    health = Health(lambda: 0.0)
    queue = WorkQueue(metrics, health)
    return store, Resync(cluster, store, queue=queue, health=health, metrics=metrics, namespaces=(), period=1)


async def test_an_optional_kind_that_may_not_be_listed_is_one_that_is_not_there():
    """As with rights older than the operator: what nobody asked for must not keep it from all the rest."""
    cluster = Cluster(HTTPRoute=Rejected("httproutes is forbidden", 403))
    store, resync = resync_of(cluster)
    await asyncio.wait_for(resync.first(), 60)
    assert store.served == names.OPTIONAL_KINDS - {"HTTPRoute"}
    cluster.refused.clear()
    await resync._list_all()
    assert store.served == names.OPTIONAL_KINDS


@pytest.mark.parametrize(
    "refused",
    [{"Deployment": Rejected("deployments is forbidden", 403)}, {"HTTPRoute": Unavailable("no answer")}],
    ids=["a kind that it needs", "no answer"],
)
async def test_other_refusals_are_waited_out(refused):
    _, resync = resync_of(Cluster(**refused))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(resync.first(), 0.2)

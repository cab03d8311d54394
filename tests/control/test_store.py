import json

import pytest

from octavo_operator.core.observed import view_pod
from octavo_operator.store import Key, Store, slim

KEY = Key("default", "chat")


@pytest.fixture
def store():
    return Store()


def at(raw, version):
    return {**raw, "metadata": {**raw["metadata"], "resourceVersion": str(version)}}


def labelled(raw):
    return {**raw, "metadata": {**raw["metadata"], "labels": {"octavo.dev/modelserver": "chat"}}}


def test_what_was_put_is_observed_together(store, raw_server, raw_deployment, raw_pod):
    for raw in (raw_server(), labelled(raw_deployment()), raw_pod("a"), raw_pod("b")):
        assert store.put(raw) == KEY
    observed = store.observe(KEY)
    assert observed.server is not None
    assert list(observed.children) == ["Deployment"]
    assert [pod["metadata"]["name"] for pod in observed.pods] == ["a", "b"]
    assert store.servers() == (KEY,)


def test_a_late_event_does_not_undo_the_answer_to_a_write(store, raw_server):
    store.put(at(raw_server(replicas=2), 20))
    store.put(at(raw_server(replicas=1), 10), watched=True)
    assert store.observe(KEY).server["spec"]["replicas"] == 2


def test_what_is_known_is_no_news(store, raw_server):
    assert store.put(at(raw_server(), 20)) == KEY
    assert store.put(at(raw_server(), 20), watched=True) is None
    assert store.put(at(raw_server(), 19), watched=True) is None
    assert store.put(at(raw_server(), 21), watched=True) == KEY


def test_an_object_that_is_going_is_gone(store, raw_server):
    raw = raw_server()
    raw["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    store.put(raw)
    assert store.observe(KEY).server is None


def test_removed_objects_are_forgotten(store, raw_server, raw_pod):
    store.put(raw_server())
    store.put(raw_pod())
    assert store.remove(raw_pod()) == KEY
    assert store.remove(raw_server()) == KEY
    assert store.observe(KEY).server is None
    assert store.observe(KEY).pods == ()
    assert store.remove(raw_pod()) == KEY


def test_a_full_list_removes_what_it_does_not_contain(store, raw_pod):
    """The watch does not tell what was deleted while it was broken."""
    for name in ("kept", "ghost"):
        store.put(at(raw_pod(name), 10))
    store.replace("Pod", [at(raw_pod("kept"), 10)], list_version=30)
    assert [pod["metadata"]["name"] for pod in store.observe(KEY).pods] == ["kept"]


def test_a_full_list_keeps_what_is_newer_than_itself(store, raw_pod):
    store.put(at(raw_pod("new"), 31))
    store.put(at(raw_pod("changed"), 32))
    store.replace("Pod", [at(raw_pod("changed", ready=True), 20)], list_version=30)
    pods = {pod["metadata"]["name"]: pod["metadata"]["resourceVersion"] for pod in store.observe(KEY).pods}
    assert pods == {"new": "31", "changed": "32"}


def test_a_list_under_way_does_not_bring_back_what_has_gone_meanwhile(store, raw_pod):
    """No later event would tell of it: it stayed, draining, until the next list."""
    store.put(at(raw_pod("going"), 10))
    store.remove(at(raw_pod("going"), 31), watched=True)
    store.replace("Pod", [at(raw_pod("going"), 20)], list_version=30)
    assert store.observe(KEY).pods == ()


def test_the_answer_to_a_write_does_not_bring_back_what_has_gone_meanwhile(store, raw_pod):
    store.remove(at(raw_pod("marked"), 31), watched=True)
    store.put(at(raw_pod("marked"), 30))
    assert store.observe(KEY).pods == ()


def test_what_is_made_again_under_the_same_name_is_there(store, raw_deployment):
    gone = labelled(raw_deployment())
    store.remove(at(gone, 31), watched=True)
    store.put(at(gone, 32))
    assert "Deployment" in store.observe(KEY).children


def test_pods_of_unknown_servers_are_not_offered(store, raw_server, raw_pod):
    store.put(raw_pod())
    assert list(store.replicas()) == []
    store.put(raw_server())
    assert [key for key, _ in store.replicas()] == [KEY]


def test_only_the_watchs_own_deliveries_prove_that_it_lives(store, raw_pod):
    store.put(at(raw_pod(), 50))
    assert store.newest_watched("Pod") == 0
    store.put(at(raw_pod(), 40), watched=True)
    assert store.newest_watched("Pod") == 40
    store.remove(at(raw_pod(), 60), watched=True)
    assert store.newest_watched("Pod") == 60


def test_objects_without_our_label_concern_nobody(store, raw_deployment):
    assert store.put(raw_deployment()) is None


def test_managed_fields_are_not_kept(raw_pod):
    raw = raw_pod()
    raw["metadata"]["managedFields"] = [{"manager": "x"}]
    assert "managedFields" not in slim(raw)["metadata"]
    assert slim(raw)["metadata"]["name"] == "chat-1"


def test_of_a_pod_what_is_kept_tells_all_that_is_looked_at(raw_pod):
    beside = {"name": "mesh", "image": "m:1", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}
    container = {"name": "runtime", "image": "r:1", "args": ["serve"], "resources": {"requests": {"memory": "1Gi"}}}
    place = {"nodeSelector": {"gpu": "h100"}, "affinity": {"nodeAffinity": {"wanted": "yes"}}}
    spec = {**place, "containers": [container], "initContainers": [beside], "volumes": [{"name": "model"}]}
    whole = {**raw_pod(ready=True), "spec": spec}
    assert view_pod(slim(whole)) == view_pod(whole)
    assert "volumes" not in slim(whole)["spec"]
    assert "args" not in slim(whole)["spec"]["containers"][0]


def test_a_new_model_server_and_another_spec_ask_for_something_and_a_status_does_not(store, raw_server, raw_pod):
    raw = at(raw_server(), 10)
    assert store.asks_anew(raw)
    store.put(raw)
    assert not store.asks_anew(at({**raw, "status": {"replicas": 1}}, 11))
    changed = at(raw_server(replicas=2), 12)
    changed["metadata"]["generation"] = 7
    assert store.asks_anew(changed)
    assert not store.asks_anew(raw_pod())


def test_a_replica_is_viewed_as_it_is_now(store, raw_server, raw_pod):
    store.put(raw_server())
    store.put(at(raw_pod("a"), 10))
    assert [(key, pod.ready) for key, pod in store.replicas()] == [(KEY, False)]
    store.put(at(raw_pod("a", ready=True), 11))
    assert [(key, pod.ready) for key, pod in store.replicas()] == [(KEY, True)]
    store.remove(raw_pod("a"))
    assert list(store.replicas()) == []
    store.put(at(raw_pod("a"), 12))
    assert [(key, pod.ready) for key, pod in store.replicas()] == [(KEY, False)]


def test_what_is_made_of_the_store_is_made_anew_only_after_a_change(store, raw_server, raw_pod):
    names_of_replicas = store.while_unchanged(lambda: [pod.name for _, pod in store.replicas()])
    store.put(at(raw_server(), 9))
    store.put(at(raw_pod("a"), 10))
    first = names_of_replicas()
    assert first == ["a"]
    store.put(at(raw_pod("a"), 10))  # a full list brings it again
    assert names_of_replicas() is first
    store.put(at(raw_pod("b"), 11))
    assert names_of_replicas() == ["a", "b"]
    store.remove(raw_pod("a"))
    assert names_of_replicas() == ["b"]


def test_objects_that_say_the_same_share_their_words(store, raw_pod):
    for name in ("a", "b"):
        store.put(json.loads(json.dumps(raw_pod(name) | {"spec": {"nodeName": "node-1"}})))
    first, second = store.observe(KEY).pods
    assert first["spec"]["nodeName"] is second["spec"]["nodeName"]
    assert first["metadata"]["name"] == "a"

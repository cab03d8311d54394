"""What the operator's /metrics says of conditions."""

from octavo_operator.metrics import Metrics
from octavo_operator.store import Store
from octavo_operator.tally import Tally


def line(kind, status, reason):
    return f'octavo_operator_conditions{{reason="{reason}",status="{status}",type="{kind}"}}'


def test_model_servers_are_counted_by_their_conditions(raw_server):
    store, metrics = Store(), Metrics()
    metrics.registry.register(Tally(store))
    ready = {"type": "Ready", "status": "True", "reason": "Ready", "message": "1 of 1 replicas serve"}
    stalled = ready | {"type": "Stalled", "reason": "CrashLoopBackOff"}
    for name, conditions in {"a": [ready], "b": [ready, stalled], "c": []}.items():
        raw = raw_server(status={"conditions": conditions} if conditions else None)
        store.put(raw | {"metadata": raw["metadata"] | {"name": name}})
    text = metrics.text().decode()
    assert f"{line('Ready', 'True', 'Ready')} 2.0" in text
    assert f"{line('Stalled', 'True', 'CrashLoopBackOff')} 1.0" in text
    for name in ("a", "b"):
        store.remove(raw | {"metadata": raw["metadata"] | {"name": name}})
    assert "octavo_operator_conditions{" not in metrics.text().decode()

"""The API server itself refuses a bad ModelServer, and names the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kit.kube import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.kube import Kube

BAD = {
    "both replicas and autoscaling": (
        {"replicas": 2, "autoscaling": {"minReplicas": 1, "maxReplicas": 2, "targets": {"kvUtilizationPercent": 70}}},
        ["replicas", "autoscaling"],
    ),
    "negative replicas": ({"replicas": -1}, ["spec.replicas", "-1"]),
    "negative maxNumSeqs": ({"runtime": {"maxNumSeqs": -4}}, ["spec.runtime.maxNumSeqs", "-4"]),
    "unknown field": ({"modle": {}}, ["modle"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_modelserver_is_refused_with_the_fields_name(
    case: str, kube: Kube, namespace: str, make: Callable[..., dict[str, Any]]
) -> None:
    spec, words = BAD[case]
    with pytest.raises(CommandError) as refused:
        kube.apply(make("bad", namespace, **spec))
    for word in words:
        assert word in str(refused.value)
    assert kube.modelserver("bad", namespace) is None

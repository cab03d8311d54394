"""A model that is not there is said in the status, and mending the path is all it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kit.kube import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.kube import Kube


def test_a_missing_model_is_named_and_a_mended_path_recovers(
    kube: Kube, namespace: str, make: Callable[..., dict[str, Any]]
) -> None:
    good = make("missing", namespace)
    bad = make("missing", namespace)
    bad["spec"]["model"]["source"]["pvc"]["path"] = "no/such/model"
    kube.apply(bad)

    def says_so() -> str | None:
        view = kube.modelserver("missing", namespace)
        ready = view.condition("Ready") if view else {"status": "", "reason": "", "message": ""}
        told = ready["status"] == "False" and ready["reason"] == "ModelNotFound"
        return ready["message"] if told else None

    message = wait_until("Ready=False, ModelNotFound", says_so, seconds=120)
    assert "no/such/model" in message

    kube.apply(good)

    def ready() -> bool:
        view = kube.modelserver("missing", namespace)
        return view is not None and view.ready

    wait_until("Ready after the path was mended", ready, seconds=180)

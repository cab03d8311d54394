"""Accelerator profiles: what they render, what wins over them, and that one wrong entry is alone with its error."""

import pytest
import yaml

from octavo_operator.__main__ import main
from octavo_operator.core.desired import fresh_scaler
from octavo_operator.core.errors import SpecError
from octavo_operator.core.manifest import Defaults, Owner
from octavo_operator.core.names import Reason
from octavo_operator.core.plan import Plan
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.profiles import BUILT_IN, ProfileError, extended, settle
from octavo_operator.core.proposal import propose
from octavo_operator.core.render import render
from octavo_operator.core.server import parse_server
from octavo_operator.core.spec import parse_spec
from octavo_operator.core.status_model import ModelServerStatus

OWNER = Owner("default", "chat", "uid-1")
GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@pytest.fixture
def pod(raw_spec):
    def build(profiles=BUILT_IN, **spec):
        defaults = Defaults("example.invalid/runtime:1", profiles=profiles)
        children = render(settle(parse_spec(raw_spec(**spec)), profiles), OWNER, 1, defaults)
        (deployment,) = [child for child in children if child["kind"] == "Deployment"]
        return deployment["spec"]["template"]["spec"]

    return build


@pytest.fixture
def priced(raw_spec):
    """The replicas that a budget pays for with that accelerator."""

    def build(most, profiles=BUILT_IN, least=1, **accelerator):
        budget = {"maxCostPerHour": most}
        scaling = {"minReplicas": least, "maxReplicas": 9, "targets": {"waitingPerReplica": 1}, "budget": budget}
        spec = parse_spec(raw_spec(accelerator=accelerator, autoscaling=scaling))
        return settle(spec, profiles).affordable

    return build


def products(spec):
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (expression,) = term["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("nvidia.com/gpu.product", "In")
    return expression["values"]


@pytest.mark.parametrize("name", sorted(BUILT_IN.known))
def test_a_profile_chooses_nodes_taints_and_memory(pod, name):
    spec = pod(accelerator={"profile": name})
    assert all(name.split("-")[0] in product for product in products(spec))
    assert spec["tolerations"] == [GPU_TOLERATION]
    resources = spec["containers"][0]["resources"]
    assert resources["limits"] == {"nvidia.com/gpu": "1"}
    assert int(resources["requests"]["memory"]) >= 16 << 30


def test_no_product_belongs_to_two_profiles_and_none_is_a_part_of_a_gpu():
    known = [product for profile in BUILT_IN.known.values() for product in profile.products]
    assert len(known) == len(set(known))
    assert not [product for product in known if "MIG" in product or "SHARED" in product]


def test_what_the_spec_says_itself_wins(pod):
    tolerations = [{"key": "mine", "operator": "Exists"}]
    spec = pod(
        accelerator={"profile": "H100", "nodeSelector": {"pool": "a"}, "tolerations": tolerations},
        runtime={"resources": {"limits": {"memory": "8Gi"}}},
    )
    assert (spec["nodeSelector"], spec["tolerations"]) == ({"pool": "a"}, tolerations)
    assert "affinity" not in spec
    assert spec["containers"][0]["resources"]["requests"] == {"nvidia.com/gpu": "1"}


def test_without_a_profile_nothing_is_chosen(pod):
    spec = pod(accelerator={"count": 1})
    assert not {"affinity", "nodeSelector", "tolerations"} & spec.keys()


@pytest.mark.parametrize(
    ("most", "accelerator", "expected"),
    [
        ("13.8", {"profile": "H100"}, 2),
        ("13.7", {"profile": "H100"}, 1),
        ("10", {"profile": "H100", "costPerHour": "2.5"}, 4),
        ("10", {"count": 1, "costPerHour": "3"}, 3),
    ],
)
def test_a_budget_counts_with_the_price_of_the_gpus(priced, most, accelerator, expected):
    assert priced(most, **accelerator) == expected


@pytest.mark.parametrize(
    ("budget", "accelerator", "expected"),
    [
        ({"maxGPUs": 8}, {"count": 2}, 4),
        ({"maxGPUs": 7}, {"profile": "H100", "count": 2}, 3),
        ({"maxGPUs": 32}, {"count": 8, "nodes": 2}, 2),
        ({"maxGPUs": 8, "maxCostPerHour": "20"}, {"profile": "H100"}, 2),
        ({"maxGPUs": 1, "maxCostPerHour": "20"}, {"profile": "H100"}, 1),
    ],
)
def test_a_budget_counts_gpus_and_the_smaller_bound_holds(raw_spec, budget, accelerator, expected):
    scaling = {"maxReplicas": 9, "targets": {"waitingPerReplica": 1}, "budget": budget}
    spec = settle(parse_spec(raw_spec(accelerator=accelerator, autoscaling=scaling)), BUILT_IN)
    assert spec.affordable == expected
    assert ScalingPolicy.of(spec, spec.autoscaling, 0.0).affordable == expected


def test_a_budget_that_does_not_pay_for_the_fewest_is_named(priced):
    with pytest.raises(SpecError, match=r"maxCostPerHour: 13 does not pay for minReplicas 2 at 6.9 each"):
        priced("13", least=2, profile="H100")


def test_a_profile_without_a_price_needs_one_in_the_budget(priced):
    with pytest.raises(SpecError, match="replicaCostPerHour: set it: profile mine has no costPerHour"):
        priced("13", extended({"mine": {"gpuMemory": "8Gi"}}), profile="mine")


def test_a_kv_cache_that_no_gpu_of_the_kind_holds_is_refused(raw_spec):
    spec = parse_spec(raw_spec(accelerator={"profile": "L40S"}, runtime={"kvCache": {"size": "48Gi"}}))
    with pytest.raises(SpecError, match=r"kvCache.size: 48Gi is too much: a L40S has 48Gi"):
        settle(spec, BUILT_IN)


MINE = """
gpuMemory: 24Gi
products: [NVIDIA-L4]
nodeSelector: { pool: small }
resource: example.com/gpu
tolerations: []
costPerHour: 0.8
"""


def test_users_add_profiles(pod):
    spec = pod(extended({"L4": MINE}), accelerator={"profile": "L4"})
    assert (products(spec), spec["nodeSelector"]) == (["NVIDIA-L4"], {"pool": "small"})
    assert "tolerations" not in spec
    assert spec["containers"][0]["resources"]["limits"] == {"example.com/gpu": "1"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("gpuMemory: [", "flow"),
        ("gpuMemory: much", "gpuMemory"),
        ("gpuMemory: 1Gi\nprice: 3", "price"),
        ("just words", "dictionary"),
        ("gpuMemory: 1Gi\ncostPerHour: .nan", "costPerHour"),
        ("", "dictionary"),
        ("gpuMemory: 2026-13-45", "month"),
        ("gpuMemory: " + 2000 * "[", "recursion"),
        ("gpuMemory: &a [*a]", "gpuMemory"),
        ("gpuMemory: 1e999999999", "gpuMemory"),
    ],
)
def test_a_wrong_entry_is_alone_with_its_error(raw_spec, entry, words):
    profiles = extended({"H100": entry, "L4": MINE})
    assert {"L4", "H200"} <= profiles.known.keys()
    with pytest.raises(ProfileError, match=words) as caught:
        settle(parse_spec(raw_spec(accelerator={"profile": "H100"})), profiles)
    assert caught.value.field == "spec.accelerator.profile"


def test_an_unknown_profile_is_said_with_the_known_ones_and_changes_nothing(raw_server, raw_deployment):
    server = parse_server(raw_server(accelerator={"profile": "H1000"}))
    proposal = propose(
        server,
        ModelServerStatus(),
        children={"Deployment": raw_deployment(3)},
        pods=(),
        windows={},
        scaler=fresh_scaler(ModelServerStatus(), 0.0),
        defaults=Defaults("example.invalid/runtime:1"),
        now=0.0,
    )
    assert (proposal.plan, proposal.desired) == (Plan(), 3)
    assert proposal.failure.reason == Reason.UNKNOWN_PROFILE
    assert "H1000 is not known; known are A100-40, A100-80, B200, H100, H200, L40S" in proposal.failure.message


# --- octavo-operator render -------------------------------------------------------------------------------------------

SERVER = """
apiVersion: octavo.dev/v1alpha1
kind: ModelServer
metadata: { name: chat }
spec: { model: { source: { pvc: { claimName: m } } }, accelerator: { profile: L4 } }
"""


@pytest.mark.parametrize("packed", [True, False], ids=["a ConfigMap", "a mapping"])
def test_render_takes_the_installations_profiles(tmp_path, capsys, packed):
    entries = {"kind": "ConfigMap", "data": {"L4": MINE}} if packed else {"L4": yaml.safe_load(MINE)}
    (tmp_path / "profiles.yaml").write_text(yaml.safe_dump(entries))
    (tmp_path / "server.yaml").write_text(SERVER)
    arguments = ["render", str(tmp_path / "server.yaml"), "--runtime-image", "r:1"]
    assert main([*arguments, "--profiles", str(tmp_path / "profiles.yaml")]) == 0
    assert "example.com/gpu" in capsys.readouterr().out
    assert main(arguments) == 1
    assert "spec.accelerator.profile: L4 is not known" in capsys.readouterr().err


def test_render_refuses_wrong_profiles(tmp_path, capsys):
    (tmp_path / "profiles.yaml").write_text("L4: { gpuMemory: much }")
    (tmp_path / "server.yaml").write_text(SERVER)
    assert main(["render", str(tmp_path / "server.yaml"), "--profiles", str(tmp_path / "profiles.yaml")]) == 64
    assert "L4: gpuMemory" in capsys.readouterr().err

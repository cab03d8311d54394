"""`kubectl octavo`: what people read in a terminal, from objects as kubectl prints them."""

import json
import os
import stat
import sys

import pytest
from rich.console import Console

from octavo_operator.cli import chart, command, words
from octavo_operator.cli.detail import detail
from octavo_operator.cli.listing import listing
from octavo_operator.cli.why import why
from octavo_operator.core.autoscale import decide
from octavo_operator.core.clock import to_timestamp
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.scaling_log import log_decision
from octavo_operator.core.window import Signals

NOW = 1_800_000_000.0


def printed(view, width=160):
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def condition(kind, status, reason, message, ago=90):
    moment = to_timestamp(NOW - ago)
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": moment}


def server(name="chat", *, ready=("True", "Ready", "all replicas serve"), **status):
    return {
        "metadata": {"name": name, "namespace": "team-a", "creationTimestamp": to_timestamp(NOW - 3 * 3600)},
        "status": {
            "readyReplicas": 2,
            "desiredReplicas": 3,
            "model": {"servedName": "smol"},
            "load": {"kvUtilizationPercent": 85, "waiting": 7, "running": 4},
            "conditions": [condition("Ready", *ready)],
            **status,
        },
    }


def pod(name, *, ready=True, template="new", ago=60, **status):
    ready_condition = condition("Ready", "True" if ready else "False", "", "")
    moment = to_timestamp(NOW - ago)
    annotations = {"octavo.dev/template": template}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "uid": name, "creationTimestamp": moment, "annotations": annotations},
        "spec": {"nodeName": "node-1"},
        "status": {"conditions": [ready_condition], **status},
    }


def deployment(template="new"):
    annotations = {"octavo.dev/template": template}
    spec = {"template": {"metadata": {"annotations": annotations}}}
    return {"kind": "Deployment", "metadata": {"name": "chat"}, "spec": spec}


def scaled(signals=None, current=2):
    """The status of a ModelServer after a decision of the real autoscaler."""
    signals = signals or Signals(ready=2, unknown=0, running=8, waiting=20, kv_used=30000, kv_capacity=32768)
    policy = ScalingPolicy(
        min_replicas=1, max_replicas=8, kv_target=0.75, waiting_target=4, up_window=0, down_window=300
    )
    memory, log = ScalerMemory(since=NOW - 1000), None
    for ago in (60, 30):
        decision = decide(signals, policy, current, memory, NOW - ago)
        memory, current = decision.memory, decision.replicas
        log = log_decision(log, decision, advisory=False, now=NOW - ago)
    return server(scaling=log.model_dump(by_alias=True, exclude_none=True, mode="json"))


# --- the list ---


def test_the_list_says_what_serves_and_why_the_rest_does_not():
    broken = server("big", ready=("False", "Unschedulable", "0/3 nodes have a free nvidia.com/gpu"))
    text = printed(listing([server(), broken], NOW, namespaces=False))
    head, first, second, *rest = text.splitlines()
    assert head.split() == ["NAME", "MODEL", "READY", "KV", "QUEUE", "REASON", "AGE"]
    assert first.split() == ["chat", "smol", "2/3", "85%", "7", "Ready", "3h"]
    assert "Unschedulable" in second
    assert [line for line in rest if line] == ["big: 0/3 nodes have a free nvidia.com/gpu"]


def test_the_list_of_all_namespaces_names_them():
    text = printed(listing([server(ready=("False", "Starting", "0 of 1"))], NOW, namespaces=True))
    assert text.split()[0] == "NAMESPACE"
    assert "team-a/chat: 0 of 1" in text


def test_a_model_server_that_no_operator_has_seen_is_listed():
    text = printed(listing([{"metadata": {"name": "chat", "namespace": "team-a"}}], NOW, namespaces=False))
    assert "0/-" in text
    assert "does it run?" in text


def test_what_the_cluster_says_does_not_steer_the_terminal():
    evil = server(ready=("False", "Bad", "\x1b[2J[red]gone\x07"))
    text = printed(listing([evil], NOW, namespaces=False))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]gone" in text


# --- one in detail ---


def test_replicas_are_shown_with_their_revision_and_what_keeps_them():
    waiting = {"name": "runtime", "restartCount": 3, "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    old = pod("chat-old", template="old", ago=7200)
    new = pod("chat-new", ready=False, containerStatuses=[waiting])
    text = printed(detail(server(), [deployment(), new, old], [], NOW))
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("chat-")}
    assert lines["chat-old"].split()[1:] == ["ready", "0", "node-1", "older", "2h"]
    assert "not ready" in lines["chat-new"]
    assert "newest" in lines["chat-new"]
    assert "ImagePullBackOff" in lines["chat-new"]
    assert lines["chat-new"].split()[3] == "3"  # restarts


def test_a_start_is_told_with_what_it_usually_takes():
    startup = {"phase": "fetch", "progressPercent": 40, "etaSeconds": 9, "p50Seconds": 30, "p90Seconds": 35}
    text = printed(detail(server(startup=startup | {"loadingSeconds": 20}), [], [], NOW))
    assert "now fetch 40%, 9 s left; 30 s at p50, 35 s at p90 (loading 20 s)" in text
    text = printed(detail(server(startup=startup | {"loadingSeconds": 20, "fetchSeconds": 12}), [], [], NOW))
    assert "(loading 20 s: fetch 12 s)" in text


def test_what_a_replica_carries_and_what_all_cost_is_told():
    capacity = {"kvCacheTokens": 16384, "kvTokens": 9800, "promptTokensPerSecond": 560}
    text = printed(detail(server(capacity=capacity, cost={"perHour": "13.8", "perMillionTokens": "0.42"}), [], [], NOW))
    assert "16,384 KV tokens fit, 9,800 seen before requests waited, 560 prompt tokens/s" in text
    assert "13.8 an hour, 0.42 for a million tokens" in text
    assert "Cost" not in printed(detail(server(), [], [], NOW))


def test_the_newest_events_come_last_and_are_few():
    events = [
        {"type": "Warning", "reason": f"R{index}", "note": f"event {index}", "eventTime": to_timestamp(NOW - index)}
        for index in range(20)
    ]
    text = printed(detail(server(), [], events, NOW))
    assert [line.split()[2] for line in text.splitlines() if "Warning" in line] == [f"R{n}" for n in range(7, -1, -1)]


def test_every_condition_is_shown_with_its_message():
    conditions = [condition("Ready", "True", "Ready", "fine"), condition("Stalled", "True", "OOMKilled", "too small")]
    text = printed(detail(server(conditions=conditions), [], [], NOW))
    assert "too small" in text
    assert "90s" in text


# --- why ---


def test_why_explains_a_wake_and_a_second_scaler():
    policy = ScalingPolicy(1, 8, 0.75, None, up_window=0, down_window=300, idle_after=600.0)
    signals = Signals(ready=0, unknown=0, held=3, held_tokens=99, activated=60.0)
    decision = decide(signals, policy, 0, ScalerMemory(since=NOW - 1000), NOW - 30)
    log = log_decision(None, decision, advisory=False, now=NOW - 30)
    told = condition("Contended", "True", "ReplicasChangedByOthers", "something else has set them")
    raw = server(scaling=log.model_dump(by_alias=True, exclude_none=True, mode="json"))
    raw["status"]["conditions"].append(told)
    text = printed(why(raw, NOW))
    assert "0 → 1 replicas (done), Woken: 3 held requests of about 99 tokens need 1 replicas" in text
    assert "3 held by the activator" in text
    assert "Made again from its record: 1 replicas, Woken, as then." in text
    assert "ReplicasChangedByOthers: something else has set them" in text


def test_why_says_the_decision_its_signals_and_that_it_can_be_made_again():
    text = printed(why(scaled(), NOW))
    assert "2 → 5 replicas (done), WaitingAboveTarget" in text
    assert "waitingPerReplica" in text
    assert "1 to 8" in text
    assert "30,000 of 32,768 tokens" in text
    assert "as then." in text
    assert "█" in text


def test_why_names_the_latencies_that_were_seen():
    raw = scaled()
    raw["status"]["scaling"]["lastDecision"]["inputs"] |= {"ttftP95Milliseconds": 1500, "queueWaitP95Milliseconds": 400}
    text = " ".join(printed(why(raw, NOW)).split())
    assert "TTFT p95 1,500 ms queue p95 400 ms" in text
    assert "ITL p95" not in text


def test_a_record_that_decides_otherwise_is_told():
    raw = scaled()
    raw["status"]["scaling"]["lastDecision"]["to"] = 7
    assert "It decides otherwise." in " ".join(printed(why(raw, NOW)).split())


def test_a_record_of_another_version_is_told():
    raw = scaled()
    raw["status"]["scaling"]["lastDecision"]["record"] = '{"signals": {"phase_of_the_moon": 1}}'
    assert "cannot be made again" in printed(why(raw, NOW))


def test_without_a_decision_the_conditions_explain():
    raw = server(conditions=[condition("ScalingActive", "False", "FixedReplicas", "no autoscaling: 3 replicas")])
    text = printed(why(raw, NOW))
    assert "no autoscaling: 3 replicas" in text
    assert "never changed" in text


# --- charts and words ---


def test_steps_show_the_highest_number_of_each_column():
    lines = chart.steps([(0.0, 1), (10.0, 4), (10.5, 1)], until=40.0, width=8, height=4)
    assert [line[2] for line in lines] == ["█", "█", "█", "█"]  # a peak of half a second
    assert [line[7] for line in lines] == [" ", " ", " ", "█"]
    assert {len(line) for line in lines} == {8}


def test_a_step_at_the_very_end_and_no_time_at_all_are_drawn():
    assert chart.steps([(5.0, 2)], until=5.0, width=4, height=1)
    assert chart.steps([(0.0, 1), (40.0, 2)], until=40.0, width=4, height=1)[0][-1] == "█"
    assert chart.steps([(0.0, 0)], until=9.0, width=4, height=2) == []


def test_bars_are_proportional_and_never_lost():
    assert [len(chart.bar(value, 8, 32)) for value in (0, 0.01, 4, 8, 99)] == [0, 1, 16, 32, 32]


@pytest.mark.parametrize(
    ("ago", "said"), [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (86400, "1d"), (-5, "0s")]
)
def test_ages_are_as_kubectl_says_them(ago, said):
    assert words.age(to_timestamp(NOW - ago), NOW) == said


# --- the command ---


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A program in kubectl's place: prints what it is given for a kind, and keeps the arguments."""

    def install(answers, status=0, error=""):
        program = tmp_path / "kubectl"
        program.write_text(
            f"#!{sys.executable}\nimport json, sys\n"
            f"open({str(tmp_path / 'calls')!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
            f"sys.stderr.write({error!r})\n"
            f"print(json.dumps({answers!r}.get(' '.join(a for a in sys.argv[2:4] if a[0] != '-'), {{}})))\n"
            f"sys.exit({status})\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return lambda: [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]

    return install


def test_flags_go_to_kubectl(kubectl, capsys):
    calls = kubectl({"modelservers.octavo.dev": {"items": [server()]}})
    assert command.main(["status", "-n", "team-a", "--context", "prod", "--kubeconfig", "/k"]) == 0
    assert "chat" in capsys.readouterr().out
    (call,) = calls()
    assert {"--namespace=team-a", "--context=prod", "--kubeconfig=/k", "--output=json"} <= set(call)


def test_all_namespaces_are_asked_for(kubectl, capsys):
    calls = kubectl({"modelservers.octavo.dev": {"items": []}})
    assert command.main(["status", "-A"]) == 0
    assert capsys.readouterr().out.strip() == "No ModelServer found."
    assert "--all-namespaces" in calls()[0]


def test_one_in_detail_asks_for_its_children_and_events(kubectl, capsys):
    calls = kubectl(
        {
            "modelservers.octavo.dev chat": server(),
            "deployments.apps,pods": {"items": [deployment(), pod("chat-1")]},
            "events.events.k8s.io": {"items": []},
        }
    )
    assert command.main(["status", "chat"]) == 0
    assert "chat-1" in capsys.readouterr().out
    assert any("--selector=octavo.dev/modelserver=chat" in call for call in calls())


def test_events_of_one_that_had_the_name_before_are_not_shown(kubectl, capsys):
    def event(uid, note):
        return {"regarding": {"uid": uid}, "type": "Normal", "reason": "Created", "note": note}

    now = server()
    now["metadata"]["uid"] = "new"
    answers = {"modelservers.octavo.dev chat": now, "deployments.apps,pods": {"items": []}}
    kubectl(answers | {"events.events.k8s.io": {"items": [event("old", "of the old"), event("new", "of the new")]}})
    assert command.main(["status", "chat"]) == 0
    shown = capsys.readouterr().out
    assert "of the new" in shown
    assert "of the old" not in shown


@pytest.mark.parametrize(
    ("reason", "kind"), [("Ready", "leaderworkersets.leaderworkerset.x-k8s.io"), ("KindMissing", "deployments.apps")]
)
def test_of_groups_all_pods_are_shown(kubectl, capsys, reason, kind):
    """And a kind that the cluster does not have is not asked for."""
    template = deployment()["spec"]["template"]
    groups = {"kind": "LeaderWorkerSet", "metadata": {"name": "chat-group"}}
    groups["spec"] = {"leaderWorkerTemplate": {"leaderTemplate": template}}
    grouped = server(ready=("True", reason, "")) | {"spec": {"accelerator": {"count": 8, "nodes": 2}}}
    calls = kubectl(
        {
            "modelservers.octavo.dev chat": grouped,
            f"{kind},pods": {"items": [groups, pod("chat-group-0"), pod("chat-group-0-1", template="old")]},
            "events.events.k8s.io": {"items": []},
        }
    )
    assert command.main(["status", "chat"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("chat-group")}
    assert "newest" in lines["chat-group-0"]
    assert "older" in lines["chat-group-0-1"]
    assert any("--selector=octavo.dev/modelserver in (chat,chat.worker)" in call for call in calls())


def test_why_reads_one_model_server(kubectl, capsys):
    kubectl({"modelservers.octavo.dev chat": scaled()})
    assert command.main(["why", "chat"]) == 0
    assert "as then." in capsys.readouterr().out


def test_what_kubectl_complains_about_is_passed_on(kubectl, capsys):
    kubectl({}, status=1, error='Error from server (NotFound): modelservers.octavo.dev "chat" not found')
    assert command.main(["why", "chat"]) == 1
    assert capsys.readouterr().err == (
        'kubectl octavo: Error from server (NotFound): modelservers.octavo.dev "chat" not found\n'
    )


def test_without_kubectl_it_says_so(monkeypatch, capsys):
    monkeypatch.setenv("KUBECTL", "no-such-program")
    assert command.main(["status"]) == 1
    assert "kubectl was not found" in capsys.readouterr().err


def test_without_rich_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "octavo_operator.cli.terminal", None)
    assert command.main(["status"]) == 64
    assert "pip install 'octavo-operator[cli]'" in capsys.readouterr().err


def test_render_prints_the_children(tmp_path, capsys):
    path = tmp_path / "server.yaml"
    spec = {"model": {"source": {"pvc": {"claimName": "models"}}}}
    manifest = {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer", "metadata": {"name": "chat"}, "spec": spec}
    path.write_text(json.dumps(manifest))
    assert command.main(["render", str(path), "--runtime-image", "r:1"]) == 0
    assert "kind: Deployment" in capsys.readouterr().out

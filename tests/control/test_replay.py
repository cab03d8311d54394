"""The replay: traces, a fleet of the runtime's own schedulers, the closed loop, rivals, the report, the command."""

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from octavo_operator.__main__ import main
from octavo_operator.core.errors import SettingsError
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.replay.fleet import Fleet
from octavo_operator.replay.plot import page
from octavo_operator.replay.replica import Machine, SimReplica
from octavo_operator.replay.report import chart, table
from octavo_operator.replay.run import Outcome, play
from octavo_operator.replay.scalers import HpaOnQueue, KedaOnKv, Knative, Octavo, runs_at_once
from octavo_operator.replay.trace import SHAPES, Arrival, generate, read_csv
from octavo_operator.replay.variants import trial, vary
from octavo_runtime.core.batch import BatchPlan
from octavo_runtime.core.layout import flatten
from octavo_runtime.runner.sim_runner import SimRunner, StepTime

MACHINE = Machine(kv_tokens=4096, max_num_seqs=4)
POLICY = ScalingPolicy(1, 4, 0.7, 2, up_window=0, down_window=60)
POLICY_FILE = """
spec:
  model: {source: {pvc: {claimName: models}}}
  runtime: {maxNumSeqs: 8}
  autoscaling: {minReplicas: 1, maxReplicas: 3, targets: {waitingPerReplica: 2}}
"""


# --- traces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_seed_gives_the_same_trace_and_another_one_another(shape):
    first, again, other = (generate(shape, duration=120, peak=5, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert all(0 <= arrival.time < 120 and arrival.prompt_tokens >= 1 <= arrival.output_tokens for arrival in first)
    assert [arrival.time for arrival in first] == sorted(arrival.time for arrival in first)


def test_a_burst_is_denser_than_the_rest():
    trace = generate("burst", duration=1000, peak=2, seed=0)
    inside = sum(1 for arrival in trace if 300 <= arrival.time < 450)
    assert inside / 150 > 3 * (len(trace) - inside) / 850


def test_a_working_day_has_its_hours():
    """Requests per second between these hours, of a day at up to 1 a second."""
    trace = generate("workday", duration=8640, peak=1, seed=0)
    night, morning, noon, afternoon = (
        sum(1 for arrival in trace if begin <= arrival.time / 360 < end) / (end - begin) / 360
        for begin, end in ((0, 7), (10, 12), (12.75, 13.25), (14, 16))
    )
    assert 0.05 < night < 0.15
    assert night < noon < min(morning, afternoon) < 1.1


def test_after_an_outage_everybody_comes_again():
    """As many requests as without one."""
    trace = generate("outage", duration=10_000, peak=1, seed=0)
    before, during, after = (
        sum(1 for arrival in trace if begin <= arrival.time < end)
        for begin, end in ((0, 4000), (4000, 4600), (4600, 5000))
    )
    assert during == 0
    assert after / 400 > 1.5 * before / 4000
    assert abs(len(trace) - 4000) < 200


def test_a_file_is_read_by_time():
    lines = ["prompt_tokens,time,output_tokens", "10,2.5,3", "20,1,4"]
    assert read_csv(lines, "x.csv") == [Arrival(1, 20, 4), Arrival(2.5, 10, 3)]


@pytest.mark.parametrize("row", ["1,2", "1,x,3", "-1,2,3", "nan,2,3", "1,0,3", "inf,1,1"])
def test_a_line_that_does_not_fit_is_named(row):
    with pytest.raises(SettingsError, match=r"x\.csv, line 3"):
        read_csv(["time,prompt_tokens,output_tokens", "0,1,1", row], "x.csv")


def test_an_empty_file_is_no_trace():
    with pytest.raises(SettingsError, match="no requests"):
        read_csv(["time,prompt_tokens,output_tokens"], "x.csv")


# --- replica and fleet ------------------------------------------------------------------------------------------------


def test_a_replica_shows_its_queue_and_answers_everybody():
    first_tokens = []
    replica = SimReplica(MACHINE, 0.0, first_tokens)
    for number in range(6):
        replica.submit(number, Arrival(0.0, 100, 10))
    replica.advance(0.5)
    busy = replica.sample(0.5)
    assert (busy.running, busy.waiting, busy.waiting_tokens) == (4, 2, 200)
    assert busy.queue_time.total == 4
    assert busy.queue_time.quantile(1) <= 0.01
    assert busy.kv_used >= 4 * 100
    replica.advance(60)
    idle = replica.sample(60)
    assert (idle.running, idle.waiting, idle.kv_used) == (0, 0, 0)
    assert (idle.prompt_tokens, idle.generation_tokens) == (600, 60)
    assert len(first_tokens) == idle.ttft.total == 6
    assert idle.itl.total == 54
    assert idle.queue_time.total == 6
    assert idle.queue_time.quantile(1) > 0.5


@pytest.mark.parametrize("per_kv_token", [0.0, 1e-5])
def test_a_replica_takes_its_time_as_the_simulated_runner_does(per_kv_token):
    """A crowded one, so that some are preempted: the same clock after every 5 s, and the same first tokens."""
    machine = replace(MACHINE, step_time=StepTime(0.08, 0.0004, 0.002, per_kv_token))
    quick, exact = (SimReplica(machine, 0.0, []) for _ in range(2))
    runner = SimRunner(machine.kv_tokens // 16, 16, 1000, machine.step_time, sleep=lambda _: None)

    def seconds(plan: BatchPlan) -> float:
        batch = flatten(plan, 16)
        runner.compute(batch)
        return machine.step_time.seconds(batch)

    exact._seconds = seconds
    trace = generate("ramp", duration=60, peak=4, seed=3)
    for until in range(5, 200, 5):
        for number, arrival in enumerate(trace):
            if until - 5 <= arrival.time < until:
                quick.submit(number, arrival)
                exact.submit(number, arrival)
        quick.advance(until)
        exact.advance(until)
        assert (quick.clock, quick.sample(until)) == (exact.clock, exact.sample(until))
    assert quick._first_tokens == exact._first_tokens != []


def test_a_request_longer_than_the_cache_is_cut_and_served():
    replica = SimReplica(MACHINE, 0.0, [])
    replica.submit(0, Arrival(0.0, 9000, 50))
    replica.advance(1000)
    assert replica.outstanding == 0


def test_a_fleet_starts_drains_and_costs():
    fleet = Fleet(MACHINE, startup=30)
    fleet.begin(1)
    fleet.scale(2)
    assert (fleet.size, len(fleet.ready)) == (2, 1)
    fleet.run(30, iter([(number, Arrival(29.0, 100, 50)) for number in range(2)]))
    assert len(fleet.ready) == 2
    assert fleet.replica_seconds == 60
    fleet.run(32, iter([(2, Arrival(30.0, 100, 50))]))
    fleet.scale(1)
    assert (fleet.size, len(fleet.draining)) == (1, 1)
    fleet.run(100, iter([]))
    assert (len(fleet.first_tokens), fleet.draining, fleet.busy) == (3, [], False)


def test_without_a_ready_replica_requests_are_held():
    fleet = Fleet(MACHINE, startup=10)
    fleet.scale(1)
    fleet.run(5, iter([(0, Arrival(1.0, 10, 2))]))
    assert (fleet.busy, fleet.first_tokens) == (True, [])
    fleet.run(20, iter([]))
    assert not fleet.busy
    assert 9 <= fleet.first_tokens[0].ttft < 10


# --- the loop ---------------------------------------------------------------------------------------------------------


def overload(seconds=240):
    """Almost twice what one replica of MACHINE carries, then nothing but one late request."""
    return [*(Arrival(0.25 * step, 60, 20) for step in range(4 * seconds)), Arrival(seconds + 400, 10, 2)]


@pytest.mark.parametrize(
    "scaler",
    [Octavo, HpaOnQueue, KedaOnKv, lambda policy: Knative(policy, 4)],
    ids=["octavo", "hpa", "keda", "knative"],
)
def test_every_scaler_answers_every_request_within_the_bounds(scaler):
    outcome = play(scaler(POLICY), overload(), MACHINE, startup=20, start=1, slo=2.0)
    assert outcome.requests == 961
    assert 0 < outcome.replica_hours <= 4 * 650 / 3600
    assert all(1 <= number <= 4 for _, number in outcome.replicas)


def test_the_production_code_scales_up_under_load_and_down_after_it():
    alone = play(Octavo(replace(POLICY, max_replicas=1)), overload(), MACHINE, startup=20, start=1, slo=2.0)
    scaled = play(Octavo(POLICY), overload(), MACHINE, startup=20, start=1, slo=2.0)
    assert scaled.most > 1 == scaled.replicas[-1][1]
    assert scaled.violations < alone.violations / 2
    assert scaled.turns == 1


def test_between_two_bursts_it_sleeps_and_the_second_is_held_until_it_wakes():
    burst = [Arrival(float(step), 60, 10) for step in range(60)]
    trace = [*burst, *(replace(arrival, time=arrival.time + 1500) for arrival in burst)]
    always = play(Octavo(POLICY), trace, MACHINE, startup=20, start=1, slo=2.0)
    sleeps = play(Octavo(replace(POLICY, idle_after=120.0)), trace, MACHINE, startup=20, start=1, slo=2.0)
    assert sleeps.replica_hours < always.replica_hours / 2
    assert 20 <= sleeps.violations < 30, "those that came during the start of the first replica, and a few behind them"
    assert always.violations == 0
    numbers = [number for _, number in sleeps.replicas]
    asleep, awake = (time for time, _ in sleeps.replicas[numbers.index(0) :][:2])
    assert 180 <= asleep <= 190
    assert 1500 <= awake <= 1502
    assert "▁" in chart(sleeps, trace[-1].time, sleeps.most)


def test_knative_is_told_what_a_replica_runs_at_once():
    small, long = (Arrival(0.0, prompt, 200) for prompt in (300, 1900))
    assert runs_at_once(MACHINE, [small, small]) == 4
    assert runs_at_once(MACHINE, [long, long]) == 4096 / 2000


def test_a_run_is_reproducible():
    first, second = (play(Octavo(POLICY), overload(60), MACHINE, startup=20, start=1, slo=2.0) for _ in range(2))
    assert first == second


# --- report and command -----------------------------------------------------------------------------------------------

OUTCOME = Outcome("octavo", 200, 5, 0.25, 1.5, 1.25, 4, 1, ((0.0, 1), (50.0, 4)))


def test_the_table_has_what_counts():
    header, row, _, _, line, _ = table([OUTCOME], duration=100, gpus=2).split("\n")
    assert header.split() == [
        "scaler",
        "requests",
        "late",
        "late",
        "%",
        "TTFT",
        "p50",
        "TTFT",
        "p95",
        "GPU-hours",
        "most",
        "turns",
    ]
    assert row.split() == ["octavo", "200", "5", "2.5%", "0.25s", "1.50s", "2.50", "4", "1"]
    assert line.split()[1] == "▂" * 20 + "█" * 20
    assert "replica-hours" in table([OUTCOME], duration=100, gpus=0)


def test_a_chart_is_relative_to_the_highest_of_all():
    assert set(chart(OUTCOME, 100, 8)) == {"▁", "▄"}


@pytest.fixture
def policy_file(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text(POLICY_FILE)
    return str(path)


def test_the_command_plays_a_file_against_rivals(policy_file, tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    trace.write_text("time,prompt_tokens,output_tokens\n" + "".join(f"{step},50,5\n" for step in range(20)))
    assert main(["replay", "--policy", policy_file, "--trace", str(trace), "--rivals"]) == 0
    rows = [row.split()[:2] for row in capsys.readouterr().out.splitlines()[1:5]]
    assert rows == [["octavo", "20"], ["hpa-queue", "20"], ["keda-kv", "20"], ["knative", "20"]]


def test_two_policies_are_compared_by_their_files_names(policy_file, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(POLICY_FILE)
    arguments = ["--policy", policy_file, "--policy", str(other), "--generate", "ramp", "--duration", "30"]
    assert main(["replay", *arguments]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:3]] == ["chat", "other"]


def test_a_fields_values_are_tried_in_all_combinations(policy_file, capsys):
    arguments = ["--policy", policy_file, "--generate", "ramp", "--duration", "30"]
    tried = ["--try", "autoscaling.targets.waitingPerReplica=2,9"]
    tried += ["--try", "spec.autoscaling.behavior.scaleDown.stabilizationWindow=null,2m"]
    assert main(["replay", *arguments, *tried]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in lines[1:5]] == ["2/null", "2/2m", "9/null", "9/2m"]


def test_a_value_that_is_tried_reaches_the_policy():
    spec = {"autoscaling": {"maxReplicas": 3, "targets": {"waitingPerReplica": 2}}}
    tried = vary(spec, [trial("autoscaling.maxReplicas=4"), trial("autoscaling.slo.ttftP95=2s,null")])
    assert tried == {
        "4/2s": {"autoscaling": {"maxReplicas": 4, "targets": {"waitingPerReplica": 2}, "slo": {"ttftP95": "2s"}}},
        "4/null": {"autoscaling": {"maxReplicas": 4, "targets": {"waitingPerReplica": 2}, "slo": {}}},
    }
    assert spec["autoscaling"]["maxReplicas"] == 3


def test_a_star_is_at_those_that_no_other_one_beats():
    """Few late for many hours, and many for few; not who has as many as another for more hours."""
    costs = {"dear": (5, 3.0), "cheap": (9, 1.0), "beaten": (9, 1.5), "even": (5, 3.0)}
    found = [replace(OUTCOME, scaler=name, violations=late, replica_hours=h) for name, (late, h) in costs.items()]
    rows = table(found, duration=100, gpus=1).splitlines()[1:5]
    assert [row.split()[0] for row in rows if row.endswith("*")] == ["dear", "cheap", "even"]


@pytest.mark.parametrize("text", ["autoscaling", "autoscaling.maxReplicas=", "a..b=1", "=1", "a=1,,2", "a=[1,{"])
def test_what_cannot_be_tried_is_refused(text, policy_file, capsys):
    with pytest.raises(SystemExit):
        main(["replay", "--policy", policy_file, "--generate", "ramp", "--try", text])
    assert "--try" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--cost", "cheap", "cheap: must be a number above 0"),
        ("--kv-tokens", "16k", "16k: must be a whole number of at least 1024"),
        ("--from", "yesterday", "yesterday: must be a time such as"),
        ("--to", "2026-11-25T08:00:00", "must end in Z"),
    ],
)
def test_a_value_that_is_none_is_told_beside_its_flag(flag, value, words, policy_file, capsys):
    with pytest.raises(SystemExit):
        main(["replay", "--policy", policy_file, "--generate", "ramp", flag, value])
    said = capsys.readouterr().err
    assert flag in said
    assert words in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--policy", "{policy}", "--generate", "ramp", "--try", "autoscaling.maxReplicas=3,0"],
            "with 0: spec.autoscaling.maxReplicas",
        ),
        (
            ["--policy", "{policy}", "--generate", "ramp", "--try", "autoscaling.maxReplicas.x=1"],
            "--try autoscaling.maxReplicas.x: maxReplicas has no fields",
        ),
        (
            ["--policy", "{policy}", "--policy", "{fixed}", "--generate", "ramp", "--try", "autoscaling.maxReplicas=1"],
            "with one --policy alone",
        ),
        (
            ["--policy", "{policy}", "--generate", "ramp"]
            + [f"--try=autoscaling.{field}Replicas={','.join(map(str, range(1, 12)))}" for field in ("min", "max")],
            "--try: 121 combinations; at most 100",
        ),
        (["--policy", "/no/such.yaml", "--generate", "ramp"], "--policy /no/such.yaml"),
        (["--policy", "{policy}", "--trace", "/no/such.csv"], "--trace /no/such.csv"),
        (["--policy", "{policy}", "--generate", "ramp", "--step-profile", "/no/such.json"], "--step-profile"),
        (["--policy", "{fixed}", "--generate", "ramp"], "has no spec.autoscaling"),
    ],
)
def test_what_does_not_fit_is_named(arguments, words, policy_file, tmp_path, capsys):
    fixed = tmp_path / "fixed.yaml"
    fixed.write_text("spec: {model: {source: {pvc: {claimName: models}}}}")
    filled = [argument.format(policy=policy_file, fixed=fixed) for argument in arguments]
    assert main(["replay", *filled]) == 64
    assert words in capsys.readouterr().err


def test_the_cost_is_that_of_the_budget_or_as_told(policy_file, tmp_path, capsys):
    priced = tmp_path / "priced.yaml"
    priced.write_text(
        POLICY_FILE.replace("minReplicas", "budget: {maxCostPerHour: '9', replicaCostPerHour: '2'}, minReplicas")
    )
    trace = ["--generate", "ramp", "--duration", "300", "--peak", "0.1"]
    for arguments, expected in (
        (["--policy", policy_file], None),
        (["--policy", policy_file, "--cost", "6"], 6),
        (["--policy", str(priced)], 2),
        (["--policy", str(priced), "--cost", "4"], 4),
    ):
        assert main(["replay", *arguments, *trace]) == 0
        header, row = (line.split() for line in capsys.readouterr().out.splitlines()[:2])
        assert (header[-1] == "cost") == (expected is not None)
        if expected is not None:
            assert float(row[-1]) == pytest.approx(expected * float(row[-4]), abs=0.05)


def test_the_page_is_well_formed_and_shows_every_scaler(policy_file, tmp_path):
    """Three pictures, a curve of each scaler in two of them, nothing from anywhere else."""
    path = tmp_path / "replay.html"
    arguments = ["--policy", policy_file, "--generate", "burst", "--duration", "20", "--rivals", "--plot", str(path)]
    assert main(["replay", *arguments]) == 0
    text = path.read_text()
    pictures = [ET.fromstring(part + "</svg>") for part in text[text.index("<svg") :].split("</svg>")[:-1]]
    assert [sum(1 for path in picture.iter("path")) - 1 for picture in pictures] == [1, 4, 4]
    assert all(name in text for name in ("octavo", "hpa-queue", "keda-kv", "knative"))
    assert "http" not in text
    assert "script" not in text


def test_the_curves_are_to_scale():
    """Half of the time one replica, then four: a quarter of the height, then all of it."""
    arrivals = [Arrival(float(second), 1, 1) for second in range(101)]
    text = page([replace(OUTCOME, late=(99.0, 100.0))], arrivals)
    assert 'd="M56.0 136.5H536.0V24.0H1016"' in text
    assert "2.5% late" in text


def test_a_page_that_cannot_be_written_is_named(policy_file, capsys):
    arguments = ["--generate", "ramp", "--duration", "30", "--plot", "/no/such/folder.html"]
    assert main(["replay", "--policy", policy_file, *arguments]) == 64
    assert "--plot /no/such/folder.html" in capsys.readouterr().err


def test_a_trace_without_a_column_names_it():
    with pytest.raises(SettingsError, match=r"x\.csv, line 1: no column output_tokens in time, prompt_tokens"):
        read_csv(["time,prompt_tokens", "0,5"], "x.csv")

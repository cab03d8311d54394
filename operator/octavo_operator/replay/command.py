"""`octavo-operator replay`: from a ModelServer's YAML and a trace to a table, and to a page with curves."""

import argparse
from pathlib import Path

import yaml

from octavo_operator.core.errors import SettingsError, SpecError
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.profiles import BUILT_IN, settle
from octavo_operator.core.spec import ModelServerSpec, parse_spec
from octavo_operator.core.units import parse_quantity
from octavo_operator.replay.history import arrivals_of
from octavo_operator.replay.plot import page
from octavo_operator.replay.replica import Machine, read_step_time
from octavo_operator.replay.report import table
from octavo_operator.replay.run import Outcome, play
from octavo_operator.replay.scalers import Octavo, Scaler, rivals
from octavo_operator.replay.trace import Arrival, generate, read_csv


def replay(options: argparse.Namespace) -> str:
    """The report. SettingsError names what does not fit."""
    specs = {path: _spec(Path(path)) for path in options.policy}
    trace = _trace(options)
    machine = _machine(next(iter(specs.values())), options)
    outcomes: list[Outcome] = []
    for name, spec in specs.items():
        policy = _policy(spec)
        label = "octavo" if len(specs) == 1 else Path(name).stem[:11]
        outcomes.append(_play(Octavo(policy, name=label), policy, trace, machine, options))
    first = _policy(next(iter(specs.values())))
    contest = rivals(first, machine, trace) if options.rivals else []
    outcomes += [_play(rival, first, trace, machine, options) for rival in contest]
    replica = next(iter(specs.values()))
    gpus = replica.accelerator.gpus if replica.accelerator else 0
    if options.plot:
        _write(Path(options.plot), page(outcomes, trace))
    return table(outcomes, duration=trace[-1].time, gpus=gpus, price=_price(replica, options.cost))


def _price(replica: ModelServerSpec, given: float | None) -> float | None:
    """Of a replica for an hour: as told, else as budgeted."""
    budget = replica.autoscaling.budget if replica.autoscaling else None
    known = budget.replica_cost_per_hour if budget else None
    return given or (float(parse_quantity(known)) if known else None)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise SettingsError(f"--plot {path}: {error}") from error


def _play(
    scaler: Scaler, policy: ScalingPolicy, trace: list[Arrival], machine: Machine, options: argparse.Namespace
) -> Outcome:
    slo = policy.ttft_p95 or options.slo
    return play(scaler, trace, machine, startup=options.startup, start=policy.min_replicas, slo=slo)


def _spec(path: Path) -> ModelServerSpec:
    try:
        raw = yaml.safe_load(path.read_text())
        spec = settle(parse_spec(raw["spec"]), BUILT_IN)
    except (OSError, yaml.YAMLError, TypeError, KeyError, SpecError) as error:
        raise SettingsError(f"--policy {path}: {error}") from error
    if spec.autoscaling is None:
        raise SettingsError(f"--policy {path}: has no spec.autoscaling")
    return spec


def _policy(spec: ModelServerSpec) -> ScalingPolicy:
    """Schedules are those of the epoch: a trace has no date."""
    assert spec.autoscaling is not None, "checked when it was read"
    return ScalingPolicy.of(spec, spec.autoscaling, now=0.0)


def _trace(options: argparse.Namespace) -> list[Arrival]:
    if options.prometheus is not None:
        return arrivals_of(options)
    if options.trace is None:
        return generate(options.generate, duration=options.duration, peak=options.peak, seed=options.seed)
    try:
        with Path(options.trace).open(newline="") as lines:
            return read_csv(lines, options.trace)
    except OSError as error:
        raise SettingsError(f"--trace {options.trace}: {error}") from error


def _machine(spec: ModelServerSpec, options: argparse.Namespace) -> Machine:
    plain = Machine()
    try:
        step_time = read_step_time(Path(options.step_profile)) if options.step_profile else plain.step_time
    except (OSError, ValueError) as error:
        raise SettingsError(f"--step-profile: {error}") from error
    return Machine(
        kv_tokens=options.kv_tokens,
        max_num_seqs=spec.runtime.max_num_seqs or plain.max_num_seqs,
        max_num_batched_tokens=spec.runtime.max_batched_tokens or plain.max_num_batched_tokens,
        step_time=step_time,
    )

"""`octavo-operator replay`: from a ModelServer's YAML and a trace to a table, and to a page with curves."""

import argparse
from pathlib import Path
from typing import Any

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
from octavo_operator.replay.variants import vary


def replay(options: argparse.Namespace) -> str:
    """The report. SettingsError names what does not fit."""
    specs = _specs(options)
    replica = next(iter(specs.values()))
    trace, machine, first = _trace(options), _machine(replica, options), _policy(replica)
    outcomes: list[Outcome] = []
    for label, spec in specs.items():
        policy = _policy(spec)
        outcomes.append(_play(Octavo(policy, name=label), policy, trace, machine, options))
    contest = rivals(first, machine, trace) if options.rivals else []
    outcomes += [_play(rival, first, trace, machine, options) for rival in contest]
    gpus = replica.accelerator.gpus if replica.accelerator else 0
    if options.plot:
        _write(Path(options.plot), page(outcomes, trace))
    return table(outcomes, duration=trace[-1].time, gpus=gpus, price=_price(replica, options.cost))


def _specs(options: argparse.Namespace) -> dict[str, ModelServerSpec]:
    """The policies to play, by what their rows are called."""
    raws = {path: _raw(path) for path in options.policy}
    if not options.trials:
        alone = len(raws) == 1
        return {"octavo" if alone else Path(path).stem[:11]: _spec(raw, path) for path, raw in raws.items()}
    if len(raws) > 1:
        raise SettingsError("--try: with one --policy alone")
    (path, raw), *_ = raws.items()
    return {label: _spec(one, f"{path} with {label}") for label, one in vary(raw, options.trials).items()}


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


def _raw(path: str) -> dict[str, Any]:
    try:
        spec = yaml.safe_load(Path(path).read_text())["spec"]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise SettingsError(f"--policy {path}: {error}") from error
    if not isinstance(spec, dict):
        raise SettingsError(f"--policy {path}: its spec has no fields")
    return spec


def _spec(raw: dict[str, Any], where: str) -> ModelServerSpec:
    try:
        spec = settle(parse_spec(raw), BUILT_IN)
    except SpecError as error:
        raise SettingsError(f"--policy {where}: {error}") from error
    if spec.autoscaling is None:
        raise SettingsError(f"--policy {where}: has no spec.autoscaling")
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

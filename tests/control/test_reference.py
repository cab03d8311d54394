"""operator/STATUS.md names what there is, so that nobody has to read the code for it."""

import re
from pathlib import Path

import pytest

from octavo_operator.activator.metrics import Metrics as ActivatorMetrics
from octavo_operator.core.names import ENDINGS, Condition, Reason
from octavo_operator.metrics import Metrics
from octavo_operator.store import Store
from octavo_operator.tally import Tally

TEXT = (Path(__file__).parents[2] / "operator/STATUS.md").read_text()
NAMED = set(re.findall(r"`([\w.]+)(?:\{[^}`]*\})?`", TEXT))


def constants(holder):
    return {value for name, value in vars(holder).items() if name.isupper()}


@pytest.fixture(scope="module")
def metrics():
    families = [*Metrics().registry.collect(), *ActivatorMetrics().registry.collect(), *Tally(Store()).collect()]
    return {family.name + "_total" * (family.type == "counter") for family in families}


def test_every_condition_is_named():
    assert constants(Condition) <= NAMED


def test_every_metric_is_named_and_no_other(metrics):
    assert {name for name in NAMED if re.match("octavo_(operator|activator)_", name)} == metrics


def test_every_end_of_a_container_is_named():
    assert ENDINGS <= NAMED


def test_every_reason_is_one_that_is_given():
    words = {name for name in NAMED if re.fullmatch(r"(?:[A-Z][a-z]+|OOM|SLO)+", name)}
    assert words <= constants(Reason) | constants(Condition) | {"True", "False", "Unknown"}

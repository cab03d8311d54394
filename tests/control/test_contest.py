"""Who else scales the Deployment: seen in what has to be put back, told when it happens again and again."""

import copy

import pytest

from octavo_operator.core.contest import FEWEST, NO_CONTEST, WINDOW_SECONDS, follow
from octavo_operator.core.manifest import Defaults, Owner
from octavo_operator.core.plan import make_plan
from octavo_operator.core.render import render
from octavo_operator.core.spec import parse_spec

OWNER = Owner("default", "chat", "uid-1")
DEFAULTS = Defaults(runtime_image="example.invalid/runtime:1")


@pytest.fixture
def plan(raw_spec):
    """The plan for 2 replicas where the Deployment was applied with `applied`, and has what `edit` makes of it."""

    def build(edit=None, applied=2):
        spec = parse_spec(raw_spec())
        observed = {child["kind"]: copy.deepcopy(child) for child in render(spec, OWNER, applied, DEFAULTS)}
        if edit:
            edit(observed["Deployment"])
        return make_plan(render(spec, OWNER, 2, DEFAULTS), observed)

    return build


def scaled(deployment):
    deployment["spec"]["replicas"] = 7


def test_again_and_again_is_a_contest_and_it_ends_when_it_is_over(plan):
    contest = NO_CONTEST
    for number in range(FEWEST):
        assert not contest.goes_on
        contest = follow(contest, plan(scaled), 7, 1000.0 + 15 * number)
    assert (contest.goes_on, contest.last) == (True, 7)
    later = 1000.0 + 15 * (FEWEST - 1)
    assert follow(contest, plan(), 2, later + 1).goes_on
    assert not follow(contest, plan(), 2, 1000.0 + WINDOW_SECONDS).goes_on
    assert not follow(contest, plan(), 2, 0.0).goes_on, "a clock that jumped back"


def test_our_own_scaling_and_other_edits_are_none(plan):
    def pulled(deployment):
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "x"

    for made in (plan(), plan(applied=3), plan(pulled)):
        assert follow(NO_CONTEST, made, 2, 1000.0) == NO_CONTEST

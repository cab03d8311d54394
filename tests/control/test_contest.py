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
def look(raw_spec):
    """One look at a Deployment applied with `applied` replicas that is now what `edit` makes of it; 2 are wanted."""

    def follow_on(contest, now, *, generation=1, edit=None, applied=2):
        spec = parse_spec(raw_spec())
        observed = {child["kind"]: copy.deepcopy(child) for child in render(spec, OWNER, applied, DEFAULTS)}
        deployment = observed["Deployment"]
        deployment["metadata"]["generation"] = generation
        if edit:
            edit(deployment)
        return follow(contest, make_plan(render(spec, OWNER, 2, DEFAULTS), observed), deployment, now)

    return follow_on


def scaled(deployment):
    deployment["spec"]["replicas"] = 7


def test_again_and_again_is_a_contest_and_it_ends_when_it_is_over(look):
    contest = NO_CONTEST
    for number in range(FEWEST):
        assert not contest.goes_on
        contest = look(contest, 1000.0 + 15 * number, generation=2 * number + 1, edit=scaled)
    assert (contest.goes_on, contest.last) == (True, 7)
    later = 1000.0 + 15 * (FEWEST - 1)
    assert look(contest, later + 1, generation=9).goes_on
    assert not look(contest, 1000.0 + WINDOW_SECONDS, generation=9).goes_on
    assert not look(contest, 0.0, generation=9).goes_on, "a clock that jumped back"


def test_one_change_that_is_seen_again_and_again_is_one(look):
    """The write that puts it back met a conflict."""
    contest = NO_CONTEST
    for second in range(10):
        contest = look(contest, 1000.0 + second, generation=5, edit=scaled)
    assert len(contest.times) == 1


def test_our_own_scaling_and_other_edits_are_none(look):
    def pulled(deployment):
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "x"

    for changes in ({}, {"applied": 3}, {"edit": pulled}):
        assert look(NO_CONTEST, 1000.0, **changes) == NO_CONTEST

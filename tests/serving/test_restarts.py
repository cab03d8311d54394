"""When an engine that ended is started again."""

from octavo_runtime.engine.restarts import WINDOW, GiveUp, Restart, RestartPolicy


def test_an_engine_that_was_ready_is_started_again_at_once():
    assert RestartPolicy(5).engine_died(10.0, was_ready=True) == Restart(0.0, "it had been ready")


def test_an_engine_that_never_was_ready_is_not_started_again():
    assert RestartPolicy(5).engine_died(10.0, was_ready=False) == GiveUp("it could not start")


def test_starts_that_fail_in_a_row_wait_longer_each_time_up_to_a_bound():
    policy = RestartPolicy(100)
    policy.engine_died(0.0, was_ready=True)
    assert [policy.engine_died(0.0, was_ready=False).delay for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert policy.engine_died(0.0, was_ready=True).delay == 0
    assert policy.engine_died(0.0, was_ready=False).delay == 1


def test_more_deaths_than_allowed_within_the_window_are_the_end():
    policy = RestartPolicy(3)
    assert all(isinstance(policy.engine_died(float(at), was_ready=True), Restart) for at in range(3))
    assert policy.engine_died(WINDOW - 1, was_ready=True) == GiveUp("it ended 4 times within 600 s; 3 are allowed")


def test_deaths_that_are_older_than_the_window_do_not_count():
    policy = RestartPolicy(1)
    for number in range(20):
        assert isinstance(policy.engine_died(number * WINDOW, was_ready=True), Restart)


def test_no_restart_where_none_is_allowed():
    assert isinstance(RestartPolicy(0).engine_died(0.0, was_ready=True), GiveUp)

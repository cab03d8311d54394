"""Processes are known by pid and start time, so that a recycled pid is never taken for ours."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.processes import (
    MARKER,
    identify,
    is_alive,
    marked_processes,
    read_pid_file,
    start_child,
    wait_until,
    write_pid_file,
)


@pytest.fixture
def me():
    process = identify(os.getpid())
    assert process is not None
    return process


def test_a_pid_file_gives_back_the_process_it_was_written_for(tmp_path, me):
    write_pid_file(tmp_path / "me.json", me)
    assert read_pid_file(tmp_path / "me.json") == me
    assert is_alive(me)


@pytest.mark.parametrize("change", [{"started": 1}, {"boot": "another-boot"}, {"pid": 2**22 + 1}])
def test_a_recycled_pid_another_boot_and_a_gone_pid_are_not_alive(me, change):
    assert not is_alive(replace(me, **change))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", json.dumps({"pid": 1}), json.dumps({"pid": 1, "x": 2})])
def test_a_pid_file_that_was_cut_off_names_nobody(tmp_path, content):
    (tmp_path / "cut.json").write_text(content)
    assert read_pid_file(tmp_path / "cut.json") is None


def test_a_zombie_is_not_alive():
    child = subprocess.Popen(["true"])
    # Until it is waited for, an ended child keeps its pid.
    assert wait_until(lambda: identify(child.pid) is None, timeout=90)
    child.wait()


def test_a_name_with_parentheses_and_spaces_does_not_confuse_the_parse(tmp_path):
    folder = tmp_path / "7"
    folder.mkdir()
    fields = ["S", *("0" for _ in range(18)), "4711", "0"]
    (folder / "stat").write_text(f"7 (a (b) c) {' '.join(fields)}\n")
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("boot\n")
    found = identify(7, tmp_path)
    assert found is not None
    assert (found.started, found.boot) == (4711, "boot")


def test_a_process_without_a_pid_file_is_found_by_its_mark(tmp_path):
    child = subprocess.Popen(["sleep", "600"], env={**os.environ, MARKER: str(tmp_path)})
    try:
        assert wait_until(lambda: marked_processes(tmp_path) == [child.pid], timeout=90)
        assert marked_processes(tmp_path / "other") == []
    finally:
        child.kill()
        child.wait()


def test_a_child_dies_with_the_process_that_started_it(tmp_path):
    program = (
        "import sys, time, pathlib; from cluster.processes import start_child; "
        "print(start_child('sleeper', ['sleep', '600'], pathlib.Path(sys.argv[1])).pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    # The signal is asked for just before the child's program starts: wait until that has happened.
    assert wait_until(lambda: b"sleep" in _command(pid), timeout=90)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: identify(pid) is None, timeout=90)


def _command(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def test_a_child_logs_to_its_own_file(tmp_path):
    child = start_child("speaker", ["echo", "hello"], tmp_path)
    assert child.wait() == 0
    assert (tmp_path / "logs" / "speaker.log").read_text() == "hello\n"

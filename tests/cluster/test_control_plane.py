"""The control plane for tests, on real binaries: it serves, survives an outage, and leaves nothing."""

import os
import shutil
import subprocess
import sys

import pytest

from cluster import ControlPlane
from cluster.control_plane import sweep_abandoned
from cluster.processes import ProcessId, identify, is_alive, wait_until, write_pid_file

pytestmark = pytest.mark.apiserver


def kubectl(plane, *arguments):
    command = [plane.kubectl, "--kubeconfig", plane.kubeconfig, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_it_serves_runs_controllers_survives_an_outage_and_leaves_nothing():
    with ControlPlane.start() as plane:
        folder, processes = plane.folder, [identify(plane.apiserver_pid), identify(plane.etcd_pid)]
        kubectl(plane, "create", "deployment", "web", "--image=web", "--replicas=2")
        assert wait_until(lambda: len(kubectl(plane, "get", "pods", "-o", "name").split()) == 2, timeout=120)

        plane.stop_apiserver()
        with pytest.raises(subprocess.CalledProcessError):
            kubectl(plane, "get", "pods")
        plane.restart_apiserver()
        assert len(kubectl(plane, "get", "pods", "-o", "name").split()) == 2
        processes.append(identify(plane.apiserver_pid))
    plane.stop()  # A second stop does nothing.

    assert not folder.exists()
    assert not [process for process in processes if process and is_alive(process)]


def test_it_dies_with_a_killed_owner_and_the_next_start_sweeps_its_folder(tmp_path):
    program = (
        "from cluster import ControlPlane\n"
        "p = ControlPlane.start(controller_manager=False)\n"
        "print(p.folder, p.apiserver_pid, p.etcd_pid, flush=True)\n"
        "p.wait()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
    assert owner.stdout is not None
    folder, *pids = owner.stdout.readline().split()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert wait_until(lambda: not [pid for pid in pids if identify(int(pid))], timeout=90)
    assert [str(swept) for swept in sweep_abandoned(tmp_path)] == [folder]
    assert not list(tmp_path.iterdir())


def test_a_folder_of_a_living_owner_is_not_swept(tmp_path):
    mine, dead, unclaimed = (tmp_path / f"octavo-control-plane-{name}" for name in ("mine", "dead", "unclaimed"))
    for folder in (mine, dead, unclaimed):
        folder.mkdir()
    me = identify(os.getpid())
    assert me is not None
    write_pid_file(mine / "owner.json", me)
    write_pid_file(dead / "owner.json", ProcessId(me.pid, me.started - 1, me.boot))
    assert sweep_abandoned(tmp_path) == [dead]
    assert mine.exists()
    shutil.rmtree(mine)

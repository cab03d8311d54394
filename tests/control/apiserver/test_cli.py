"""`kubectl octavo` as kubectl's own plugin, against a real API server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.apiserver


@pytest.fixture
def plugin(kube):
    """Runs `kubectl octavo …` with the kubeconfig of the test."""

    def run(*arguments):
        folders = (Path(kube.plane.kubectl).parent, Path(sys.executable).parent, os.environ["PATH"])
        path = os.pathsep.join(str(folder) for folder in folders)
        command = ["kubectl", "octavo", *arguments, "-n", kube.namespace, f"--kubeconfig={kube.plane.kubeconfig}"]
        environment = os.environ | {"PATH": path}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=180)

    return run


@pytest.mark.usefixtures("operator")
def test_it_shows_what_the_operator_wrote(kube, plugin, wait):
    kube.server()
    wait(kube.condition)
    listed, one, why = plugin("status"), plugin("status", "chat"), plugin("why", "chat")
    assert (listed.returncode, one.returncode, why.returncode) == (0, 0, 0), listed.stderr + one.stderr + why.stderr
    assert "chat" in listed.stdout
    assert wait(lambda: "Created" in plugin("status", "chat").stdout)  # an event
    assert "no autoscaling: 1 replicas" in why.stdout


def test_what_is_not_there_is_kubectls_own_error(plugin):
    done = plugin("why", "nobody")
    assert done.returncode == 1
    assert 'modelservers.octavo.dev "nobody" not found' in done.stderr

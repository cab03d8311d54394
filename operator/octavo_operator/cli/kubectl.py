"""Asks the cluster through the user's own kubectl."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Final

from octavo_operator.core import names

MODEL_SERVERS: Final = f"{names.PLURAL}.{names.GROUP}"
LEADER_WORKER_SETS: Final = "{0.plural}.{0.group}".format(names.RESOURCES["LeaderWorkerSet"])
TIMEOUT_SECONDS: Final = 60


class KubectlError(Exception):
    """kubectl is not there, or did not do what it was asked; the message is its own."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """`connection` are the flags that say which cluster; `scope` those that say which namespace."""

    connection: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()

    def get(self, *what: str) -> dict[str, Any]:
        """`kubectl get WHAT -o json`, parsed."""
        text = self._run("get", *what, "--output=json", *self.scope)
        try:
            answer = json.loads(text)
        except ValueError as error:
            raise KubectlError(f"kubectl get {' '.join(what)} printed no JSON: {error}") from error
        if not isinstance(answer, dict):
            raise KubectlError(f"kubectl get {' '.join(what)} printed no object")
        return answer

    def items(self, *what: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        return list(self.get(*what).get("items") or ())

    def _run(self, *arguments: str) -> str:
        program = shutil.which(os.environ.get("KUBECTL", "kubectl"))
        if program is None:
            raise KubectlError("kubectl was not found: put it on PATH, or name it in $KUBECTL")
        command = [program, *arguments, *self.connection, f"--request-timeout={TIMEOUT_SECONDS}s"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KubectlError(done.stderr.strip() or f"kubectl ended with status {done.returncode}")
        return done.stdout

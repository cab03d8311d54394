"""The main job in one command. Safe to interrupt at any point and to start again."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from cluster import ClusterError
from demo.live import Screen
from kit import chat, figures, install, target
from kit.kube import CommandError, wait_reachable, wait_until
from kit.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.kube import Kube, ModelServerView
    from kit.target import Target

MANIFEST = Path(__file__).with_name("modelserver.yaml")
QUESTION = "What is the capital of France?"
USERS = 10  # more than two replicas of maxNumSeqs 4 can run at once, so that some wait


def main() -> int:
    options = _parse(sys.argv[1:])
    screen = Screen()
    try:
        run(screen, options)
    except (ClusterError, CommandError, TimeoutError, target.TargetError) as error:
        screen.console.print(f"[bold red]demo:[/] {error}", style=None)
        return 1
    except KeyboardInterrupt:
        screen.console.print("\n[yellow]interrupted[/]; `make demo` goes on from here, `make cluster-down` removes all")
        return 130
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    target.add_arguments(parser)
    return parser.parse_args(arguments)


def run(screen: Screen, options: argparse.Namespace) -> None:
    began = time.monotonic()
    with screen.step("a Kubernetes cluster"):
        where = target.bring_up(options)
    with screen.step("the images of operator and runtime"):
        images = target.build_images(options)
    with screen.step("the operator, from charts/octavo"):
        install.install_chart(where.kube, operator_image=images.operator, runtime_image=images.runtime)
    manifest = yaml.safe_load(MANIFEST.read_text())
    name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
    with screen.step("a model on a volume: SmolLM2-135M-Instruct"):
        install.make_namespace(where.kube, namespace)
        _put_model(where, namespace, images.runtime)
    with screen.step(f"kubectl apply -f {MANIFEST.relative_to(install.ROOT)}, until it answers"):
        _apply_and_ask(screen, where, name, namespace)
    with screen.step("load until a second replica is ready, then none until it is gone"):
        _scale_up_and_down(screen, where, name, namespace)
    figures.record("make demo, all built before", goal="under 180 s", value=f"{time.monotonic() - began:.0f} s")
    _farewell(screen, where, name, namespace)


def _put_model(where: Target, namespace: str, image: str) -> None:
    folder = where.volumes / namespace
    install.put_model(where.kube, target.demo_model(), namespace=namespace, folder=folder, image=image)


def _apply_and_ask(screen: Screen, where: Target, name: str, namespace: str) -> None:
    if where.kube.modelserver(name, namespace) is not None:
        screen.say("an earlier run's ModelServer is there: removed, to start from nothing")
        where.kube.kubectl("delete", "-f", str(MANIFEST), "--wait=true")
        wait_until("its pods to be gone", lambda: not where.kube.pods(name, namespace), seconds=180)
    began = time.monotonic()
    where.kube.kubectl("apply", "-f", str(MANIFEST))
    screen.follow("Ready", _look(where.kube, name, namespace), lambda view: view.ready, seconds=300)
    wait_reachable(where.url(name, namespace))
    screen.say(f"Q: {QUESTION}")
    first = asyncio.run(_ask(screen, where.url(name, namespace), name))
    screen.say(f"first token {first - began:.1f} s after kubectl apply")
    figures.record("kubectl apply to first streamed token", goal="under 60 s", value=f"{first - began:.1f} s")


async def _ask(screen: Screen, url: str, model: str) -> float:
    """Print the streamed answer; return when its first piece came (time.monotonic())."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 48, "temperature": 0}
    first = 0.0
    screen.console.print("   A: ", end="")
    async with chat.one_connection_each() as session:
        async for piece in chat.stream_chat(session, url, body):
            first = first or piece.at
            screen.console.print(piece.text, end="", markup=False, style="bold")
    screen.console.print()
    return first


def _scale_up_and_down(screen: Screen, where: Target, name: str, namespace: str) -> None:
    """Two replicas under load, one without. One user goes on streaming all the time, to see that nothing is cut."""
    look = _look(where.kube, name, namespace)
    url = where.url(name, namespace)
    with Load(url, name, users=1) as steady:
        with Load(url, name, users=USERS, seed=1) as load:
            screen.say(f"{USERS + 1} users ask at once")
            tallies = (steady.tally, load.tally)
            up = screen.follow(
                "two ready replicas", look, lambda v: v.ready_replicas >= 2, seconds=300, tallies=tallies
            )
            _say_decision(screen, up)
            screen.console.print(where.kube.kubectl("get", "modelservers", "-n", namespace), markup=False)
            screen.say(f"{USERS} users leave when their answers are whole, one stays")
        load.tally.assert_whole()
        down = screen.follow(
            "one replica", look, lambda v: v.desired_replicas == 1, seconds=180, tallies=(steady.tally,)
        )
        _say_decision(screen, down)
        wait_until("the second pod to be gone", lambda: len(where.kube.pods(name, namespace)) == 1, seconds=120)
    steady.tally.assert_whole()
    streams = load.tally.finished + steady.tally.finished
    screen.say(f"{streams} streams, none failed, none cut")
    figures.record("streams lost in the demo's scale-up and scale-down", goal="0", value=f"0 of {streams}")


def _say_decision(screen: Screen, view: ModelServerView) -> None:
    told = view.last_decision
    screen.say(f"decision: {told.get('from')} -> {told.get('to')}, {told.get('reason')}: {told.get('message')}")


def _look(kube: Kube, name: str, namespace: str) -> Callable[[], ModelServerView | None]:
    return lambda: kube.modelserver(name, namespace)


def _farewell(screen: Screen, where: Target, name: str, namespace: str) -> None:
    url = where.lasting_url(name, namespace)
    screen.console.print(
        f"""
Talk to it:
  {where.shell_hint}
  kubectl get modelservers -n {namespace}
  curl {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{name}", "messages": [{{"role": "user", "content": "{QUESTION}"}}], "stream": true}}'
Remove it:
  kubectl delete namespace {namespace}     the model server alone
  {where.removal_hint}
""",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())

"""How nodes find each other and who is let in: flags, the handshake, and a door on loopback."""

import asyncio
import contextlib
import socket
import threading
import time
from dataclasses import replace

import msgspec
import pytest

from cluster.ports import free_ports
from octavo_runtime.config import ServeConfig
from octavo_runtime.errors import EngineFailed, InvalidArgument
from octavo_runtime.model.identity import fingerprint
from octavo_runtime.model.info import read_model_info
from octavo_runtime.parallel import frames, handshake, interfaces, joining
from octavo_runtime.parallel.gathering import Gathering
from octavo_runtime.parallel.handshake import Challenge, Doorkeeper, NotNow, is_genuine, make_hello, terms_of
from octavo_runtime.parallel.messages import Meeting, Refused
from octavo_runtime.parallel.topology import Topology, contradiction

MEETING = Meeting("127.0.0.1", 29501, "first")
CHALLENGE = Challenge(handshake.PROTOCOL, b"c" * 32)


def config_of(**settings):
    given = {"tensor_parallel_size": 4, "nodes": 2, "leader_address": "llm-0.llm.ns", "node_rank": 1} | settings
    return ServeConfig("m", **given)


def test_each_node_has_its_neighbouring_ranks():
    topology = Topology(size=6, nodes=3)
    assert [list(topology.ranks_of(node)) for node in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert [topology.local_index(rank) for rank in range(6)] == [0, 1, 0, 1, 0, 1]


def test_flags_as_a_leader_worker_set_expands_them_are_taken():
    assert contradiction(config_of()) is None
    assert contradiction(config_of(leader_address="fd00::a1", nodes=4, node_rank=3)) is None
    alone = config_of(nodes=1, node_rank=0, leader_address="$(LWS_LEADER_ADDRESS)")
    assert contradiction(alone) is None, "one node never looks for its leader"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"node_rank": 2}, "--node-rank 2: with --nodes 2 it must be 0 to 1"),
        ({"nodes": 1}, "--node-rank 1: with --nodes 1 it must be 0"),
        ({"nodes": 3}, "--tensor-parallel-size 4 is not a multiple of --nodes 3"),
        ({"tensor_parallel_size": 1}, "--tensor-parallel-size 1 is not a multiple of --nodes 2"),
        ({"leader_address": None}, "--nodes 2 needs --leader-address"),
        ({"leader_address": "$(LWS_LEADER_ADDRESS)"}, "--leader-address '$(LWS_LEADER_ADDRESS)' is neither"),
        ({"port": 29500}, "--port 29500: --leader-port 29500 takes the ports 29500 and 29501"),
        ({"port": 8001, "leader_port": 8000}, "--port 8001: --leader-port 8000 takes"),
    ],
)
def test_flags_that_contradict_each_other_are_refused_by_name_and_value(settings, message):
    assert message in contradiction(config_of(**settings))


def terms(**changes):
    return replace_terms(terms_of(config_of(), "1.2.3", "a" * 64), **changes)


def replace_terms(old, **changes):
    return msgspec.structs.replace(old, **changes)


def judged(theirs, *, node_rank=1, token="t", leaders_token="t", taken=()):
    hello = make_hello(theirs, node_rank, CHALLENGE, b"n" * 32, token)
    return Doorkeeper(terms(), 3, leaders_token).judge(hello, CHALLENGE, taken)


def test_a_node_of_the_group_is_let_in():
    assert judged(terms()) is None
    assert judged(terms(), node_rank=2, taken={1}) is None
    assert judged(terms(), token="", leaders_token="") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "1.2.4"}, "Octavo 1.2.4 here, 1.2.3 at the leader"),
        ({"model": "b" * 64}, "MODEL: another one here (bbbbbbbbbbbb) than at the leader (aaaaaaaaaaaa)"),
        ({"flags": terms().flags | {"block_size": "32"}}, "--block-size 32 here, 16 at the leader"),
        ({"flags": terms().flags | {"nodes": "4"}}, "--nodes 4 here, 2 at the leader"),
        ({"flags": {}}, "--tensor-parallel-size None here, 4 at the leader"),
    ],
)
def test_a_node_that_would_compute_something_else_is_refused_by_name(changes, message):
    assert judged(terms(**changes)) == Refused("InvalidArgument", message)


def test_all_that_decides_what_a_rank_computes_is_compared():
    assert set(terms().flags) <= set(ServeConfig.__slots__)
    for name, other in {"dtype": "bfloat16", "kv_cache_dtype": "fp8_e4m3", "max_model_len": 9}.items():
        theirs = terms_of(replace(config_of(), **{name: other}), "1.2.3", "a" * 64)
        assert f"--{name.replace('_', '-')} {other} here" in judged(theirs).message


def test_who_does_not_know_the_token_learns_nothing_else():
    wrong = "OCTAVO_GROUP_TOKEN is not the leader's"
    assert judged(terms(version="9"), token="guess").message == wrong
    assert judged(terms(), token="").message == wrong
    assert judged(terms(), leaders_token="").message == wrong
    stolen = make_hello(terms(), 1, CHALLENGE, b"n" * 32, "t")
    later = Challenge(handshake.PROTOCOL, b"d" * 32)
    assert Doorkeeper(terms(), 3, "t").judge(stolen, later, ()).message == wrong
    changed = msgspec.structs.replace(stolen, node_rank=2)
    assert Doorkeeper(terms(), 3, "t").judge(changed, CHALLENGE, ()).message == wrong


def test_a_place_that_is_taken_and_another_groups_leader_may_be_tried_again():
    assert judged(terms(), taken={1}) == NotNow("--node-rank 1 is there already")
    other = judged(terms(leader="llm-1.llm.ns"))
    assert other == NotNow("--leader-address llm-1.llm.ns: this is the leader of llm-0.llm.ns")
    assert isinstance(judged(terms(), node_rank=3), Refused)
    assert isinstance(judged(terms(), node_rank=0), Refused)


def test_a_leader_without_the_token_is_found_out():
    hello = make_hello(terms(), 1, CHALLENGE, b"n" * 32, "t")
    welcome = Doorkeeper(terms(), 3, "t").welcome(hello, MEETING)
    assert is_genuine(welcome, hello, "t")
    assert not is_genuine(Doorkeeper(terms(), 3, "guess").welcome(hello, MEETING), hello, "t")
    elsewhere = msgspec.structs.replace(welcome, meeting=msgspec.structs.replace(MEETING, port=1))
    assert not is_genuine(elsewhere, hello, "t")
    assert not is_genuine(welcome, msgspec.structs.replace(hello, nonce=b"o" * 32), "t")


def test_a_fingerprint_changes_with_weights_and_configuration(sim_model, tmp_path):
    import shutil

    folder = shutil.copytree(sim_model, tmp_path / "copy")
    info = read_model_info(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(300_000))
    before = fingerprint(info)
    assert fingerprint(info) == before
    for place in (0, 150_000, 299_999):
        changed = bytearray(300_000)
        changed[place] = 1
        weights.write_bytes(changed)
        assert fingerprint(info) != before, place
    weights.write_bytes(bytes(300_000))
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert fingerprint(info) != before


def test_a_message_that_is_too_large_is_none():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(frames.frame(b"12345"))
        assert frames.receive(ours, limit=5) == b"12345"
        theirs.sendall(frames.frame(b"123456")[:4])
        with pytest.raises(frames.FrameTooLargeError, match="6 bytes; 5"):
            frames.receive(ours, limit=5)
        with pytest.raises(TimeoutError):
            frames.receive(ours, limit=5, deadline=time.monotonic())
        theirs.close()
        with pytest.raises(EOFError):
            frames.receive(ours, limit=5)


def test_loopback_has_an_interface_and_addresses_are_written_plainly():
    assert interfaces.interface_of("127.0.0.1") == interfaces.interface_of("::1") == "lo"
    assert interfaces.interface_of("203.0.113.7") is None
    assert interfaces.plain("::ffff:10.0.0.5") == "10.0.0.5"
    assert interfaces.plain("fe80::1%eth0") == "fe80::1"
    assert interfaces.is_literal("fd00::1")
    assert not interfaces.is_literal("llm-0.llm.ns")


class Door:
    """A leader's door in a thread, and the flags of nodes that look for it."""

    def __init__(self, nodes=2, token="", **changes):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.config = config_of(
            tensor_parallel_size=nodes,
            nodes=nodes,
            leader_address="127.0.0.1",
            leader_port=self.listener.getsockname()[1],
            group_timeout=60.0,
        )
        keeper = Doorkeeper(self.terms(**changes), nodes, token)
        self.gathering = Gathering(self.listener, keeper)
        self.there = None
        self.beats = 0
        self.enough = threading.Event()

    def terms(self, **changes):
        import importlib.metadata

        ours = terms_of(self.config, importlib.metadata.version("octavo-runtime"), "model")
        return replace_terms(ours, **changes)

    def open(self):
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def run(self):
        try:
            self.there = self.gathering.wait(60.0, self.beat)
            self.gathering.welcome(MEETING)
        except EngineFailed:
            assert self.enough.is_set(), "nobody else may end it"

    def beat(self):
        self.beats += 1
        if self.thread is threading.current_thread() and self.enough.is_set():
            raise EngineFailed("the test has seen enough")

    def join(self, node_rank=1, **settings):
        return joining.join_group(replace(self.config, node_rank=node_rank, **settings), "model")

    def close(self):
        self.thread.join(60)
        self.listener.close()
        for candidate in (self.there or {}).values():
            candidate.connection.close()


async def test_nodes_are_welcomed_when_all_have_come_and_a_stranger_delays_nobody():
    door = Door(nodes=3).open()
    with (
        socket.create_connection(door.listener.getsockname()),
        socket.create_connection(door.listener.getsockname()) as second,
    ):
        second.sendall(b"GET / HTTP/1.1\r\n\r\n")
        links = await asyncio.wait_for(asyncio.gather(door.join(1), door.join(2)), 60)
    assert [link.meeting for link in links] == [MEETING, MEETING]
    assert [link.interface for link in links] == ["lo", "lo"]
    assert sorted(door.there) == [1, 2]
    assert door.beats > 0
    for link in links:
        link.writer.close()
    door.close()


async def test_a_node_that_goes_before_all_have_come_may_come_again(wait_for):
    door = Door(nodes=3).open()
    first = asyncio.create_task(door.join(1))
    await asyncio.to_thread(wait_for, lambda: door.gathering._there, "the first is there")
    first.cancel()
    await asyncio.to_thread(wait_for, lambda: not door.gathering._there, "it has gone")
    links = await asyncio.wait_for(asyncio.gather(door.join(1), door.join(2)), 60)
    for link in links:
        link.writer.close()
    door.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": "secret"}, "OCTAVO_GROUP_TOKEN is not the leader's"),
        ({"version": "0.0.0"}, "at the leader"),
        ({"model": "other"}, "MODEL: another one here"),
    ],
)
async def test_who_does_not_belong_is_told_why_and_so_is_who_waits(changes, message):
    door = Door(**changes).open()
    with pytest.raises(InvalidArgument, match=message):
        await door.join()
    door.enough.set()
    with contextlib.suppress(OSError):  # it may have looked up by itself
        door.gathering._rope.send(b"!")
    door.close()
    with pytest.raises(
        EngineFailed, match=rf"node 1 of 2 did not join within 0 s; refused last: 127.0.0.1: .*{message}"
    ):
        door.gathering.wait(0.0, door.beat)


async def test_a_leader_that_is_not_found_in_time_is_named_with_the_reason():
    (port,) = free_ports(1)
    config = config_of(leader_address="127.0.0.1", leader_port=port, group_timeout=1.0)
    with pytest.raises(EngineFailed, match=rf"the leader at 127.0.0.1 port {port} did not .* within 1 s: .*Errno 111"):
        await joining.join_group(config, "model")

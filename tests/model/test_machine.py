"""Threads and memory from the control group, in trees as the kernel shows them."""

from __future__ import annotations

import os

import pytest
import torch

from octavo_runtime.model.info import read_model_info
from octavo_runtime.runner.cgroup import cpu_quota, free_memory
from octavo_runtime.runner.machine import choose_dtype, choose_step_tokens, choose_threads, host_free_memory

GIB = 1 << 30
UNLIMITED_V1 = 9223372036854771712


@pytest.fixture
def tree(tmp_path):
    """A root with the given files, `proc/self/cgroup` among them."""

    def make(files: dict[str, object]):
        for name, content in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{content}\n")
        return tmp_path

    return make


V2_CONTAINER = {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}
V2_NESTED = {
    "proc/self/cgroup": "0::/kubepods/pod1/c1",
    "sys/fs/cgroup/kubepods/pod1/c1/cpu.max": "max 100000",
    "sys/fs/cgroup/kubepods/pod1/cpu.max": "300000 100000",
    "sys/fs/cgroup/kubepods/cpu.max": "800000 100000",
}
V1_CONTAINER = {
    "proc/self/cgroup": "5:cpu,cpuacct:/kubepods/pod1/c1\n4:memory:/kubepods/pod1/c1",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": 250000,
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
}
V1_UNLIMITED = {
    "proc/self/cgroup": "1:cpu:/",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        (V2_CONTAINER, 1.5),
        (V2_NESTED, 3.0),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        (V1_CONTAINER, 2.5),
        (V1_UNLIMITED, None),
        ({"proc/self/cgroup": "0::/"}, None),
        ({}, None),
    ],
    ids=["v2", "v2 parent", "v2 unlimited", "v1", "v1 unlimited", "no files", "no cgroups"],
)
def test_cpu_quota(tree, files, quota):
    assert cpu_quota(tree(files)) == quota


@pytest.mark.parametrize(("quota", "threads"), [("20000", 1), ("199999", 1), ("200000", 2), ("900000", 4)])
def test_threads_are_whole_cpus_of_the_quota(tree, monkeypatch, quota, threads):
    """At least one, and never more than the CPUs that the process may run on."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    root = tree({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": f"{quota} 100000"})
    assert choose_threads(root) == threads


def test_threads_without_a_quota_are_the_allowed_cpus(tree, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 5, 6})
    assert choose_threads(tree({})) == 3


V2_MEMORY = {
    "proc/self/cgroup": "0::/",
    "sys/fs/cgroup/memory.max": 4 * GIB,
    "sys/fs/cgroup/memory.current": 3 * GIB,
    "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {GIB}\nactive_file 7",
}
V1_MEMORY = {
    "proc/self/cgroup": "4:memory:/pod/c",
    "sys/fs/cgroup/memory/pod/c/memory.limit_in_bytes": UNLIMITED_V1,
    "sys/fs/cgroup/memory/pod/c/memory.usage_in_bytes": GIB,
    "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": 8 * GIB,
    "sys/fs/cgroup/memory/pod/memory.usage_in_bytes": 2 * GIB,
    "sys/fs/cgroup/memory/pod/memory.stat": "total_inactive_file 512",
}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (V2_MEMORY, 2 * GIB),
        (V1_MEMORY, 6 * GIB + 512),
        ({**V2_MEMORY, "sys/fs/cgroup/memory.max": "max"}, None),
        ({**V2_MEMORY, "sys/fs/cgroup/memory.current": 9 * GIB}, 0),
        ({}, None),
    ],
    ids=["v2", "v1 parent", "unlimited", "over the limit", "no cgroups"],
)
def test_free_memory_of_the_group(tree, files, free):
    """The page cache that can be dropped counts as free."""
    assert free_memory(tree(files)) == free


@pytest.mark.parametrize(("available", "free"), [(1 << 20, GIB), (8 << 20, 2 * GIB)], ids=["host", "group"])
def test_the_host_and_the_group_both_bound_memory(tree, available, free):
    meminfo = {"proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {available} kB"}
    assert host_free_memory(tree({**V2_MEMORY, **meminfo})) == free


@pytest.mark.parametrize(
    ("asked", "checkpoint", "device", "cpu_has_bf16", "dtype"),
    [
        ("auto", "bfloat16", "cpu", False, torch.float32),
        ("auto", "bfloat16", "cpu", True, torch.bfloat16),
        ("auto", "float16", "cpu", True, torch.float32),
        ("auto", "float16", "cuda", False, torch.float16),
        ("auto", "bfloat16", "cuda", False, torch.bfloat16),
        ("bfloat16", "float32", "cpu", False, torch.bfloat16),
        ("float32", "bfloat16", "cuda", False, torch.float32),
    ],
)
def test_dtype(make_model, monkeypatch, *, asked, checkpoint, device, cpu_has_bf16, dtype):
    """Chosen by what the processor computes fast, unless it is asked for by name."""
    from dataclasses import replace

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    info = replace(read_model_info(make_model("Llama")), dtype=checkpoint)
    assert choose_dtype(asked, info, torch.device(device)) == dtype


def test_a_step_on_a_cpu_is_shorter_than_on_a_gpu():
    assert choose_step_tokens(torch.device("cpu")) < choose_step_tokens(torch.device("cuda"))

"""How many cores there are: whoever gives the fewest decides, and is named."""

import logging
import os
import sys

import numpy as np
import pytest

from definetti_np import Network, Trainer, cores, train
from definetti_np.simulation import stream

V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "36 31 0:33 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)
V2 = "31 23 0:28 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup rw,nsdelegate\n"
V1_GROUPS = "12:memory:/other\n4:cpu,cpuacct:{group}\n1:name=systemd:/x\n"
V2_GROUPS = "0::{group}\n"


def system(folder, mounts, groups, files, root="/"):
    """A folder that looks like the root of a system with these cgroups; files by their path below the mount."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/mountinfo").write_text(mounts.format(root=root))
    (folder / "proc/self/cgroup").write_text(groups)
    mount = folder / ("sys/fs/cgroup/cpu,cpuacct" if mounts is V1 else "sys/fs/cgroup")
    for path, text in files.items():
        (mount / path).parent.mkdir(parents=True, exist_ok=True)
        (mount / path).write_text(text)
    return folder


def v1(quota, period, group=""):
    return {f"{group}/cpu.cfs_quota_us".lstrip("/"): quota, f"{group}/cpu.cfs_period_us".lstrip("/"): period}


ABOVE = {"a/cpu.max": "200000 100000", "a/b/c/cpu.max": "max 100000"}
BOTH = {"a/cpu.max": "200000 100000", "a/b/cpu.max": "50000 100000"}
OUTSIDE = {"cpu.max": "400000 100000"}

SYSTEMS = {
    "version 2": (V2, "/a", {"a/cpu.max": "300000 100000\n"}, "/", [3]),
    "version 2, no quota": (V2, "/a", {"a/cpu.max": "max 100000\n"}, "/", []),
    "version 2, of a group above": (V2, "/a/b/c", ABOVE, "/", [2]),
    "version 2, of both": (V2, "/a/b", BOTH, "/", [0.5, 2]),
    "version 2, in a container": (V2, "/", {"cpu.max": "150000 100000"}, "/", [1.5]),
    "version 2, a container that sees its path outside": (V2, "/docker/1f/a", OUTSIDE, "/docker/1f", [4]),
    "version 2, a path that is not there": (V2, "/../outside", OUTSIDE, "/", [4]),
    "version 1": (V1, "/a", v1("300000\n", "100000\n", "a"), "/", [3]),
    "version 1, no quota": (V1, "/a", v1("-1\n", "100000\n", "a"), "/", []),
    "version 1, in a container": (V1, "/docker/1f", v1("250000", "50000"), "/docker/1f", [5]),
    "version 1, of a group above": (V1, "/slurm/job_1", v1("250000", "50000", "slurm"), "/", [5]),
    "garbage": (V2, "/a", {"a/cpu.max": "x y z\n"}, "/", []),
    "a period of 0": (V2, "/a", {"a/cpu.max": "100000 0\n"}, "/", []),
    "empty": (V2, "/a", {"a/cpu.max": ""}, "/", []),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_quota__of_cgroups(tmp_path, name):
    mounts, group, files, root, expected = SYSTEMS[name]
    groups = (V1_GROUPS if mounts is V1 else V2_GROUPS).format(group=group)
    assert sorted(cores._cgroup_quotas(system(tmp_path, mounts, groups, files, root))) == expected


def test_quota__of_both_versions_at_once(tmp_path):
    folder = system(tmp_path, V1, V1_GROUPS.format(group="/") + V2_GROUPS.format(group="/"), {})
    with open(folder / "proc/self/mountinfo", "a") as file:
        file.write("40 31 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
    (folder / "sys/fs/cgroup/cpu,cpuacct").mkdir(parents=True)
    for name, text in (("quota", "300000"), ("period", "100000")):
        (folder / f"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_{name}_us").write_text(text)
    assert list(cores._cgroup_quotas(folder)) == [3]


@pytest.mark.parametrize("mounts", ["", "x\n", "1 2 3 - \n - \n", "1 2 0:1 / /sys rw - cgroup2\n"])
@pytest.mark.parametrize("groups", ["", "x", "0::", ":::\n"])
def test_quota__of_files_that_say_nothing(tmp_path, mounts, groups):
    assert list(cores._cgroup_quotas(system(tmp_path, mounts, groups, {}))) == []
    assert list(cores._cgroup_quotas(tmp_path / "nowhere")) == []


ALL = "8 cores (the CPU affinity of this process)"


@pytest.fixture
def eight(monkeypatch):
    """A machine on which this process may use eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_smallest_quota", lambda: None)
    for name in ("SLURM_CPUS_PER_TASK", "PYTHON_CPU_COUNT"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "quota", "expected"),
    [
        ({}, None, ALL),
        ({"SLURM_CPUS_PER_TASK": "4"}, None, "4 cores (SLURM_CPUS_PER_TASK)"),
        ({"SLURM_CPUS_PER_TASK": "16"}, None, ALL),
        ({"PYTHON_CPU_COUNT": "3"}, None, "3 cores (PYTHON_CPU_COUNT)"),
        ({"PYTHON_CPU_COUNT": "3", "SLURM_CPUS_PER_TASK": "2"}, 4.0, "2 cores (SLURM_CPUS_PER_TASK)"),
        ({"PYTHON_CPU_COUNT": "3", "SLURM_CPUS_PER_TASK": "5"}, 2.0, "2 cores (the CPU quota of its cgroup)"),
        ({}, 1.5, "2 cores (the CPU quota of its cgroup)"),
        ({}, 0.1, "1 core (the CPU quota of its cgroup)"),
        (
            {"PYTHON_CPU_COUNT": "default", "SLURM_CPUS_PER_TASK": ""},
            None,
            "8 cores (the CPU affinity of this process)",
        ),
        ({"PYTHON_CPU_COUNT": "0", "SLURM_CPUS_PER_TASK": "-1"}, None, ALL),
        (
            {"PYTHON_CPU_COUNT": "1e3", "SLURM_CPUS_PER_TASK": "4(x2)"},
            None,
            "8 cores (the CPU affinity of this process)",
        ),
    ],
)
def test_cores__the_fewest_decide(eight, environment, quota, expected):
    for name, value in environment.items():
        eight.setenv(name, value)
    eight.setattr(cores, "_smallest_quota", lambda: quota)
    assert cores.describe_cores() == expected
    assert cores.available_cores() == int(expected.split()[0])


def test_cores__option_of_python(eight):
    eight.setenv("PYTHON_CPU_COUNT", "2")
    eight.setitem(sys._xoptions, "cpu_count", "5")
    assert cores.describe_cores() == "5 cores (PYTHON_CPU_COUNT)"


def test_cores__without_affinity(eight):
    eight.delattr(os, "sched_getaffinity")
    eight.setattr(os, "cpu_count", lambda: 6)
    assert cores.describe_cores() == "6 cores (the machine)"
    eight.setattr(os, "cpu_count", lambda: None)
    assert cores.describe_cores() == "1 core (the machine)"


def simulator(rng):
    return rng.standard_normal((5, 2)), np.ones(1)


def test_cores__are_those_of_threads_and_workers(eight, caplog):
    eight.setenv("SLURM_CPUS_PER_TASK", "3")
    network = Network((5, 2), (1,), [("fc", 2)], ("max",), [("matmul",)], seed=1)
    assert Trainer(network, loss="l2").threads == 3
    assert stream.available_cores() == 3
    with caplog.at_level(logging.INFO, "definetti_np"):
        train((5, 2), (1,), simulator, [("fc", 2)], h_net=[("matmul",)], loss="l2", num_batches=1, logfile=None, seed=1)
    assert "this process may use 3 cores (SLURM_CPUS_PER_TASK)" in caplog.text
    assert "3 simulator processes and 3 threads" in caplog.text

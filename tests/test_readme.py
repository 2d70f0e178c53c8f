"""The README's code runs as it stands."""

import re
from pathlib import Path

import numpy as np

import definetti_np
from definetti_np import Network

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_readme__the_gaussian_example_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in BLOCKS if "mu, sigma" in block]
    assert len([line for line in block.splitlines() if line]) <= 10, "ten lines"
    short = block.replace("num_batches=500", "num_batches=2")
    assert short != block
    exec(short, {})
    assert (tmp_path / "gaussian.npz").exists()
    assert re.match(r"\[\[\S+ +\S+ *\]\]", capfd.readouterr().out)


def test_readme__the_network_is_one():
    (block,) = [block for block in BLOCKS if "def network(" in block]
    names = {}
    exec(block, names)
    network = Network.from_function((6, 12, 2), (2,), names["network"])
    np.testing.assert_allclose(np.exp(network(np.ones((3, 6, 12, 2)))).sum(axis=1), 1, rtol=1e-5)


def test_readme__installs_the_version_that_it_is_of():
    assert re.findall(r"definetti_np-([\d.]+)-py3-none-any\.whl", README) == [definetti_np.__version__]


def test_readme__both_commands_of_the_gate_are_there():
    for end in ("pytest", r"run_example\.py"):
        assert len(re.findall(rf"^python3 -m venv .*{end}$", README, re.MULTILINE)) == 1

"""The README's code runs as it stands, and its table of arguments is that of train."""

import inspect
import re
from pathlib import Path

import numpy as np

from definetti_np import Network, train

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


def test_readme__table_has_the_arguments_and_defaults_of_train():
    rows = re.findall(r"^\| `(\w+)` \| *(.*?) *\|", README, re.MULTILINE)
    parameters = inspect.signature(train).parameters
    assert [name for name, _ in rows] == list(parameters)
    for name, default in rows:
        wanted = parameters[name].default
        shown = inspect.Parameter.empty if default == "" else eval(default.strip("`"))
        if isinstance(shown, list):
            shown, wanted = tuple(shown), tuple(wanted)
        assert shown == wanted, name

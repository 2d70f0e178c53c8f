"""The documentation is true: its code runs, its links lead somewhere, its tables and its drawing are the package's."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import run_example
from test_house import FLOORS

import definetti_np
from definetti_np import MultisetBatch, ops
from definetti_np.engine.features import RowFeatures
from definetti_np.engine.tensor import Tensor

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
PAGES_WITH_CODE = [path.name for path in PAGES if "```python" in path.read_text("utf-8")]


@pytest.fixture
def docs_module(monkeypatch):
    """Import a module of docs/, which is a folder of pages and no package."""
    monkeypatch.syspath_prepend(DOCS)
    yield importlib.import_module
    for name in ("tables", "draw_idea"):
        sys.modules.pop(name, None)


# Code


def test_docs__pages_with_code():
    assert {"write_your_own_network.md", "simulators.md"} <= set(PAGES_WITH_CODE)


@pytest.mark.parametrize("page", PAGES_WITH_CODE)
def test_docs__code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    code = "\n".join(blocks)
    short = re.sub(r'"num_batches": \d+', '"num_batches": 2, "batch_size": 5', code)
    short = re.sub(r"num_batches=\d+", "num_batches=2, batch_size=5", short)
    short = short.replace("range(500)", "range(5)")
    assert (short != code) == ("train(" in code)
    names = {}
    exec(compile(short, page, "exec"), names)
    if page == "write_your_own_network.md":
        assert names["log_probabilities"].shape == (3, 2)
    if page == "simulators.md":
        assert names["estimates"].shape == (5, 1)
        assert names["estimate"].shape == (1, 1)


def test_docs__networks_are_ten_lines():
    for block in re.findall(r"```python\n(.*?)```", (DOCS / "write_your_own_network.md").read_text("utf-8"), re.DOTALL):
        if "ops.log_softmax" in block:
            assert len([line for line in block.splitlines() if line]) <= 10


def test_docs__the_hotspot_networks_are_those_of_the_example():
    page = (DOCS / "hotspot_example.md").read_text("utf-8")
    blocks = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "h_net" in block]
    shown = [{}, {}]
    for names, block in zip(shown, blocks, strict=True):
        exec(block, {}, names)
    assert shown == [run_example.NETWORK, run_example.PUBLISHED]


# Links


@pytest.mark.parametrize("path", [*PAGES, *ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md"], ids=lambda p: p.name)
def test_docs__links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_docs__the_index_lists_every_page():
    listed = re.findall(r"^(\w+)$", (DOCS / "index.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in PAGES if path.stem != "index")


# Tables


def test_reference__table_has_the_arguments_and_defaults_of_train(docs_module):
    assert "{{ arguments }}" in (DOCS / "reference.md").read_text("utf-8")
    table = docs_module("tables").arguments_table(definetti_np.train)
    rows = re.findall(r"^\| `(\w+)` \| *(.*?) *\| (.+) \|$", table, re.MULTILINE)
    parameters = inspect.signature(definetti_np.train).parameters
    assert [name for name, _, _ in rows] == list(parameters)
    for name, default, meaning in rows:
        wanted = parameters[name].default
        shown = inspect.Parameter.empty if default == "" else eval(default.strip("`"))
        assert shown == wanted, name
        assert len(meaning) > 10, name


def test_reference__has_every_public_name(docs_module):
    reference = (DOCS / "reference.md").read_text("utf-8")
    for name in docs_module("tables").public_names():
        if name.startswith("definetti_np.layers."):
            assert re.search(rf"\b{name.split('.')[-1]}\b", reference), name
        elif not name.startswith("definetti_np.ops."):
            assert f":: {name}\n" in reference, name


def test_operations__table_has_every_operation(docs_module):
    assert "{{ operations }}" in (DOCS / "operations.md").read_text("utf-8")
    tables = docs_module("tables").operations_tables()
    rows = re.findall(r"^\| \{py:func\}`(\w+)\(.*?\) <definetti_np\.ops\.(\w+)>` \| (.+) \|$", tables, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(ops.__all__)
    assert {"max", "conv", "top_k", "exp"} <= {name for name, _, _ in rows}
    for name, link, meaning in rows:
        assert name == link
        assert len(meaning) >= len("-x."), name


# The map of the house


def test_house__every_module_is_on_the_map():
    on_the_map, folder = [], None
    for line in (DOCS / "house.md").read_text("utf-8").splitlines():
        if heading := re.match(r"## (?:`(.*)/`)?", line):
            folder = heading[1]
        elif folder and (row := re.match(r"\| `(\w+\.py)` \|", line)):
            on_the_map.append(f"{folder}/{row[1]}")
    package = ROOT / "definetti_np"
    files = [path for path in package.rglob("*.py") if "kernels" not in path.relative_to(package).parts]
    files += (ROOT / "kernels").glob("*.py")
    assert sorted(on_the_map) == sorted(str(path.relative_to(ROOT)) for path in files)


def test_house__the_floors_are_those_that_are_checked():
    table = (DOCS / "house.md").read_text("utf-8").split("## The floors")[1].split("##")[0]
    rows = re.findall(r"^\| [a-z][\w ]+ \| (`.*) \|$", table, re.MULTILINE)
    floors = [{name.removesuffix("/").removesuffix(".py") for name in re.findall(r"`(.+?)`", row)} for row in rows]
    assert floors == [set(rooms.split()) for rooms in FLOORS]


@pytest.mark.parametrize("page", ["house.md", "design.md"])
def test_house__files_that_pages_name_are_there(page):
    named = re.findall(r"`((?:\w+/)*\w+\.py)`", (DOCS / page).read_text("utf-8"))
    folders = [ROOT, ROOT / "definetti_np", *(ROOT / "definetti_np").iterdir(), ROOT / "docs", ROOT / "tests"]
    for name in named:
        assert any((folder / name).exists() for folder in folders), name


# The drawing


def test_idea__the_drawing_is_that_of_its_script(docs_module):
    assert docs_module("draw_idea").draw() == (DOCS / "idea.svg").read_text("utf-8")


def test_idea__is_what_the_package_computes(docs_module):
    draw_idea = docs_module("draw_idea")
    shown = draw_idea.compute()
    batch = MultisetBatch.from_datasets([draw_idea.HAPLOTYPES.astype(float)])
    np.testing.assert_array_equal(shown["rows"], batch.rows[:, :, 0])
    np.testing.assert_array_equal(shown["counts"], batch.counts)

    weight = draw_idea.WEIGHT[:, np.newaxis].astype(np.float32)
    features = ops.relu(ops.conv(RowFeatures.from_batch(batch), Tensor(weight)))
    np.testing.assert_array_equal(shown["values"], features.values.array)
    np.testing.assert_array_equal(shown["index"], features.index)
    np.testing.assert_array_equal(shown["pooled"], ops.max(features).array[0])

    # A winner is where the gradient goes: one channel and position at a time.
    weight_gradient = np.zeros_like(weight)
    for (position, channel), winner in np.ndenumerate(shown["winners"]):
        weight_gradient[:, 0, channel] += shown["windows"][winner] * (shown["pooled"][position, channel] > 0)
    np.testing.assert_array_equal(weight_gradient, gradient_of_the_sum(batch, weight))


def gradient_of_the_sum(batch, weight):
    """The gradient of the sum of all maxima with respect to the weight, as the package computes it."""

    def network_function(x):
        return ops.flatten(ops.max(layer(x)))

    layer = definetti_np.layers.Conv(len(weight), weight.shape[-1], name="phi")
    network = definetti_np.Network.from_function((3, 6), (8,), network_function, seed=1)
    network.parameters["phi.weight"][...] = weight
    network.parameters["phi.bias"][...] = 0
    trainer = definetti_np.Trainer(network, loss=lambda prediction, label: ops.sum(prediction), accuracy=None)
    trainer.step(batch, np.zeros((1, 8)))
    return network.gradients["phi.weight"]

"""The package: what importing it does, and what it contains."""

import ast
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import definetti_np

try:
    REQUIREMENTS = metadata.requires("definetti_np")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    REQUIREMENTS = None


def modules_after(statement):
    program = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_import__loads_neither_numba_nor_msprime_nor_numpy():
    heavy = {"numba", "llvmlite", "msprime", "tskit", "numpy", "multiprocessing"}
    assert not heavy & modules_after("import definetti_np")


@pytest.mark.parametrize("name", ["train", "simulate_example", "SimulatorError", "ModelFileError", "MultisetBatch"])
def test_import__names_of_the_simulation_side_load_no_numba(name):
    assert not {"numba", "llvmlite"} & modules_after(f"from definetti_np import {name}")


def test_predict__needs_numpy_and_numba_alone(tmp_path):
    definetti_np.Model(
        definetti_np.Network((4, 3), (2,), [("fc", 2)], ("max",), [("softmax",)], seed=1),
        loss="cross-ent",
        seed=1,
        batches_trained=0,
    ).save(tmp_path / "weights")
    loaded = modules_after(
        f"import numpy, definetti_np; definetti_np.test(numpy.zeros((2, 4, 3)), {str(tmp_path / 'weights')!r})"
    )
    loaded -= modules_after("import numba")  # which loads SciPy where it is installed
    assert not {"msprime", "tskit", "tqdm", "matplotlib", "scipy", "torch"} & loaded


def test_names__are_all_there():
    for name in definetti_np.__all__:
        assert getattr(definetti_np, name).__doc__
    assert set(definetti_np.__all__) <= set(dir(definetti_np))
    with pytest.raises(AttributeError, match="module 'definetti_np' has no attribute 'trian'"):
        definetti_np.trian  # noqa: B018


def test_test__is_no_test_of_pytest(tmp_path):
    script = tmp_path / "test_mine.py"
    script.write_text("from definetti_np import test\n\n\ndef test_mine():\n    assert callable(test)\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_names__type_checkers_see_those_that_are_loaded_on_first_use():
    package = Path(definetti_np.__file__).parent
    assert (package / "py.typed").is_file()
    stub = ast.parse((package / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    modules = {alias.name: node.module for node in imports for alias in node.names}
    assert modules == {**definetti_np._MODULE_OF, **dict.fromkeys(definetti_np._MODULES)}
    [names] = [node.value for node in stub.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"]
    assert ast.literal_eval(names) == definetti_np.__all__


@pytest.mark.skipif(REQUIREMENTS is None, reason="definetti_np is not installed")
def test_metadata__required_dependencies():
    required = [requirement for requirement in REQUIREMENTS if "extra ==" not in requirement]
    assert sorted(r.split(">")[0] for r in required) == ["msprime", "numba", "numpy"]
    extras = metadata.metadata("definetti_np").get_all("Provides-Extra")
    assert set(extras) == {"test", "dev", "docs", "plot", "progress", "vcf", "clusters", "all"}
    assert metadata.version("definetti_np") == definetti_np.__version__


def test_kernels__are_a_subpackage():
    package = Path(definetti_np.__file__).parent
    assert (package / "kernels" / "_jit.py").is_file()
    if (package.parent / "kernels").exists():  # a checkout: the subpackage is a link
        assert os.readlink(package / "kernels") == "../kernels"

"""What makes it fast changes nothing: distinct windows, sparse gradients, assembly by kernels, used memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sessions import Session, need_openmp

from definetti_np import MultisetBatch, Network, Trainer
from definetti_np.engine import features
from definetti_np.engine.assembly import assemble_datasets
from definetti_np.engine.workspace import Workspace, empty
from definetti_np.kernels._tile import VECTOR_BYTES
from definetti_np.ops import window_products as products

NETWORKS = {
    "max": ([("conv", 3, 6), ("conv", 2, 5)], ("max",), [("fc", 4), ("softmax",)]),
    "width is W": ([("conv", 8, 6)], ("max",), [("softmax",)]),
    "top_k": ([("conv", 3, 6), ("fc", 9), ("conv", 2, 4)], ("top_k", 2), [("conv", 2, 3), ("softmax",)]),
    "sort": ([("conv", 2, 40), ("conv", 2, 5)], ("sort",), [("fc", 4), ("softmax",)]),
    "moments": ([("conv", 3, 6), ("conv", 2, 5)], ("moments", 1, 2.5), [("fc", 4), ("softmax",)]),
    "fc": ([("fc", 70), ("fc", 5)], ("max",), [("fc", 4), ("softmax",)]),
}
KINDS = st.sampled_from(["few repeats", "many repeats", "one row", "no repeats"])


def draw_data(kind, seed, shape=(4, 9, 8, 2)):
    rng = np.random.default_rng(seed)
    if kind == "no repeats":
        return rng.standard_normal(shape).astype(np.float32)
    data = rng.integers(0, 2 if kind == "many repeats" else 4, shape).astype(np.float32)
    if kind == "one row":
        data[:] = data[:, :1]
    return data


def results(network_name, data, monkeypatch_values):
    """Log-probabilities and gradients of a network, with constants of the engine set for the time."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in monkeypatch_values:
            patch.setattr(module, name, value)
        network = Network(data.shape[1:], (2,), *NETWORKS[network_name], seed=1)
        rng = np.random.default_rng(1)
        for parameter in network.parameters.values():
            parameter[...] = rng.normal(0.1, 0.4, parameter.shape)
        output = network.forward(network.as_batch(data)).array
        Trainer(network).step(data, np.eye(2)[[0, 1, 1, 0]])
        return output, network.flat.gradients


@pytest.mark.parametrize("name", NETWORKS)
@given(KINDS, st.integers(0, 1000))
def test_distinct_windows__same_results_as_all_windows(name, kind, seed):
    data = draw_data(kind, seed)
    everything = [(features, "GIVE_UP", -1.0)]
    never_gives_up = [(features, "GIVE_UP", 2.0)]
    output, gradients = results(name, data, never_gives_up)
    all_output, all_gradients = results(name, data, everything)
    assert output.tobytes() == all_output.tobytes()
    np.testing.assert_allclose(gradients, all_gradients, rtol=1e-4, atol=1e-5 * abs(gradients).max())


@pytest.mark.parametrize("name", NETWORKS)
@given(KINDS, st.integers(0, 1000))
def test_sparse_gradients__same_as_dense_ones(name, kind, seed):
    data = draw_data(kind, seed)
    _, sparse = results(name, data, [(products, "SPARSE_SHARE", 2.0), (products, "FEWEST_WINDOWS", 0)])
    _, dense = results(name, data, [(products, "SPARSE_SHARE", -1.0)])
    np.testing.assert_allclose(sparse, dense, rtol=1e-4, atol=1e-5 * abs(dense).max())


def test_distinct_windows__are_shared_between_positions():
    data = np.tile([0.0, 1.0], (1, 5, 10)).astype(np.float32)
    batch = MultisetBatch.from_datasets(data)
    windows = features.RowFeatures.from_batch(batch).slide(3)
    assert len(windows.rows) == 2
    np.testing.assert_array_equal(windows.index, [np.arange(18) % 2])


def test_distinct_windows__gives_up_where_nothing_repeats():
    batch = MultisetBatch.from_datasets(draw_data("no repeats", 1))
    assert features.RowFeatures.from_batch(batch).slide(3).index is None
    batch = MultisetBatch.from_datasets(draw_data("many repeats", 1))
    assert features.RowFeatures.from_batch(batch).slide(3).index is not None


def test_counts__ten_thousand_haplotypes_cost_what_their_distinct_ones_do():
    rng = np.random.default_rng(1)
    few = rng.integers(0, 2, (5, 8, 2)).astype(np.float32)
    many = few[np.concatenate([np.arange(5), rng.integers(0, 5, 9_995)])]
    network = Network((None, 8, 2), (2,), *NETWORKS["max"], seed=1)
    assert network([many]).tobytes() == network([few]).tobytes()


@given(KINDS, st.integers(0, 1000), st.sampled_from([np.float32, np.float64]), st.booleans(), st.booleans())
def test_assembly__same_batch_as_from_datasets(kind, seed, dtype, two_dimensional, ragged):
    data = draw_data(kind, seed).astype(dtype)
    data[data == 0] = -0.0
    datasets = data[..., 0] if two_dimensional else data
    if ragged:
        datasets = [dataset[: i + 1] for i, dataset in enumerate(datasets)]
    for target in (np.float32, np.float64):
        expected = MultisetBatch.from_datasets(list(datasets), target)
        batch = assemble_datasets(datasets, target)
        for name in ("rows", "counts", "offsets"):
            array, wanted = getattr(batch, name), getattr(expected, name)
            assert (array.tobytes(), array.shape, array.dtype) == (wanted.tobytes(), wanted.shape, wanted.dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_assembly__names_the_value_that_is_not_finite(value):
    data = np.zeros((3, 4, 5))
    data[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"data\[8\] must be finite in float32, got .* at index \[2, 3\]"):
        assemble_datasets(data, np.float32, first=7)


def test_assembly__other_types():
    for datasets in ([np.ones((2, 3), int)], [np.ones((2, 3), np.float32), np.ones((2, 3))], [np.ones((2, 3), bool)]):
        assert assemble_datasets(datasets, np.float32).rows.dtype == np.float32
    with pytest.raises(TypeError, match="masked array"):
        assemble_datasets([np.ma.masked_array(np.ones((2, 3)), mask=True)], np.float32)


def test_workspace__gives_the_same_memory_again():
    workspace = Workspace()
    for size in (10, 1000, 10, 1000):
        with workspace.use():
            arrays = [empty((size, 3), dtype) for dtype in (np.float32, np.float64, np.int32)]
            for i, array in enumerate(arrays):
                array[:] = i
            assert [array.max() for array in arrays] == [0, 1, 2], "they do not overlap"
    assert all(array.ctypes.data % 64 == 0 for array in arrays)
    with workspace.use():
        first = empty((5,), np.int32).ctypes.data
    with workspace.use():
        assert empty((5,), np.int32).ctypes.data == first
    assert empty((5,), np.int32).ctypes.data != first


def test_trainer__memory_does_not_grow_with_the_number_of_steps():
    data = draw_data("many repeats", 1)
    trainer = Trainer(Network(data.shape[1:], (2,), *NETWORKS["max"], seed=1))
    for _ in range(3):
        trainer.step(data, np.eye(2)[[0, 1, 1, 0]])
    memory = trainer._workspace._memory
    for _ in range(5):
        trainer.step(data, np.eye(2)[[0, 1, 1, 0]])
    assert trainer._workspace._memory is memory


PROGRAM = """
import hashlib, numpy as np
from definetti_np import Network, Trainer
data = np.random.default_rng(1).integers(0, 2, (6, 20, 12, 2)).astype(np.float32)
phi_net, h_net = [("conv", 5, 32), ("conv", 3, 70)], [("fc", 40), ("matmul",)]
network = Network((20, 12, 2), (3,), phi_net, ("top_k", 2), h_net, seed=1)
trainer = Trainer(network, loss="l2")
for _ in range(3):
    trainer.step(data, np.ones((6, 3), np.float32))
print(hashlib.sha256(network.flat.weights.tobytes()).hexdigest())
"""
AVX2 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+bmi,+bmi2"


@pytest.fixture(scope="module")
def trained_weights(tmp_path_factory):
    """What PROGRAM trains in each of these surroundings: side by side, because two of them compile all kernels."""
    environments = {
        "as it is": {},
        "workqueue": {"NUMBA_THREADING_LAYER": "workqueue"},
        "no vectors": {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": tmp_path_factory.mktemp("generic")},
    }
    if VECTOR_BYTES == 64:
        folder = tmp_path_factory.mktemp("haswell")
        environments["AVX2"] = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": AVX2, "NUMBA_CACHE_DIR": folder}
    sessions = {name: Session("-c", PROGRAM, **environment) for name, environment in environments.items()}
    ends = {name: session.end(limit=200) for name, session in sessions.items()}
    assert {code for code, _ in ends.values()} == {0}, ends
    return {name: output for name, (_, output) in ends.items()}


def test_bits__do_not_depend_on_the_threading_layer(trained_weights):
    assert trained_weights["workqueue"] == trained_weights["as it is"]


@pytest.mark.skipif(VECTOR_BYTES < 64, reason="compares AVX-512 with AVX2")
def test_bits__do_not_depend_on_the_width_of_vectors(trained_weights):
    assert trained_weights["AVX2"] == trained_weights["as it is"]


def test_kernels__without_vector_extensions(trained_weights):
    assert len(trained_weights["no vectors"]) == 65


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_threads__spinning_is_limited_before_openmp_reads_the_variable():
    program = """
import numpy as np, os
from definetti_np.kernels import _jit
loaded = lambda: "libgomp" in open("/proc/self/maps").read()
order = []
class Environment(dict):
    def setdefault(self, name, value):
        order.append((name, loaded()))
        return os.environ.setdefault(name, value)
class Os:
    environ = Environment()
_jit.os = Os
from definetti_np import Network, Trainer
network = Network((4, 3), (2,), [("fc", 5)], ("max",), [("softmax",)])
Trainer(network, threads=2).step(np.zeros((100, 4, 3)), np.eye(2)[[0] * 100])
print(order[0], loaded())
"""
    need_openmp()
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "omp"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=100)
    assert done.stdout == "('GOMP_SPINCOUNT', False) True\n", done.stderr

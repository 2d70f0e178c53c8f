"""Networks, losses, gradients and Adam against what PyTorch computed in float64: see make_references.py."""

from pathlib import Path

import numpy as np
import pytest
from cases import ADAM_STEPS, CASES

from definetti_np.network import Network
from definetti_np.trainer import Trainer

FOLDER = Path(__file__).parent / "references"
# relative to each number, and to the largest of its array
TOLERANCES = {np.float64: (1e-9, 1e-12), np.float32: (1e-4, 1e-5)}

each_case = pytest.mark.parametrize("name", CASES)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCES)


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def by_name(reference: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays stored as ``prefix.name``, by name."""
    return {key.removeprefix(prefix): array for key, array in reference.items() if key.startswith(prefix)}


def reference_network(name: str, reference: dict[str, np.ndarray], dtype) -> Network:
    case = CASES[name]
    network = Network(case.input_shape, case.output_shape, case.phi_net, case.g, case.h_net, seed=1, dtype=dtype)
    initial = by_name(reference, "initial.")
    assert {n: p.shape for n, p in network.parameters.items()} == {n: p.shape for n, p in initial.items()}
    for parameter_name, parameter in network.parameters.items():
        parameter[...] = initial[parameter_name]
    return network


def assert_close(actual, expected: np.ndarray, dtype, what: str) -> None:
    relative, to_largest = TOLERANCES[dtype]
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=to_largest * abs(expected).max(), err_msg=what)


def test_references__one_for_each_case():
    assert {path.stem for path in FOLDER.glob("*.npz")} == set(CASES)


@each_case
def test_reference__made_for_this_case(name):
    assert load(name)["case"].tobytes().decode() == CASES[name].as_json(), "run tests/make_references.py again"


@each_case
@each_dtype
def test_output__as_in_pytorch(name, dtype):
    reference = load(name)
    network = reference_network(name, reference, dtype)
    output = network.forward(network.as_batch(reference["data"])).array
    predictions = network(reference["data"])
    assert output.dtype == predictions.dtype == dtype
    assert_close(output, reference["output"], dtype, "output")
    assert_close(predictions, reference["predictions"], dtype, "predictions")


@each_case
@each_dtype
def test_loss_and_gradients__as_in_pytorch(name, dtype):
    reference = load(name)
    network = reference_network(name, reference, dtype)
    loss, _ = Trainer(network, loss=CASES[name].loss).step(reference["data"], reference["labels"])
    assert_close(loss, reference["loss"], dtype, "loss")
    for parameter_name, gradient in by_name(reference, "gradient.").items():
        assert_close(network.gradients[parameter_name], gradient, dtype, parameter_name)


@each_case
def test_five_adam_steps__as_in_pytorch(name):
    """In float64 only: Adam's first steps follow the sign of a gradient, which float32 rounding decides near 0."""
    reference = load(name)
    network = reference_network(name, reference, np.float64)
    trainer = Trainer(network, loss=CASES[name].loss)
    for _ in range(ADAM_STEPS):
        trainer.step(reference["data"], reference["labels"])
    for parameter_name, trained in by_name(reference, "trained.").items():
        assert_close(network.parameters[parameter_name], trained, np.float64, parameter_name)

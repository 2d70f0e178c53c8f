"""`numpy.seterr` of the caller's: nothing that the package computes depends on it."""

import numpy as np
import pytest

import definetti_np
from definetti_np import Model, Network, Parameter, Trainer, ops, train

SMALL = {
    "input_shape": (12, 3),
    "output_shape": (2,),
    "num_batches": 4,
    "batch_size": 10,
    "queue_capacity": 20,
    "sim_threads": 0,
    "logfile": None,
    "seed": 1,
}


def simulator(rng):
    wide = rng.integers(2)
    label = np.array([1.0, 1e-310]) if wide else np.array([1e-45, 1.0])
    data = rng.standard_normal((12, 3)) * (1 + 3 * wide)
    data[0] = 1e-310, 1e-42, -1e-45  # underflow in float32
    return data, label


WEIGHT = Parameter(np.full((12, 2), 0.1), name="weight")


def function(x):
    pooled = ops.concatenate([ops.mean(x), ops.var(x), ops.max(x), ops.logsumexp(ops.sort(x), axis=2)], -1)
    return ops.log_softmax(ops.tanh(pooled / 1e-30 * 1e-30) @ WEIGHT * 200)


def trained(**options):
    return train(simulator=simulator, **SMALL, **options)


def resumed(path):
    options = SMALL | {"phi_net": [("fc", 8)], "sim_threads": 2, "save_path": path / "w"}
    train(simulator=simulator, **options | {"num_batches": 2})
    return train(simulator=simulator, **options, resume=True)


def bits(model):
    return b"".join(array.tobytes() for array in model.network.parameters.values())


def sure_model():
    """One that gives a probability of 0."""
    network = Network((12, 3), (2,), [("fc", 8)], ("max",), [("softmax",)], seed=1)
    network.parameters["h.0.weight"][:, 0] = 1e3
    return Model(network, loss="cross-ent", seed=1, batches_trained=0)


def step(data, labels, **options):
    network = Network((None, 3), (2,), [("fc", 8)], ("moments", 1, 2.5), [("matmul",)], seed=1)
    trainer = Trainer(network, loss="l2", threads=1, **options)
    try:
        return str(trainer.step(data, labels)) + network.flat.weights.tobytes().hex()
    except FloatingPointError as error:
        return str(error)


DATA = np.random.default_rng(2).standard_normal((5, 12, 3)) ** 2

WORK = {
    "train, probabilities": lambda path: bits(trained(phi_net=[("fc", 8)], h_net=[("fc", 4), ("softmax",)])),
    "train, estimates": lambda path: bits(
        trained(phi_net=[("conv", 2, 4)], g=("moments", 1, 3.5), h_net=[("matmul",)], loss="l2")
    ),
    "train, a function": lambda path: bits(trained(network_function=function)),
    "train in workers and resume": lambda path: bits(resumed(path)),
    "predict a probability of 0": lambda path: sure_model().predict(DATA).tobytes(),
    "call a network": lambda path: sure_model().network(DATA).tobytes(),
    "save, load and test": lambda path: (
        sure_model().save(path / "m"),
        definetti_np.test(list(DATA), path / "m").tobytes(),
    ),
    "step": lambda path: step(DATA, np.ones((5, 2))),
    "step of tiny numbers": lambda path: step(DATA * 1e-40, np.full((5, 2), 1e-310)),
    "step of huge numbers": lambda path: step(DATA * 1e30, np.ones((5, 2))),
    "step that goes too far": lambda path: step(DATA, np.ones((5, 2)), learning_rate=1e200),
}


@pytest.mark.parametrize("setting", ["raise", "warn", "call"])
@pytest.mark.parametrize("name", WORK)
def test_seterr__changes_nothing(tmp_path, name, setting):
    folders = [tmp_path / "default", tmp_path / setting]
    for folder in folders:
        folder.mkdir()
    expected = WORK[name](folders[0])

    def fail(what, flag):
        raise AssertionError(f"NumPy called back: {what}")

    with np.errstate(all=setting, call=fail):
        found = WORK[name](folders[1])
        assert np.geterr() == dict.fromkeys(("divide", "over", "under", "invalid"), setting)
    assert found == expected


def test_seterr__holds_for_the_simulator():
    """Who asks NumPy to raise wants to know of mistakes of their own."""

    def divide(rng):
        return np.ones((12, 3)) / np.zeros(3), np.eye(2)[0]

    with np.errstate(all="raise"), pytest.raises(definetti_np.SimulatorError, match="divide by zero encountered"):
        train(simulator=divide, **SMALL, phi_net=[("fc", 8)], h_net=[("softmax",)])

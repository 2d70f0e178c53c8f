"""What networks, models, trainers and batches say of themselves."""

import math
import re

import numpy as np
import pytest
from cases import CASES
from custom_cases import CUSTOM_CASES

from definetti_np import Model, MultisetBatch, Network, Trainer

HOTSPOT = [("conv", 5, 32), ("conv", 5, 64)], ("top_k", 1), [("fc", 128), ("softmax",)]
NETWORK = """\
Network(input_shape=(198, 24, 2), output_shape=(2,), seed=3, dtype=float32) with 142,114 parameters
    phi_net: [('conv', 5, 32), ('conv', 5, 64)]
    g:       ('top_k', 1)
    h_net:   [('fc', 128), ('softmax',)]"""
SUMMARY = """\
layer                   output         parameters
data                    (198, 24, 2)
phi.0  ('conv', 5, 32)  (198, 20, 32)         352
phi.1  ('conv', 5, 64)  (198, 16, 64)      10,304
g      ('top_k', 1)     (16, 64)
h.0    ('fc', 128)      (128,)            131,200
h.1    ('softmax',)     (2,)                  258
total                                     142,114"""


def hotspot_network(rows=198):
    return Network((rows, 24, 2), (2,), *HOTSPOT, seed=3)


def model_of(network, loss="cross-ent"):
    return Model(network, loss=loss, seed=3, batches_trained=500)


def test_repr__of_a_network_its_shapes_layers_and_parameters():
    assert repr(hotspot_network()) == NETWORK


def test_repr__of_a_model_and_a_trainer_is_that_of_their_network_and_what_they_add():
    network = hotspot_network()
    assert repr(model_of(network)) == f"Model(loss='cross-ent', seed=3, batches_trained=500) of\n{NETWORK}"
    trainer = Trainer(network, accuracy=None, learning_rate=0.5, threads=2)
    trainer.optimizer.step()
    said = "Trainer(loss='cross-ent', accuracy=None, learning_rate=0.5, threads=2) after 1 steps of\n"
    assert repr(trainer) == said + NETWORK


def test_repr__of_functions_is_their_names():
    case = CUSTOM_CASES["huber"]
    network = case.network(seed=1)
    name = re.search(r"\n    network_function: (.*)", repr(network))[1]
    assert name == network.network_function.__qualname__
    assert f"loss=function {case.loss.__qualname__}, " in repr(model_of(network, case.loss))
    assert "loss=function of_a_file, " in repr(model_of(network, "function of_a_file"))
    assert f"loss=function {case.loss.__qualname__}, accuracy=None" in repr(
        Trainer(network, loss=case.loss, accuracy=None)
    )


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ([(3, 4, 2)], "1 dataset of 3 rows: 1 distinct rows of shape (4, 2) float32"),
        ([(3, 4), (6000, 4)], "2 datasets of 3 to 6,000 rows: 2 distinct rows of shape (4, 1) float32"),
    ],
)
def test_repr__of_a_batch_is_short(datasets, said):
    assert repr(MultisetBatch.from_datasets([np.zeros(shape) for shape in datasets])) == f"MultisetBatch({said})"


def test_repr__of_a_batch_without_datasets():
    batch = MultisetBatch.from_datasets([np.zeros((3, 4))]).slice(0, 0)
    assert repr(batch) == "MultisetBatch(0 datasets: 0 distinct rows of shape (4, 1) float32)"


def test_summary__is_a_table_of_layers():
    assert model_of(hotspot_network()).summary() == SUMMARY
    any_number = model_of(hotspot_network(rows=None)).summary()
    assert [line.split()[-3:] for line in any_number.splitlines()[1:3]] == [["(n,", "24,", "2)"], ["20,", "32)", "352"]]


@pytest.mark.parametrize("name", CASES)
def test_summary__of_each_layer_agrees_with_its_parameters(name):
    case = CASES[name]
    network = Network(case.input_shape, case.output_shape, case.phi_net, case.g, case.h_net, seed=1)
    _, *lines, total = [re.split(r" {2,}", line) for line in model_of(network).summary().splitlines()]
    assert total == ["total", f"{network.flat.weights.size:,}"]
    above = None  # the features of the line above, without the rows
    for layer, *_, shape, numbers in (line if line[0] not in ("data", "g") else [*line, "0"] for line in lines):
        sizes = [int(size) for size in re.findall(r"\d+", shape)][layer[0] not in "gh" :]
        if numbers != "0":
            weight, bias = (network.parameters[f"{layer}.{role}"] for role in ("weight", "bias"))
            assert int(numbers.replace(",", "")) == weight.size + bias.size
            if weight.ndim == 3:
                assert weight.shape[1] == (above + [1])[1]
                assert sizes == [above[0] - len(weight) + 1, *([len(bias)] * (len(bias) > 1))]
            else:
                assert weight.shape == (math.prod(above), sizes[0])
        above = sizes
    assert above == list(case.output_shape)


def test_summary__of_a_function_is_a_table_of_its_parameters():
    network = CUSTOM_CASES["huber"].network(seed=1)
    head, *lines, total = [re.split(r" {2,}", line) for line in model_of(network).summary().splitlines()]
    assert head == ["parameter", "shape", "numbers"]
    assert lines == [[name, str(array.shape), f"{array.size}"] for name, array in network.parameters.items()]
    assert total == ["total", f"{network.flat.weights.size}"]

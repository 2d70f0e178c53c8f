"""Descriptions of networks: dimensions, and an error for every mistake before anything is simulated."""

import math

import numpy as np
import pytest

import definetti_np
from definetti_np.specs import network_spec

GOOD = {
    "input_shape": (198, 24, 2),
    "output_shape": (2,),
    "phi_net": [("conv", 5, 32), ("conv", 5, 64)],
    "g": ("top_k", 1),
    "h_net": [("fc", 128), ("softmax",)],
}


def test_network_spec__dimensions():
    spec = network_spec(**GOOD)
    assert [layer.weight_shape for layer in spec.layers] == [(5, 2, 32), (5, 32, 64), (16 * 64, 128), (128, 2)]
    assert [layer.name for layer in spec.layers] == ["phi.0", "phi.1", "h.0", "h.1"]
    assert network_spec(**spec.as_dict()) == spec


def test_network_spec__a_convolution_after_a_dense_layer_slides_over_its_nodes():
    spec = network_spec((10, 4), (1,), [("fc", 8), ("conv", 3, 5)], ("moments", 1, 2), [("conv", 2, 3), ("matmul",)])
    assert [layer.weight_shape for layer in spec.layers] == [(4, 8), (3, 1, 5), (2, 10, 3), (15, 1)]


def test_network_spec__numpy_numbers_and_lists_become_plain():
    spec = network_spec(
        [np.int64(9), 4], [np.int32(1)], [["fc", np.int64(3)]], ["moments", np.float32(0.5), 2], [["matmul"]]
    )
    text = "{'input_shape': (9, 4), 'output_shape': (1,), 'phi_net': (('fc', 3),), 'g': ('moments', 0.5, 2.0), "
    assert repr(spec.as_dict()) == text + "'h_net': (('matmul',),)}"


BAD = {
    "unknown layer": ({"phi_net": [("conv", 5, 3), ("cnov", 5, 3)]}, r"phi_net\[1\]: unknown layer 'cnov'; choose from 'conv', 'fc'"),
    "unknown layer in h": ({"h_net": [("max",), ("softmax",)]}, r"h_net\[0\]: unknown layer 'max'"),
    "kind a list": ({"phi_net": [[["conv"], 5]]}, r"phi_net\[0\]: unknown layer \['conv'\]"),
    "empty layer": ({"phi_net": [()]}, r"phi_net\[0\]: unknown layer None"),
    "conv without channels": ({"phi_net": [("conv", 5)]}, r"phi_net\[0\]: \('conv', 5\) must be \('conv', width, channels\)"),
    "fc with two sizes": ({"h_net": [("fc", 5, 5), ("softmax",)]}, r"h_net\[0\]: \('fc', 5, 5\) must be \('fc', nodes\)"),
    "softmax with size": ({"h_net": [("softmax", 2)]}, r"h_net\[0\]: \('softmax', 2\) must be \('softmax',\)"),
    "width larger than the data": ({"phi_net": [("conv", 25, 3)]}, r"phi_net\[0\]: \('conv', 25, 3\): the width is larger than the 24 positions it slides over, got 25"),
    "width larger than what is left": ({"phi_net": [("conv", 5, 3), ("conv", 21, 3)]}, r"phi_net\[1\]: .*: the width .* the 20 positions"),
    "zero nodes": ({"phi_net": [("fc", 0)]}, r"phi_net\[0\]: nodes of \('fc', 0\) must be at least 1, got 0"),
    "negative width": ({"phi_net": [("conv", -1, 3)]}, r"phi_net\[0\]: width of \('conv', -1, 3\) must be at least 1, got -1"),
    "zero channels": ({"phi_net": [("conv", 1, 0)]}, r"phi_net\[0\]: channels of \('conv', 1, 0\) must be at least 1, got 0"),
    "no end": ({"h_net": [("fc", 3)]}, r"h_net must end in \('matmul',\) or \('softmax',\), got \('fc', 3\)"),
    "empty h_net": ({"h_net": []}, r"h_net must end in \('matmul',\) or \('softmax',\), got no layer"),
    "softmax in the middle": ({"h_net": [("softmax",), ("softmax",)]}, r"h_net\[0\]: 'softmax' can only be the last layer of h_net"),
    "matmul in phi": ({"phi_net": [("matmul",)]}, r"phi_net\[0\]: 'matmul' can only be the last layer of h_net"),
    "unknown g": ({"g": ("mean",)}, r"g: unknown function 'mean'; choose from 'max', 'sort', 'top_k', 'moments'"),
    "empty g": ({"g": ()}, "g: unknown function None"),
    "k too large": ({"g": ("top_k", 250)}, r"g: top_k needs 1 <= k <= 198 \(the number of rows\), got k=250"),
    "too many layers": ({"phi_net": [("fc", 1)] * 1001}, "phi_net must have at most 1000 layers, got 1001"),
    "too many layers of h": ({"h_net": [("fc", 1)] * 1000 + [("softmax",)]}, "h_net must have at most 1000 layers, got 1001"),
    "too many moments": ({"g": ("moments", *range(1, 1002))}, "g: moments must have at most 1000 orders, got 1001"),
    "a moment of 400 digits": ({"g": ("moments", 10**400)}, "g: the orders of moments in .* must be positive and finite"),
    "k zero": ({"g": ("top_k", 0)}, "g: k of top_k must be at least 1, got 0"),
    "top_k without k": ({"g": ("top_k",)}, r"g: \('top_k',\) must be \('top_k', k\)"),
    "max with k": ({"g": ("max", 3)}, r"g: \('max', 3\) must be \('max',\)"),
    "moments without orders": ({"g": ("moments",)}, r"g: \('moments',\) must be \('moments', m1, m2, \.\.\.\)"),
    "moment zero": ({"g": ("moments", 1, 0)}, r"g: the orders of moments in \('moments', 1, 0\) must be positive and finite, got 0"),
    "moment infinite": ({"g": ("moments", math.inf)}, "g: the orders of moments in .* must be positive and finite, got inf"),
    "sort of any number": ({"g": ("sort",), "input_shape": (None, 24, 2)}, "g: sort needs a fixed number of rows"),
    "one dimension": ({"input_shape": (5,)}, r"input_shape must be \(rows, width\) or \(rows, width, channels\), got \(5,\)"),
    "no rows": ({"input_shape": (0, 5)}, r"input_shape\[0\] must be at least 1, got 0"),
    "no width": ({"input_shape": (5, 0)}, r"input_shape\[1\] must be at least 1, got 0"),
    "two-dimensional label": ({"output_shape": (2, 2)}, r"output_shape must have one dimension, such as \(2,\), got \(2, 2\)"),
    "empty label": ({"output_shape": (0,)}, r"output_shape\[0\] must be at least 1, got 0"),
    "cross-ent with matmul": ({"h_net": [("matmul",)]}, r"loss 'cross-ent' needs an h_net that ends in \('softmax',\)"),
    "l2 with softmax": ({"loss": "l2"}, r"loss 'l2' needs an h_net that ends in \('matmul',\)"),
    "unknown loss": ({"loss": "huber"}, "loss: unknown loss 'huber'; choose from"),
    "unknown accuracy": ({"accuracy": "auc"}, "accuracy: unknown accuracy 'auc'; choose from"),
    "more examples than indices": ({"num_batches": 2**62, "batch_size": 2}, "num_batches times batch_size must be at most 9223372036854775807, the largest index"),
    "batch larger than queue": ({"batch_size": 50, "queue_capacity": 49}, "batch_size must be at most queue_capacity, got batch_size=50 and queue_capacity=49; raise"),
    "no batches": ({"num_batches": 0}, "num_batches must be at least 1, got 0"),
    "empty batch": ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    "zero verbosity": ({"verbosity": 0}, "verbosity must be at least 1, got 0"),
    "zero threads": ({"training_threads": 0}, "training_threads must be at least 1, got 0"),
    "negative workers": ({"sim_threads": -1}, "sim_threads must be at least 0, got -1"),
    "negative seed": ({"seed": -1}, "seed must be at least 0, got -1"),
    "zero learning rate": ({"learning_rate": 0}, "learning_rate must be positive and finite, got 0"),
    "folder of model missing": ({"save_path": "no/such/weights"}, "save_path: the folder '.*no/such' does not exist; create it first"),
    "model a folder": ({"save_path": "tests/"}, "save_path must name a file, got 'tests/'"),
    "name of model too long": ({"save_path": "x" * 252}, "save_path: the file name .* is longer than 255 bytes"),
    "folder of summary missing": ({"training_summary": "no/such/summary.txt"}, "training_summary: the folder '.*no/such' does not exist"),
    "folder of log missing": ({"logfile": "no/such/log"}, "logfile: the folder 'no/such' does not exist"),
}  # fmt: skip

BAD_TYPES = {
    "shape no tuple": ({"input_shape": 5}, "input_shape must be a tuple, got 5"),
    "shape a set": ({"input_shape": {5, 24}}, "input_shape must be a tuple, got {"),
    "shape of floats": ({"input_shape": (5.0, 24)}, r"input_shape\[0\] must be an integer, got 5\.0"),
    "layer no tuple": ({"phi_net": ["conv", 5, 3]}, r"phi_net\[0\] must be a tuple, got 'conv'"),
    "layers no list": ({"phi_net": "conv"}, "phi_net must be a tuple, got 'conv'"),
    "size a float": ({"phi_net": [("fc", 2.5)]}, r"phi_net\[0\]: nodes of \('fc', 2\.5\) must be an integer, got 2\.5"),
    "size a bool": ({"phi_net": [("fc", True)]}, r"phi_net\[0\]: nodes .* must be an integer, got True"),
    "moment a string": ({"g": ("moments", "1")}, "g: the orders of moments in .* must be a number, got '1'"),
    "simulator no function": ({"simulator": 3}, "simulator must be a function, got 3"),
    "simulator of two arguments": ({"simulator": lambda a, b: None}, "it requires a, b: fix the others with a lambda"),
    "seed a string": ({"seed": "1"}, "seed must be an integer, got '1'"),
    "learning rate a string": ({"learning_rate": "fast"}, "learning_rate must be a number, got 'fast'"),
}


def train_badly(**arguments):
    simulated = []
    good = {"simulator": lambda: simulated.append(1), "num_batches": 1, "logfile": None, "sim_threads": 0}
    try:
        definetti_np.train(**{**GOOD, **good, **arguments})
    finally:
        assert not simulated, "the error comes before any simulation"


@pytest.mark.parametrize("case", BAD)
def test_train__bad_value(case):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        train_badly(**arguments)


@pytest.mark.parametrize("case", BAD_TYPES)
def test_train__bad_type(case):
    arguments, message = BAD_TYPES[case]
    with pytest.raises(TypeError, match=message):
        train_badly(**arguments)


def test_train__a_network_function_that_is_none():
    with pytest.raises(TypeError, match="network_function must be a function, got 'f'"):
        train_badly(network_function="f")

"""Networks, losses and accuracies as a user would write them; make_custom_references.py has their twins in PyTorch."""

from dataclasses import dataclass

import numpy as np

from definetti_np import Network, Parameter, ops
from definetti_np.layers import Conv, Dense, Sequential

ADAM_STEPS = 20  # after which the references hold the trained parameters


@dataclass(frozen=True, kw_only=True)
class CustomCase:
    """A network function, its loss, and the kind of batch it is tested on.

    Attributes
    ----------
    build
        Creates the layers and returns the network function.
    input_shape, output_shape
        As `Network.from_function` takes them.
    loss
        A name or a function.
    haplotypes
        Whether rows are of 0 and 1 and repeat, or continuous.
    one_hot
        Whether labels are classes, or values.
    """

    build: callable
    input_shape: tuple
    output_shape: tuple
    loss: object
    haplotypes: bool = True
    one_hot: bool = True

    def network(self, **options) -> Network:
        return Network.from_function(self.input_shape, self.output_shape, self.build(), **options)


def two_branch():
    near = Sequential([Conv(3, 4), Conv(2, 5)], name="near")
    whole = Dense(6, ops.tanh, name="whole")
    head = Sequential([Dense(7), Dense(3, None)], name="head")

    def network(x):
        pooled = [ops.flatten(ops.max(near(x))), ops.mean(whole(x))]
        return ops.log_softmax(head(ops.concatenate(pooled, axis=1)))

    return network


def residual():
    first, second, third = Conv(3, 4), Conv(3, 4, activation=None), Conv(2, 3)
    head = Dense(2, None)

    def network(x):
        y = first(x)
        y = ops.relu(y[:, 1:-1] + second(y))
        return ops.log_softmax(head(ops.max(third(y))))

    return network


def set_network():
    phi = Sequential([Dense(8, ops.softplus), Dense(6, ops.sigmoid)])
    h = Sequential([Dense(7, ops.leaky_relu), Dense(2, None)])

    def network(x):
        y = phi(x)
        return h(ops.concatenate([ops.mean(y), ops.max(y), ops.var(y)], axis=-1))

    return network


def huber_network():
    phi, h, out = Sequential([Conv(2, 4), Conv(2, 4)]), Conv(2, 3), Dense(2, None)
    slope, offset = Parameter(1.0, name="slope"), Parameter((2,), name="offset")

    def network(x):
        return slope * out(h(ops.top_k(phi(x), 2))) + offset

    return network


def huber(prediction, label, delta=0.7):
    error = ops.abs(prediction - label)
    return ops.mean(ops.where(error < delta, 0.5 * error**2, delta * (error - 0.5 * delta)))


def weighted_network():
    phi, h = Dense(6), Dense(3, activation=None)
    importance = Parameter(np.linspace(0.5, 1.5, 6), name="importance")

    def network(x):
        y = phi(x)
        statistics = ops.sqrt(ops.mean(x) + 1)  # of the data, beside what Phi finds
        return ops.log_softmax(h(ops.concatenate([ops.sum(y * importance) / 10, ops.flatten(statistics)], axis=1)))

    return network


def weighted_cross_entropy(prediction, label):
    weights = np.array([1, 5, 0.5])
    return -ops.mean(ops.sum(weights * label * prediction, axis=1))


CUSTOM_CASES = {
    "two_branch": CustomCase(build=two_branch, input_shape=(6, 8, 2), output_shape=(3,), loss="cross-ent"),
    "residual": CustomCase(build=residual, input_shape=(6, 9), output_shape=(2,), loss="cross-ent"),
    "set_network": CustomCase(
        build=set_network, input_shape=(7, 3), output_shape=(2,), loss="l2", haplotypes=False, one_hot=False
    ),
    "huber": CustomCase(build=huber_network, input_shape=(5, 6), output_shape=(2,), loss=huber, one_hot=False),
    "weighted": CustomCase(
        build=weighted_network, input_shape=(6, 4, 2), output_shape=(3,), loss=weighted_cross_entropy
    ),
}

"""The same network in ours and in other frameworks, in the forms in which it can be written there."""

import functools
import itertools
import os
from dataclasses import dataclass

import numpy as np

from definetti_np.engine.parameters import constant_bias, draw_weight
from definetti_np.seeds import weights_rng
from definetti_np.specs import NetworkSpec, network_spec

RATE, BETA1, BETA2, EPSILON = 0.001, 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Job:
    """A network, its initial weights by seed, and batches to train it on: arrays (B, n, W[, C]) and (B, N)."""

    spec: NetworkSpec
    data: list[np.ndarray]
    labels: list[np.ndarray]
    seed: int = 1

    @classmethod
    def of(cls, description: dict, data, labels, seed: int = 1) -> "Job":
        return cls(network_spec(**description), data, labels, seed)

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Those that a Network of ours draws, without loading its kernels."""
        rng, weights = weights_rng(self.seed), {}
        for layer in self.spec.layers:
            (weight, shape), (bias, bias_shape) = layer.parameter_shapes()
            weights[weight] = draw_weight(rng, shape).astype(np.float32)
            weights[bias] = constant_bias(rng, bias_shape).astype(np.float32)
        return weights

    def images(self) -> list[np.ndarray]:
        """The data as (B, n, W, C)."""
        return [data.reshape(*data.shape[:3], -1) for data in self.data]


class Ours:
    """definetti_np, on dense arrays or on multisets as the workers deliver them."""

    package = "definetti_np.trainer"

    def __init__(self, job: Job, form: str, threads: int):
        from definetti_np import Model, MultisetBatch, Network, Trainer

        self.data, self.labels = job.data, job.labels
        if form == "MultisetBatch":
            self.data = [MultisetBatch.from_datasets(data) for data in job.data]
        loss = "cross-ent" if job.spec.ends_in_softmax else "l2"
        self.trainer = Trainer(Network(**job.spec.as_dict(), seed=job.seed), loss=loss, threads=threads)
        self.model = Model(self.trainer.network, loss=loss, seed=job.seed, batches_trained=0)

    def step(self, i: int) -> float:
        return self.trainer.step(self.data[i], self.labels[i])[0]

    def predict(self, i: int) -> np.ndarray:
        return self.model.predict(self.data[i], self.trainer.threads)


class Framework:
    """The network in terms of operations that each framework defines; activations are (B, n, P, C)."""

    def output(self, weights, x):
        """Log-probabilities after softmax, else estimates, (B, N)."""
        spec = self.spec
        for layer in spec.phi_layers:
            weight, bias = weights[f"{layer.name}.weight"], weights[f"{layer.name}.bias"]
            if layer.kind == "conv":
                x = self.relu(self.conv(x, weight, bias))
            else:
                x = self.relu(self.dense(self.reshape(x, (*x.shape[:2], -1)), weight, bias))[..., None]
        x = self.reshape(self.pool(x), (x.shape[0], -1))  # positions slowest, as ours
        for layer in spec.h_layers:
            x = self.dense(x, weights[f"{layer.name}.weight"], weights[f"{layer.name}.bias"])
            if layer is not spec.h_layers[-1]:
                x = self.relu(x)
        return self.log_softmax(x) if spec.ends_in_softmax else x

    def loss(self, weights, x, labels):
        output = self.output(weights, x)
        return self.mean_of_sums(-labels * output if self.spec.ends_in_softmax else (output - labels) ** 2)

    def pool(self, x):
        """Pooled features (B, P, C), or (B, P, K, C)."""
        kind = self.spec.poolings[0].kind
        if kind == "moments":
            return self.moments(x, [int(m) if m == int(m) else m for m in self.spec.poolings[0].orders])
        return self.sort(x) if kind == "sort" else self.maximum(x)


class Torch(Framework):
    """PyTorch with its fused Adam, in two memory layouts, three ways to take the maximum, and compiled."""

    package, install = "torch", "torch"

    @staticmethod
    def forms(spec):
        poolings = ("amax", "topk", "max_pool2d") if spec.poolings[0].k == 1 else (spec.poolings[0].kind,)
        layouts = ("contiguous", "channels_last") if spec.phi_layers[0].kind == "conv" else ("channels_last",)
        forms = [(layout, pooling, "eager") for layout, pooling in itertools.product(layouts, poolings)]
        return forms + [(layout, poolings[0], "compiled") for layout in layouts]

    def __init__(self, job: Job, form, threads: int):
        import torch

        self.torch, self.spec = torch, job.spec
        torch.set_num_threads(threads)
        layout, self.pooling, mode = form
        layout = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
        self.weights = {}
        for name, array in job.weights.items():
            weight = torch.from_numpy(array)
            if weight.ndim == 2:
                weight = weight.T.contiguous()
            elif weight.ndim == 3:
                weight = weight.permute(2, 1, 0).unsqueeze(2).contiguous(memory_format=layout)
            self.weights[name] = weight.clone().requires_grad_()
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=RATE, betas=(BETA1, BETA2), eps=EPSILON, fused=True)
        images = [torch.from_numpy(data).permute(0, 3, 1, 2) for data in job.images()]
        self.data = [image.contiguous(memory_format=layout).permute(0, 2, 3, 1) for image in images]
        self.labels = [torch.from_numpy(labels) for labels in job.labels]
        if mode == "compiled":
            self.output = torch.compile(self.output, dynamic=False)

    def step(self, i: int) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(self.weights, self.data[i], self.labels[i])
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def predict(self, i: int) -> np.ndarray:
        with self.torch.no_grad():
            output = self.output(self.weights, self.data[i])
            return (output.exp() if self.spec.ends_in_softmax else output).numpy()

    def conv(self, x, weight, bias):
        # Permuting only changes the view: the memory stays in the layout of the data.
        return self.torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weight, bias).permute(0, 2, 3, 1)

    def dense(self, x, weight, bias):
        return self.torch.nn.functional.linear(x, weight, bias)

    def maximum(self, x):
        if self.pooling == "amax":
            return x.amax(1)
        if self.pooling == "topk":
            return x.topk(1, 1).values.squeeze(1)
        return self.torch.nn.functional.max_pool2d(x.permute(0, 3, 1, 2), (x.shape[1], 1)).squeeze(2).transpose(1, 2)

    def sort(self, x):
        return x.sort(1, descending=True).values.transpose(1, 2)

    def moments(self, x, orders):
        return self.torch.stack([x.pow(m).mean(1) for m in orders], 2)

    def relu(self, x):
        return self.torch.relu(x)

    def reshape(self, x, shape):
        return x.reshape(shape)

    def log_softmax(self, x):
        return self.torch.log_softmax(x, 1)

    def mean_of_sums(self, x):
        return x.sum(1).mean()


class Jax(Framework):
    """JAX with a compiled training step; a convolution is XLA's, or gathered windows times a matrix."""

    package, install = "jax", "jax"

    @staticmethod
    def forms(spec):
        return [("conv",), ("windows",)] if spec.phi_layers[0].kind == "conv" else [("dense",)]

    def __init__(self, job: Job, form, threads: int):  # JAX takes its threads from the process's cores
        os.environ["JAX_PLATFORMS"] = "cpu"
        import jax

        self.jax, self.np, self.spec = jax, jax.numpy, job.spec
        (self.convolution,) = form
        weights = {name: jax.numpy.array(array) for name, array in job.weights.items()}
        moments = [{name: jax.numpy.zeros_like(weight) for name, weight in weights.items()} for _ in range(2)]
        self.state = weights, *moments, jax.numpy.zeros(())
        self.data = [jax.device_put(data) for data in job.images()]
        self.labels = [jax.device_put(labels) for labels in job.labels]
        self.compiled_step = jax.jit(self.stepped, donate_argnums=0)
        self.compiled_prediction = jax.jit(self.prediction)

    def stepped(self, state, x, labels):
        weights, first, second, steps = state
        loss, gradients = self.jax.value_and_grad(self.loss)(weights, x, labels)
        steps = steps + 1
        rate = RATE * self.np.sqrt(1 - BETA2**steps) / (1 - BETA1**steps)
        each = self.jax.tree.map
        first = each(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, gradients)
        second = each(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, gradients)
        weights = each(lambda w, m, v: w - rate * m / (self.np.sqrt(v) + EPSILON), weights, first, second)
        return loss, (weights, first, second, steps)

    def prediction(self, weights, x):
        output = self.output(weights, x)
        return self.np.exp(output) if self.spec.ends_in_softmax else output

    def step(self, i: int) -> float:
        loss, self.state = self.compiled_step(self.state, self.data[i], self.labels[i])
        self.jax.block_until_ready(self.state)
        return float(loss)

    def predict(self, i: int) -> np.ndarray:
        return np.asarray(self.compiled_prediction(self.state[0], self.data[i]))

    def conv(self, x, weight, bias):
        width, depth, channels = weight.shape
        if self.convolution == "conv":
            layout = ("NHWC", "HWIO", "NHWC")
            return self.jax.lax.conv_general_dilated(x, weight[None], (1, 1), "VALID", dimension_numbers=layout) + bias
        positions = x.shape[2] - width + 1
        windows = self.np.concatenate([x[:, :, i : i + positions] for i in range(width)], axis=3)
        return windows @ weight.reshape(width * depth, channels) + bias

    def dense(self, x, weight, bias):
        return x @ weight + bias

    def maximum(self, x):
        return x.max(axis=1)

    def sort(self, x):
        return self.np.sort(x, axis=1, descending=True).swapaxes(1, 2)

    def moments(self, x, orders):
        return self.np.stack([(x**m).mean(axis=1) for m in orders], axis=2)

    def relu(self, x):
        return self.jax.nn.relu(x)

    def reshape(self, x, shape):
        return x.reshape(shape)

    def log_softmax(self, x):
        return self.jax.nn.log_softmax(x)

    def mean_of_sums(self, x):
        return x.sum(axis=1).mean()


class TensorFlow(Framework):
    """TensorFlow with the graph of the original defiNETti: conv2d, top_k, and Adam as in TensorFlow 1.

    Also with other ways to take the maximum, and compiled by XLA.
    """

    package, install = "tensorflow", "tensorflow-cpu"

    @staticmethod
    def forms(spec):
        poolings = ("top_k", "reduce_max", "max_pool") if spec.poolings[0].k == 1 else (spec.poolings[0].kind,)
        return list(itertools.product(poolings, ("graph", "XLA")))

    def __init__(self, job: Job, form, threads: int):
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        import tensorflow as tf

        if tf.config.threading.get_intra_op_parallelism_threads() != threads:  # once, before anything is computed
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        self.tf, self.spec = tf, job.spec
        self.pooling, mode = form
        self.weights = {name: tf.Variable(self.as_stored(array)) for name, array in job.weights.items()}
        zeros = [{name: tf.Variable(tf.zeros_like(w)) for name, w in self.weights.items()} for _ in range(2)]
        self.first, self.second = zeros
        self.powers = tf.Variable(BETA1), tf.Variable(BETA2)
        self.data = [tf.constant(data) for data in job.images()]
        self.labels = [tf.constant(labels) for labels in job.labels]
        self.compiled_step = tf.function(self.stepped, jit_compile=mode == "XLA")
        self.compiled_prediction = tf.function(self.prediction, jit_compile=mode == "XLA")

    @staticmethod
    def as_stored(array):
        return array[np.newaxis] if array.ndim == 3 else array  # a convolution's window has height 1

    def stepped(self, x, labels):
        tf = self.tf
        with tf.GradientTape() as tape:
            loss = self.loss(self.weights, x, labels)
        gradients = tape.gradient(loss, self.weights)
        for name, weight in self.weights.items():
            tf.raw_ops.ResourceApplyAdam(
                var=weight.handle, m=self.first[name].handle, v=self.second[name].handle,
                beta1_power=self.powers[0].read_value(), beta2_power=self.powers[1].read_value(),
                lr=RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON, grad=gradients[name],
            )  # fmt: skip
        for power, beta in zip(self.powers, (BETA1, BETA2), strict=True):
            power.assign(power * beta)
        return loss

    def prediction(self, x):
        output = self.output(self.weights, x)
        return self.tf.exp(output) if self.spec.ends_in_softmax else output

    def step(self, i: int) -> float:
        return float(self.compiled_step(self.data[i], self.labels[i]))

    def predict(self, i: int) -> np.ndarray:
        return self.compiled_prediction(self.data[i]).numpy()

    def conv(self, x, weight, bias):
        return self.tf.nn.bias_add(self.tf.nn.conv2d(x, weight, 1, "VALID"), bias)

    def dense(self, x, weight, bias):
        return self.tf.matmul(x, weight) + bias

    def maximum(self, x):
        if self.pooling == "reduce_max":
            return self.tf.reduce_max(x, 1)
        if self.pooling == "max_pool":
            return self.tf.nn.max_pool2d(x, (x.shape[1], 1), 1, "VALID")[:, 0]
        return self.top_k(x, 1)

    def sort(self, x):
        return self.top_k(x, x.shape[1])

    def top_k(self, x, k):
        by_row = self.tf.transpose(x, (0, 2, 3, 1))
        return self.tf.transpose(self.tf.nn.top_k(by_row, k).values, (0, 1, 3, 2))

    def moments(self, x, orders):
        return self.tf.stack([self.tf.reduce_mean(x**m, 1) for m in orders], 2)

    def relu(self, x):
        return self.tf.nn.relu(x)

    def reshape(self, x, shape):
        return self.tf.reshape(x, shape)

    def log_softmax(self, x):
        return self.tf.nn.log_softmax(x)

    def mean_of_sums(self, x):
        return self.tf.reduce_mean(self.tf.reduce_sum(x, 1))


class Original(TensorFlow):
    """The graph of the original defiNETti alone, as it was written."""

    @staticmethod
    def forms(spec):
        return [("top_k", "graph")]


PEERS = {"PyTorch": Torch, "JAX": Jax, "TensorFlow": TensorFlow}
ORIGINAL = {"the original's graph": Original}
OURS = {f"ours, {form}": form for form in ("dense arrays", "MultisetBatch")}

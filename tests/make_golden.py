"""Write the golden files of this version of the file format: models with data and predictions, and a checkpoint.

    python tests/make_golden.py

Run it when `FORMAT_VERSION` has been raised, and never again: files of every version must load for ever.
"""

from pathlib import Path

import numpy as np

from definetti_np import HaplotypeEncoder, Haplotypes, Model, MultisetBatch, Network, Trainer
from definetti_np.files.archive import FORMAT_VERSION
from definetti_np.files.checkpoint import Checkpoint, write_checkpoint
from definetti_np.genomes.encoder import VERSION
from definetti_np.genomes.unusual import VERSION as SAMPLE_VERSION
from definetti_np.genomes.unusual import Collector

GOLDEN = Path(__file__).parent / "golden"
NETWORKS = {
    "conv": {
        "input_shape": (None, 6, 2),
        "output_shape": (3,),
        "phi_net": [("conv", 2, 3), ("conv", 3, 4)],
        "g": ("top_k", 2),
        "h_net": [("fc", 5), ("softmax",)],
    },
    "dense": {
        "input_shape": (7, 4),
        "output_shape": (2,),
        "phi_net": [("fc", 5), ("fc", 4)],
        "g": ("moments", 1, 2.5),
        "h_net": [("matmul",)],
    },
}


def main():
    for number, (name, network) in enumerate(NETWORKS.items(), 1):
        network = Network(**network, seed=number)
        loss = "cross-ent" if network.spec.ends_in_softmax else "l2"
        model = Model(network, loss=loss, seed=number, batches_trained=10 * number)
        data = np.random.default_rng(number).standard_normal((4, 7, *network.spec.input_shape[1:]))
        path = GOLDEN / f"version_{FORMAT_VERSION}_{name}"
        model.save(path)
        np.savez(f"{path}_predictions.npz", data=data, predictions=model.predict(data))
    trainer = Trainer(network, loss=loss)
    trainer.step(data, np.ones((4, 2)))
    run = {"network": network.spec.as_dict(), "batch_size": 4, "seed": 2}
    state = Checkpoint.of(trainer, run, batches=1, summary=["0 0.5 0.25"], redraws={"ValueError": 3})
    path = GOLDEN / f"version_{FORMAT_VERSION}_state.npz"
    write_checkpoint(path, state, previous=path)


def write_encoder():
    """The model of a version of encoders; run it alone when `genomes.encoder.VERSION` has been raised."""
    encoder = HaplotypeEncoder(snps=4, haplotypes=None, distance_scale=0.001, missing="channel")
    lists = {"phi_net": [("conv", 2, 3)], "g": ("max",), "h_net": [("fc", 5), ("softmax",)]}
    network = Network(encoder.shape, (2,), **lists, seed=4)
    model = Model(network, loss="cross-ent", seed=4, batches_trained=1, encoder=encoder, classes=("flat", "hotspot"))
    rng = np.random.default_rng(4)
    alleles = rng.integers(-1, 2, (20, 6), np.int8)
    positions = np.sort(rng.choice(1000, 20, replace=False)).astype(float)
    centers = positions[5:15] + 0.5
    predictions = model.predict(Haplotypes(alleles, positions, length=1000), centers=centers)
    path = GOLDEN / f"encoder_{VERSION}"
    model.save(path)
    np.savez(f"{path}_predictions.npz", alleles=alleles, positions=positions, centers=centers, predictions=predictions)


def write_sample():
    """The model of a version of samples; run it alone when `genomes.unusual.VERSION` has been raised."""
    encoder = HaplotypeEncoder(snps=4, haplotypes=6, distance_scale=0.001)
    lists = {"phi_net": [("conv", 2, 3)], "g": ("max",), "h_net": [("fc", 5), ("softmax",)]}
    network = Network(encoder.shape, (2,), **lists, seed=5)
    data = np.random.default_rng(5).integers(0, 2, (240, *encoder.shape)).astype(np.float32)
    data[200:] *= 2  # alleles that the simulations do not have
    collector = Collector(encoder)
    collector.add(MultisetBatch.from_datasets(list(data[:200])))
    sample = collector.sample(network.hidden)
    model = Model(network, loss="cross-ent", seed=5, batches_trained=1, encoder=encoder, sample=sample)
    path = GOLDEN / f"sample_{SAMPLE_VERSION}"
    model.save(path)
    np.savez(f"{path}_unusual.npz", data=data[160:], unusual=model.unusual(data[160:]))


if __name__ == "__main__":
    main()

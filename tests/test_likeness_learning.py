"""A network trained on simulations that look like the data is calibrated on masked data; one trained without is not."""

import numpy as np

from definetti_np import HaplotypeEncoder, Haplotypes, train
from definetti_np.genomes.intervals import contains

ENCODER = HaplotypeEncoder(snps=8, haplotypes=6, distance_scale=1 / 200)
LENGTH = 14_000  # so that a window has SNPs enough nearly always: draws that are repeated change the prior
DENSITY = (1 / 300, 1 / 150)  # of SNPs per bp, of the two classes


def haplotypes_of(label, rng, length=LENGTH):
    """Haplotypes of independent alleles, with a density of SNPs that the label decides."""
    positions = np.unique(rng.integers(0, length, rng.poisson(DENSITY[label] * length))).astype(float)
    alleles = rng.integers(0, 2, (len(positions), 6), np.int8)
    return Haplotypes(alleles, positions, length=length)


def simulator(rng):
    label = rng.integers(2)
    return haplotypes_of(label, rng), np.eye(2)[label]


def trained_with(encoder):
    return train(
        ENCODER.shape,
        (2,),
        simulator,
        phi_net=[("conv", 1, 8)],
        h_net=[("fc", 16), ("softmax",)],
        encoder=encoder,
        on_simulator_error="redraw",
        num_batches=300,
        batch_size=20,
        learning_rate=0.003,
        sim_threads=2,
        logfile=None,
        seed=2,
    )


def test_like__calibrates_on_masked_data():
    """Half of the genome is masked, in stretches shorter than a window, so that SNPs seem half as dense as they are."""
    length = 1_500_000
    mask = [(start, start + 150) for start in range(0, length, 300)]
    data = [haplotypes_of(label, np.random.default_rng(label), length).filter(inaccessible=mask) for label in (0, 1)]
    centers = np.random.default_rng(2).uniform(9000, length - 9000, 1500)
    centers = centers[contains(data[0].accessible, centers)]
    mean_of_dense, accuracy = [], []
    for encoder in (ENCODER, ENCODER.like(data[0])):
        model = trained_with(encoder)
        predicted = [model.predict(haplotypes, centers=centers)[:, 1] for haplotypes in data]
        mean_of_dense.append(np.mean(predicted))
        accuracy.append((np.mean(predicted[0] < 0.5) + np.mean(predicted[1] > 0.5)) / 2)
    # Both classes are as frequent, so the mean posterior of a calibrated network is one half.
    assert abs(mean_of_dense[1] - 0.5) < 0.06
    assert mean_of_dense[0] < 0.3
    assert accuracy[1] > accuracy[0] + 0.05

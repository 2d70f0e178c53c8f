"""How large was a population, and when did its size change? Posteriors from simulated genomes of 50 diploids.

    python example/demography.py [--simulations 20000] [--figures demography]

A population of constant size Ne, which T generations ago had `change` times that size. Data are the haplotypes around
the middle of a region: the SNPs nearest to it and their distances, which tell of Ne.
"""

import argparse
import time

import msprime
import numpy as np

from definetti_np import calibrate, diagnostics, train
from definetti_np.simulators import small_blocks

small_blocks()  # msprime is faster for short regions, and simulates the same

DIPLOIDS = 50
SNPS = 64
REGION = 100_000  # bp, which holds 64 SNPs in 19 of 20 simulations
MUTATION_RATE = RECOMBINATION_RATE = 1.25e-8  # per bp and generation
NAMES = ("log10 Ne", "log10 change", "log10 T")
BOX = [(3.5, 4.5), (-1, 1), (2.5, 4.5)]


def history(label):
    """The demography that a label describes. For another question change this, NAMES and BOX, and nothing else."""
    size, change, time_of_change = 10**label
    demography = msprime.Demography()
    demography.add_population(name="A", initial_size=size)
    demography.add_population_parameters_change(time=time_of_change, initial_size=size * change, population="A")
    return demography


def simulate(rng):
    """The haplotypes of the SNPs nearest to the middle (100, 64, 2), and the label (3,), see NAMES.

    Channel 0 is 1 where a haplotype has the minor allele; channel 1 is the logarithm of the distance to the next SNP,
    the same for all haplotypes. Missing SNPs, where there are fewer than 64, are zeros at a distance of the region.
    """
    label = np.array([rng.uniform(low, high) for low, high in BOX])
    seed = rng.integers(1, 2**31, 2)
    trees = msprime.sim_ancestry(
        DIPLOIDS, sequence_length=REGION, recombination_rate=RECOMBINATION_RATE, demography=history(label),
        random_seed=seed[0],
    )  # fmt: skip
    trees = msprime.sim_mutations(trees, rate=MUTATION_RATE, random_seed=seed[1], model=msprime.BinaryMutationModel())
    return encode(trees.genotype_matrix(), trees.tables.sites.position), label


def encode(alleles, positions):
    """Alleles (S, 100) of 0 and 1 and positions (S,) of any number of SNPs, as the network takes them."""
    order = np.sort(np.argsort(np.abs(positions - REGION / 2))[:SNPS])
    alleles, positions = alleles[order], positions[order]
    minor = np.where(alleles.mean(axis=1, keepdims=True) > 0.5, 1 - alleles, alleles)
    data = np.zeros((2 * DIPLOIDS, SNPS, 2))
    data[:, :, 1] = np.log10(REGION)
    data[:, : len(minor), 0] = minor.T
    gaps = np.diff(positions, append=positions[-1] if len(positions) else [])
    data[:, : len(minor), 1] = np.log10(1 + gaps)
    data[:, :, 1] -= 2.5  # about its mean
    return data


def learn(simulations, seed, **options):
    """Train the network: what SNPs of all haplotypes have in common is its context, so few layers do."""
    return train(
        (2 * DIPLOIDS, SNPS, 2),
        (len(NAMES),),
        simulate,
        phi_net=[("conv", 5, 32), ("conv", 5, 32)],
        context=[("distinct", 4, 8, 16), ("frequency",)],
        g=[("max",), ("moments", 1)],
        h_net=[("fc", 128), ("fc", 64), ("spline", 8)],
        label_range=BOX,
        label_names=NAMES,
        num_batches=simulations // 50,
        batch_size=50,
        reuse=4,
        schedule="cosine",
        seed=seed,
        **options,
    )


def draw(model, path, datasets=9):
    """Posteriors of a few fresh simulations against the truth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rng = np.random.default_rng(5)
    data, labels = zip(*(simulate(rng) for _ in range(datasets)), strict=True)
    samples = model.posterior(list(data)).sample(2000, seed=1)
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for i, axis in enumerate(figure.subplots(1, len(NAMES))):
        axis.violinplot([draws[:, i] for draws in samples], showextrema=False)
        axis.plot(range(1, datasets + 1), [label[i] for label in labels], "k_", markersize=12)
        axis.set(title=NAMES[i], xlabel="simulation", ylim=BOX[i])
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=20_000)
    parser.add_argument(
        "--checks", type=int, default=1000, help="fresh simulations for the temperature, and for the check"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", help="base name of the model file")
    parser.add_argument("--figures", help="folder for figures")
    options = parser.parse_args()
    start = time.perf_counter()
    model = learn(options.simulations, options.seed, save_path=options.save)
    print(f"trained in {time.perf_counter() - start:.0f} s")
    temperature = calibrate(model, simulate, options.checks, seed=options.seed + 2000)
    print(f"temperature {temperature:.3f}; above 1, the posteriors were too narrow, and are wider now")
    report = diagnostics.check(model, simulate, options.checks, seed=options.seed + 1000)
    print(f"{report}\nall in {time.perf_counter() - start:.0f} s")
    if options.save:
        model.save(options.save)  # with its temperature, and what the check has found
    if options.figures:
        report.plot(options.figures)
        draw(model, f"{options.figures}/posteriors.png")


if __name__ == "__main__":
    main()

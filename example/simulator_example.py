"""Recombination hotspot or not: simulated haplotypes around the middle of a short region (Chan et al. 2018, section 5).

The numbers are those of the original defiNETti's example. Its hotspots lie exactly in the middle of 24 SNPs, or
nowhere; `max_offset`, `elsewhere` and `snps` make regions as a scan of a genome meets them.
"""

import msprime
import numpy as np

from definetti_np import HaplotypeEncoder
from definetti_np.simulators import small_blocks

small_blocks()  # msprime is faster for short regions, and simulates the same

HAPLOTYPES = 198  # the size of the 1000 Genomes CEU sample
SNPS = 24  # of the original's windows
INPUT_SHAPE = (HAPLOTYPES, SNPS, 2)
OUTPUT_SHAPE = (2,)
NE = 1e4
MUTATION_RATE = 1.1e-8  # per bp and generation, as the other rates
MEAN_RECOMBINATION_RATE = 1.25e-8
REGION = 52_000  # bp, long enough to hold 64 SNPs almost always
HOTSPOT = 2_000  # bp, in the middle of the region
NEAREST = 4_000  # bp from the middle to that of a hotspot elsewhere
HEAT = (10, 100)  # range of the hotspot's rate over the background
CLASSES = ("flat", "hotspot")


def encoder_of(snps):
    """What `haplotypes_around_the_middle` computes, for real data."""
    return HaplotypeEncoder(snps=snps, haplotypes=HAPLOTYPES, alleles="minor", distance_scale=4 * NE * MUTATION_RATE)


def read_rates(path):
    """Read a genetic map in the HapMap format; return its positive rates per bp and their shares of the length."""
    genetic_map = msprime.RateMap.read_hapmap(path)
    used = genetic_map.rate > 0  # neither zero nor unknown
    lengths = genetic_map.span[used]
    return genetic_map.rate[used], lengths / lengths.sum()


def simulate_data(rates, probabilities, rng, max_offset=0, elsewhere=0, snps=SNPS):
    """Draw a dataset and its label: whether there is a hotspot in the middle of the region.

    Parameters
    ----------
    max_offset : float
        How far, in bp, the middle of such a hotspot may be from that of the region.
    elsewhere : float
        The share of the other regions that have a hotspot too, on one side.
    snps : int
        Of the window.

    Returns
    -------
    data : (198, snps, 2)
        Channel 0 is 1 where a haplotype has the minor allele of a SNP, else 0. Channel 1 is the distance to the next
        SNP times 4 Ne mu, 0 for the last one, the same for all haplotypes.
    label : (2,)
        One-hot: no hotspot in the middle, hotspot.
    """
    hotspot, background, heat = draw_parameters(rates, probabilities, rng)
    heat *= max(MEAN_RECOMBINATION_RATE / background, 1)
    offset = draw_offset(hotspot, rng, max_offset, elsewhere)
    middle = REGION / 2 + (offset or 0)
    start, stop = middle - HOTSPOT / 2, middle + HOTSPOT / 2
    rate = background if offset is None else background * heat
    recombination_map = msprime.RateMap(position=[0, start, stop, REGION], rate=[background, rate, background])
    data = None
    while data is None:
        data = haplotypes_around_the_middle(simulate_haplotypes(recombination_map, rng), snps)
    return data, np.eye(2)[hotspot]


def draw_parameters(rates, probabilities, rng):
    """Draw whether there is a hotspot, the background rate, and how much higher the hotspot's rate is."""
    return rng.integers(2), rng.choice(rates, p=probabilities), rng.uniform(*HEAT)


def draw_offset(hotspot, rng, max_offset, elsewhere):
    """Draw how far the middle of the region's hotspot is from that of the region, in bp; None if it has none."""
    if hotspot:
        return rng.uniform(-max_offset, max_offset) if max_offset else 0
    if not elsewhere or rng.random() >= elsewhere:
        return None
    return rng.choice([-1, 1]) * rng.uniform(NEAREST, (REGION - HOTSPOT) / 2)


def simulate_haplotypes(recombination_map, rng):
    """Simulate the tree sequence of one sample, with two different seeds for ancestry and mutations."""
    ancestry_seed, mutation_seed = rng.choice(2**31 - 1, size=2, replace=False, shuffle=False) + 1
    ancestry = msprime.sim_ancestry(
        HAPLOTYPES,
        ploidy=1,
        population_size=2 * NE,
        recombination_rate=recombination_map,
        discrete_genome=False,
        random_seed=ancestry_seed,
        record_provenance=False,
    )
    return msprime.sim_mutations(
        ancestry,
        rate=MUTATION_RATE,
        model=msprime.BinaryMutationModel(),
        discrete_genome=False,
        random_seed=mutation_seed,
        record_provenance=False,
    )


def haplotypes_around_the_middle(tree_sequence, snps=SNPS):
    """Return the data (198, snps, 2), half of the SNPs on each side of the region's middle, or None to draw it again.

    It is drawn again where a side has too few SNPs, or the hotspot holds all.
    """
    positions = tree_sequence.tables.sites.position
    middle = np.searchsorted(positions, REGION / 2)
    first, last = middle - snps // 2, middle + snps // 2
    in_hotspot = np.count_nonzero(abs(positions - REGION / 2) < HOTSPOT / 2)
    if first < 0 or last > len(positions) or in_hotspot >= snps:
        return None
    data = np.zeros((HAPLOTYPES, snps, 2))
    variants = tree_sequence.variants(left=positions[first], right=np.nextafter(positions[last - 1], REGION))
    for snp, variant in enumerate(variants):
        derived = variant.genotypes
        data[:, snp, 0] = derived if derived.sum() < HAPLOTYPES / 2 else 1 - derived
    data[:, :-1, 1] = np.diff(positions[first:last]) * 4 * NE * MUTATION_RATE
    return data

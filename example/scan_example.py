"""Plant hotspots on a simulated chromosome, write it as a VCF, and look for them with the model of run_example.py.

    python example/run_example.py
    python example/scan_example.py

Writes the VCF, the table, the calls and, with matplotlib installed, a figure to example/output.
"""

import argparse
from pathlib import Path

import msprime
import numpy as np
import simulator_example
from simulator_example import HOTSPOT, MEAN_RECOMBINATION_RATE

from definetti_np import Haplotypes, load, read_haplotypes

HERE = Path(__file__).parent
STRETCH = 100_000  # bp, with a background rate of its own and one hotspot
STEP = 500  # bp between the places of the scan
PRIOR = (0.98, 0.02)  # 2 kb of each 100 kb are a hotspot
CLOSE, FAR = 3_000, 10_000  # bp from a hotspot: a call that is not close is false; flat places are far
FALSE_CALLS = 0.5  # per Mb that are allowed


def main():
    options = parse_arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    recombination_map, hotspots = plant_hotspots(options.length, options.map, rng)
    simulated = Haplotypes.from_tree_sequence(simulator_example.simulate_haplotypes(recombination_map, rng))
    alleles = add_errors(simulated.alleles, options.genotype_errors, options.switch_errors, rng)
    path = options.output / "chromosome.vcf"
    write_vcf(path, alleles, simulated.positions, options.length)
    print(f"{path}: {len(hotspots)} hotspots on {options.length / 1e6:g} Mb")

    scan = load(options.model).scan(read_haplotypes(path), step=STEP, prior=PRIOR)
    scan.to_tsv(options.output / "scan.tsv")
    print(scan)
    print(f"Area under the ROC curve: {area_under_the_curve(scan, hotspots):.5f}")
    threshold, power, false_calls = power_of_calls(scan, hotspots)
    print(f"Power: {power:.3f} of the hotspots at {false_calls:.2g} false calls per Mb, those above {threshold:.6f}")
    scan.to_bed(options.output / "hotspots.bed", threshold=threshold)
    plot(options.output / "scan.png", scan, hotspots, threshold)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=HERE / "output" / "weights", help="what run_example.py has written")
    parser.add_argument("--length", type=int, default=5_000_000, help="of the chromosome, in bp (default 5,000,000)")
    parser.add_argument("--genotype-errors", type=float, default=0, help="share of the alleles (default 0)")
    parser.add_argument("--switch-errors", type=float, default=0, help="per SNP and individual (default 0)")
    parser.add_argument("--map", default=HERE / "genetic_map.txt", help="genetic map in the HapMap format")
    parser.add_argument("--seed", type=int, default=1, help="seed of the chromosome (default 1)")
    parser.add_argument("--output", type=Path, default=HERE / "output", help="folder for the results")
    return parser.parse_args()


def plant_hotspots(length, genetic_map, rng):
    """Draw a recombination map of stretches, with rates as the training had them; return the hotspots' middles too."""
    rates, probabilities = simulator_example.read_rates(genetic_map)
    edges, values, hotspots = [0], [], []
    for start in range(0, length, STRETCH):
        _, background, heat = simulator_example.draw_parameters(rates, probabilities, rng)
        heat *= max(MEAN_RECOMBINATION_RATE / background, 1)
        stop = min(start + STRETCH, length)
        middle = rng.uniform(start + 0.2 * (stop - start), start + 0.8 * (stop - start))
        edges += [middle - HOTSPOT / 2, middle + HOTSPOT / 2, stop]
        values += [background, background * heat, background]
        hotspots.append(middle)
    return msprime.RateMap(position=edges, rate=values), np.array(hotspots)


def add_errors(alleles, genotype_errors, switch_errors, rng):
    """Flip alleles, and swap the two haplotypes of an individual from a SNP on, at random; alleles (SNPs, haplotypes).

    Haplotypes 0 and 1 are the first individual, and so on.
    """
    alleles = alleles ^ (rng.random(alleles.shape) < genotype_errors)
    is_swapped = np.cumsum(rng.random((len(alleles), alleles.shape[1] // 2)) < switch_errors, axis=0) % 2 == 1
    first, second = alleles[:, ::2], alleles[:, 1::2]
    return np.stack([np.where(is_swapped, second, first), np.where(is_swapped, first, second)], -1).reshape(
        alleles.shape
    )


def write_vcf(path, alleles, positions, length):
    """Write phased diploid genotypes; of SNPs at one bp the first is kept."""
    number = alleles.shape[1] // 2
    whole, kept = np.unique(positions.astype(int), return_index=True)
    with open(path, "w") as file:
        file.write(f"##fileformat=VCFv4.2\n##contig=<ID=chr1,length={length}>\n")
        file.write('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n')
        file.write("\t".join("#CHROM POS ID REF ALT QUAL FILTER INFO FORMAT".split()))
        file.write("".join(f"\tsample{i}" for i in range(number)) + "\n")
        for position, row in zip(whole, alleles[kept].reshape(len(kept), number, 2).tolist(), strict=True):
            genotypes = "\t".join(f"{a}|{b}" for a, b in row)
            file.write(f"chr1\t{position + 1}\t.\tA\tC\t.\tPASS\t.\tGT\t{genotypes}\n")


def distances(places, hotspots):
    """How far places are from the middle of the nearest hotspot, in bp."""
    return abs(np.subtract.outer(places, hotspots)).min(axis=1)


def area_under_the_curve(scan, hotspots):
    """The chance that a place in a hotspot has a higher posterior than a place far from all."""
    away, is_ok = distances(scan.center, hotspots), scan.status == "ok"
    posterior = scan.column("hotspot")
    hot, flat = posterior[is_ok & (away < HOTSPOT / 2)], np.sort(posterior[is_ok & (away > FAR)])
    below = (np.searchsorted(flat, hot, "left") + np.searchsorted(flat, hot, "right")) / 2
    return np.mean(below) / len(flat)


def power_of_calls(scan, hotspots):
    """The lowest threshold with few enough false calls, the share of hotspots found there, and false calls per Mb."""
    megabases = (scan.end[-1] - scan.start[0]) / 1e6
    for threshold in 1 - np.geomspace(0.95, 1e-6, 100):
        calls = scan.calls(threshold)
        starts, ends = np.array([(call.start, call.end) for call in calls]).reshape(-1, 2).T
        # The gap between each call and each hotspot, negative where they overlap, (calls, hotspots).
        gaps = np.maximum(starts[:, None] - hotspots, hotspots - ends[:, None]) - HOTSPOT / 2
        false_calls = np.count_nonzero((gaps > CLOSE).all(axis=1)) / megabases
        if false_calls <= FALSE_CALLS:
            break
    return threshold, np.mean((gaps < 0).any(axis=0)), false_calls


def plot(path, scan, hotspots, threshold):
    """Draw the scan of the first 2 Mb over the truth, if matplotlib is installed."""
    try:
        axes = scan.plot(threshold=threshold)
    except ImportError as error:
        print(error)
        return
    for middle in hotspots / 1e6:
        axes.axvspan(middle - HOTSPOT / 2e6, middle + HOTSPOT / 2e6, ymin=0.96, color="black")
    axes.set(xlim=(0, min(2, scan.end[-1] / 1e6)), title="Orange: called. Black, above: planted.")
    axes.figure.savefig(path, dpi=150)
    print(f"Figure: {path}")


if __name__ == "__main__":
    main()

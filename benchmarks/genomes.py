"""Measure reading, encoding and scanning: a chromosome like human chromosome 20, 64 Mb and 198 haplotypes.

    python benchmarks/genomes.py

A VCF of 170,000 sites is read by the stream and, in turn, in a loop of cyvcf2 (the extra `vcf`); 10,000 windows are
encoded; and the whole is scanned every 500 bp with the published hotspot network and with the example's, reading
included.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import HOTSPOT, example_module, save, show, show_machine

from definetti_np import HaplotypeEncoder, Haplotypes, Model, MultisetBatch, Network, read_haplotypes
from definetti_np.genomes.unusual import Collector

LENGTH = 64_444_167  # bp
SITES = 170_000
HAPLOTYPES = 198
BLOCK = 1_000_000  # bp that are simulated once and repeated, because time does not depend on it
ENCODER = HaplotypeEncoder(snps=24, haplotypes=HAPLOTYPES, distance_scale=4 * 1e4 * 1.1e-8)
WINDOWS = 10_000


def main():
    options = parse_arguments()
    show_machine()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chromosome.vcf"
        write_vcf(path, np.random.default_rng(1))
        print(f"{path.stat().st_size / 1e6:.0f} MB, {SITES:,} sites of {HAPLOTYPES} haplotypes")
        readers = {"read, stream": read_haplotypes, "read, loop of cyvcf2": loop_of_cyvcf2}
        seconds, found = {name: [] for name in readers}, {}
        for _ in range(options.rounds):
            for name, read in readers.items():
                start = time.perf_counter()
                found[name] = read(path)
                seconds[name].append(time.perf_counter() - start)
        for name, measured in seconds.items():
            results[name] = show(name, np.array(measured), "s", 1)
        haplotypes, alleles = found.values()
        if not np.array_equal(haplotypes.alleles, alleles):
            sys.exit("the two readers do not agree")

        centers = 1e6 + 500.0 * np.arange(WINDOWS)
        part = haplotypes.slice(0, 7_000_000)
        results["encode"] = show(
            f"encode_many, {WINDOWS:,} windows", np.array([encode(part, centers) for _ in range(5)])
        )

        example, ours = example_module("hotspots"), example_module("run_example").NETWORK
        ours = HOTSPOT | ours | {"input_shape": example.encoder.shape}
        for name, encoder, network in (("published", ENCODER, HOTSPOT), ("example", example.encoder, ours)):
            windows, _ = encoder.encode_many(part, centers[:1000])
            results |= scan_with(name, encoder, network, path, haplotypes, windows, options.threads)
    save(options.json, results)


def scan_with(name, encoder, network, path, haplotypes, windows, threads):
    """Scan with an untrained network that has a sample of simulations, as trained ones have; return the times."""
    collector = Collector(encoder)
    collector.add(MultisetBatch.from_datasets(list(windows)))
    network = Network(**network, seed=1)
    options = {"encoder": encoder, "sample": collector.sample(network.hidden)}
    model = Model(network, loss="cross-ent", seed=1, batches_trained=0, **options)
    model.scan(haplotypes, stop=300_000, threads=threads)  # compiles
    windows = windows[:200]
    start = time.perf_counter()
    for window in windows:
        model.predict(window[np.newaxis], threads)
    one_by_one = len(windows) / (time.perf_counter() - start)
    start = time.perf_counter()
    scan = model.scan(read_haplotypes(path), threads=threads)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    model.scan(haplotypes, threads=threads)
    rate = len(scan) / (time.perf_counter() - start)
    print(f"{name} network: a scan of {len(scan):,} places, reading included: {whole:.1f} s")
    print(f"  windows a second: {rate:,.0f}; predicted one by one: {one_by_one:,.0f}; {rate / one_by_one:.1f} times")
    return {f"{name}, scan": whole, f"{name}, windows a second": rate, f"{name}, one by one": one_by_one}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each reader reads")
    parser.add_argument("--threads", type=int, help="of the scans, one for each core by default")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser.parse_args()


def write_vcf(path, rng):
    """Write a VCF of blocks with the alleles of one simulated stretch, at random positions."""
    from common import simulate_population

    simulated = Haplotypes.from_tree_sequence(simulate_population(rng, HAPLOTYPES, BLOCK))
    rows = [
        "\t".join(f"{a}|{b}" for a, b in zip(site[::2], site[1::2], strict=True)) for site in simulated.alleles.tolist()
    ]
    positions = np.sort(rng.choice(LENGTH, SITES, replace=False)) + 1
    names = "\t".join(f"sample{i}" for i in range(HAPLOTYPES // 2))
    with open(path, "w") as file:
        file.write(f"##fileformat=VCFv4.2\n##contig=<ID=chr20,length={LENGTH}>\n")
        file.write('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n')
        file.write(f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{names}\n")
        for i, position in enumerate(positions):
            file.write(f"chr20\t{position}\t.\tA\tC\t.\tPASS\t.\tGT\t{rows[i % len(rows)]}\n")


def loop_of_cyvcf2(path):
    """The alleles (S, n), as one writes it with cyvcf2."""
    import cyvcf2

    return np.array([variant.genotype.array()[:, :2].ravel() for variant in cyvcf2.VCF(str(path))], np.int8)


def encode(haplotypes, centers):
    """The seconds to encode windows, on one core, because NumPy uses no more for it."""
    start = time.perf_counter()
    ENCODER.encode_many(haplotypes, centers)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

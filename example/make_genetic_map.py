"""Write genetic_map.txt: a made-up map in the HapMap format whose rates are spread like those of a human chromosome.

The rates of its intervals, weighted with their lengths, have about the quantiles below. To infer hotspots in real
data, give run_example.py a real map.
"""

from pathlib import Path

import numpy as np

QUANTILES = {  # of the rate in cM/Mb, weighted with length
    0.00: 0.05, 0.01: 0.26, 0.05: 0.41, 0.10: 0.52, 0.25: 2.1, 0.50: 2.9, 0.75: 3.35, 0.95: 3.4, 0.99: 4.3, 1.00: 12.0,
}  # fmt: skip
INTERVALS = 1000
MEAN_LENGTH = 5000  # bp
START = 55550  # bp; like those of real maps, it does not start at 0


def main():
    rng = np.random.default_rng(2018)
    lengths = 1 + rng.geometric(1 / MEAN_LENGTH, INTERVALS)
    order = rng.permutation(INTERVALS)  # which interval has the smallest rate, the second smallest, ...
    fraction = np.empty(INTERVALS)
    fraction[order] = (np.cumsum(lengths[order]) - lengths[order] / 2) / lengths.sum()
    rates = np.interp(fraction, list(QUANTILES), list(QUANTILES.values()))
    rates[rng.choice(INTERVALS, INTERVALS // 50, replace=False)] = 0  # stretches without data, as real maps have

    positions = START + np.concatenate([[0], np.cumsum(lengths)])
    map_positions = np.concatenate([[0], np.cumsum(rates * lengths * 1e-6)])
    lines = ["Chromosome\tPosition(bp)\tRate(cM/Mb)\tMap(cM)"]
    for position, rate, map_position in zip(positions, [*rates, 0], map_positions, strict=True):
        lines.append(f"chr1\t{position}\t{rate:.6f}\t{map_position:.6f}")
    Path(__file__).with_name("genetic_map.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

"""What the hotspot example trains, for run_example.py and for the command line.

definetti train example/hotspots.py --output hotspots
definetti scan hotspots.npz calls.vcf.gz --step 500 --output scan.tsv
"""

from pathlib import Path

import simulator_example

from definetti_np.augment import mirror

RATES = simulator_example.read_rates(Path(__file__).with_name("genetic_map.txt"))


REGIONS = {  # the original has hotspots exactly in the middle of 24 SNPs; a scan asks about all places of a genome
    "max_offset": simulator_example.HOTSPOT / 2,  # bp: places anywhere in a hotspot
    "elsewhere": 0.5,  # of the flat regions: places beside one, if there is one in 100 kb
    "snps": 64,  # the flat parts of a window tell how much recombination is usual there
}


def simulator(rng):
    return simulator_example.simulate_data(*RATES, rng, **REGIONS)


encoder = simulator_example.encoder_of(REGIONS["snps"])  # input_shape follows from it
classes = simulator_example.CLASSES  # and output_shape from these
context = [  # numbers of all haplotypes together around each SNP: see docs/context.md
    ("distinct", 6, 12, 24, 48),
    ("effective", 6, 12, 24, 48),
    ("ld", 2, 4, 12, 24),
    ("four_gametes", 2, 4, 12, 24),
]
phi_net = [("conv", 1, 64)]
g = ("max",)
h_net = [("fc", 128), ("fc", 128), ("softmax",)]
num_batches = 500
verbosity = 25
reuse = 9  # each simulation is used ten times: see docs/learning.md
augment = mirror(distances=1)  # the hotspot is in the middle, so the order of the SNPs may be reversed
schedule = "cosine"
validation = 1000  # simulations that are not trained on

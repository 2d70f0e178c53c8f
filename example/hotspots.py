"""What the command line needs to train the hotspot example.

definetti train example/hotspots.py --output hotspots
definetti scan hotspots.npz calls.vcf.gz --step 500 --output scan.tsv
"""

from pathlib import Path

import simulator_example

RATES = simulator_example.read_rates(Path(__file__).with_name("genetic_map.txt"))


def simulator(rng):
    return simulator_example.simulate_data(*RATES, rng)


encoder = simulator_example.ENCODER  # input_shape follows from it
classes = simulator_example.CLASSES  # and output_shape from these
phi_net = [("conv", 5, 32), ("conv", 5, 64)]
g = ("top_k", 1)
h_net = [("fc", 128), ("fc", 128), ("softmax",)]
num_batches = 500
verbosity = 25

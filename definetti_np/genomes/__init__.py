"""From genomes to datasets: haplotypes, where they are read from, how a network sees them, and a scan along them."""

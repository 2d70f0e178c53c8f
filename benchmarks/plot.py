"""Draw the results that the other scripts wrote with --json: the ratios, a step's profile, and the sweep.

python benchmarks/plot.py hotspot.json workloads.json profile.json sweep.json --output docs/performance.png
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

import numpy as np

COLOURS = {"PyTorch": "#d55e00", "JAX": "#0072b2", "TensorFlow": "#e69f00"}
OURS = "ours, dense arrays"


def import_pyplot():
    """Import matplotlib, or say how to install it."""
    try:
        importlib.import_module("matplotlib").use("Agg")
    except ModuleNotFoundError:
        sys.exit('plotting needs matplotlib, which is not installed: pip install "definetti_np[plot]"')
    return importlib.import_module("matplotlib.pyplot")


def draw_ratios(axes, comparisons: list[dict]) -> None:
    """Bars of each framework's time over ours, with the range over the rounds."""
    titles = []
    for row, comparison in enumerate(comparisons):
        titles.append(f"{comparison['title']}\n{comparison['threads']} thread{'s' * (comparison['threads'] > 1)}")
        for place, (peer, colour) in enumerate(COLOURS.items()):
            ratio = comparison["ratios"].get(f"{peer} / {OURS}")
            if ratio is None:
                continue
            median, low, high = ratio
            y = row + 0.27 * (place - 1)
            axes.barh(y, median, 0.24, color=colour, label=peer if row == 0 else None)
            axes.plot([low, high], [y, y], color="black", linewidth=1)
            axes.text(high * 1.05, y, f"{median:.3g}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", yticks=range(len(titles)), title="Time relative to ours on the same dense arrays")
    axes.set_yticklabels(titles, fontsize=8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("framework / ours (bar: median, line: range over rounds)")
    axes.set_xlim(right=axes.get_xlim()[1] * 2)
    axes.invert_yaxis()
    axes.legend(loc="lower right", fontsize=8)


def draw_profiles(axes, profiles: list[dict]) -> None:
    """A stacked bar for each way to run a step: milliseconds of each group of kernels."""
    names = [f"{p['name'].removeprefix('ours, ')}\n{p['threads']} thread{'s' * (p['threads'] > 1)}" for p in profiles]
    totals = {}
    for column, profile in enumerate(profiles):
        for groups in profile["phases"].values():
            for group, ms in groups.items():
                totals.setdefault(group, np.zeros(len(profiles)))[column] += ms
    bottom = np.zeros(len(profiles))
    for group, ms in sorted(totals.items(), key=lambda item: -item[1].sum()):
        axes.bar(names, ms, 0.7, bottom=bottom, label=group)
        bottom += ms
    axes.set(title="A training step of the hotspot network, by kernels", ylabel="milliseconds")
    axes.tick_params(axis="x", labelsize=8)
    axes.legend(fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")


def draw_sweep(axes, sweep: dict) -> None:
    """Measured steps on MultisetBatches by sample size, and the model's line, for each number of SNPs."""
    from sweep import terms

    form = "ours, MultisetBatch"
    points = [p for p in sweep["points"] if p["network"] == "example"]
    for snps in sorted({p["W"] for p in points}):
        chosen = [p for p in points if p["W"] == snps]
        n = [p["n"] for p in chosen]
        (measured,) = axes.plot(n, [1e3 * np.median(p[form]) for p in chosen], "o", label=f"{snps} SNPs")
        model = [1e3 * np.dot(sweep["coefficients"], terms(p, form)) for p in chosen]
        axes.plot(n, model, color=measured.get_color(), linewidth=1)
    axes.set(xscale="log", yscale="log", title="Step on a MultisetBatch of 4 datasets (line: cost model)")
    axes.set(xlabel="haplotypes", ylabel="milliseconds")
    samples = sorted({p["n"] for p in points})
    axes.set_xticks(samples, [f"{n:,}" for n in samples], fontsize=8)
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_yticks([tick for e in range(-1, 5) for tick in (10**e, 2 * 10**e, 5 * 10**e) if low < tick < high])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=8, bbox_to_anchor=(1, 1), loc="upper left")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=Path, nargs="+", help="files that the scripts wrote with --json")
    parser.add_argument("--output", type=Path, default=Path("docs/performance.png"), help="the PNG to write")
    options = parser.parse_args()

    plt = import_pyplot()
    results = [json.loads(path.read_text())["results"] for path in options.results]
    comparisons = [comparison for result in results for comparison in result.get("comparisons", ())]
    profiles = [profile for result in results for profile in result.get("profiles", ())]
    sweeps = [result for result in results if "points" in result]
    panels = [draw for draw, found in ((draw_profiles, profiles), (draw_sweep, sweeps)) if found]

    figure = plt.figure(figsize=(13, max(6, 0.8 * len(comparisons))), layout="constrained")
    grid = figure.add_gridspec(max(1, len(panels)), 2 if panels else 1)
    if comparisons:
        draw_ratios(figure.add_subplot(grid[:, 0]), comparisons)
    for row, draw in enumerate(panels):
        draw(figure.add_subplot(grid[row, 1]), profiles if draw is draw_profiles else sweeps[0])
    figure.savefig(options.output, dpi=150)
    print(options.output)


if __name__ == "__main__":
    main()

"""Draw the one idea of the package, computed from three haplotypes: docs/idea.svg.

python docs/draw_idea.py
"""

from pathlib import Path

import numpy as np

HAPLOTYPES = np.array([[0, 1, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1, 0, 1, 0, 0]])
WIDTH = 3  # SNPs under a window
WEIGHT = np.array([[2, 1], [1, 2], [1, -1]])  # (width, channels) of the one convolution that stands for Phi

CELL = 30  # the side of a square, in pixels
FILLS = ["#8ec7e8", "#fbbf77", "#93d3a2", "#dcc3e6"]  # one for each distinct window, in every part of the drawing
FONTS = "Helvetica, Arial, sans-serif"
INK, GREY = "#222222", "#6b6b6b"


def compute():
    """What the drawing shows, by name, as the package computes it.

    rows (U, W), counts (U,)    the distinct rows in canonical order
    windows (V, width)          the distinct windows, numbered position by position
    index (U, P)                which window row u has at position p
    values (V, C)               the features of the windows
    pooled, winners (P, C)      the maximum over the rows, and the window that it comes from
    """
    rows, counts = np.unique(HAPLOTYPES, axis=0, return_counts=True)
    of_rows = np.lib.stride_tricks.sliding_window_view(rows, WIDTH, axis=1)  # (U, P, width)
    numbers = {}
    for window in of_rows.transpose(1, 0, 2).reshape(-1, WIDTH):
        numbers.setdefault(tuple(window.tolist()), len(numbers))
    index = np.array([[numbers[tuple(window)] for window in row] for row in of_rows.tolist()])
    windows = np.array(list(numbers))
    values = np.maximum(windows @ WEIGHT, 0)
    features = values[index]  # (U, P, C): the package never writes this array out
    winners = np.take_along_axis(index[:, :, np.newaxis], features.argmax(axis=0)[np.newaxis], axis=0)[0]
    return {
        "rows": rows,
        "counts": counts,
        "windows": windows,
        "index": index,
        "values": values,
        "pooled": features.max(axis=0),
        "winners": winners,
    }


def text(x, y, content, *, size=14, anchor="middle", colour=INK, weight="normal"):
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
        f'font-weight="{weight}">{content}</text>'
    )


def cell(x, y, content, fill, colour=INK, weight="normal"):
    square = f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{fill}" stroke="{GREY}" stroke-width="0.8"/>'
    return square + text(x + CELL / 2, y + CELL / 2 + 5, content, colour=colour, weight=weight)


def allele(x, y, value):
    return cell(x, y, value, *(("#595959", "white") if value else ("white", GREY)))


def table(x, y, array, draw):
    """Draw each number of an array (lines, columns) with draw(x, y, number)."""
    return [draw(x + CELL * j, y + CELL * i, int(n)) for i, line in enumerate(array) for j, n in enumerate(line)]


def title(x, y, number, content):
    circle = f'<circle cx="{x + 11}" cy="{y - 5}" r="11" fill="{INK}"/>'
    return [circle, text(x + 11, y, number, colour="white", weight="bold"), text(x + 30, y, content, **LEFT, size=15)]


def heads(x, y, contents, size=12):
    """Heads of columns."""
    return [text(x + CELL * (j + 0.5), y, head, size=size, colour=GREY) for j, head in enumerate(contents)]


def arrow(x1, y1, x2, y2):
    return f'<path d="M {x1} {y1} L {x2} {y2}" stroke="{INK}" stroke-width="1.6" marker-end="url(#head)"/>'


LEFT = {"anchor": "start"}
NOTE = {"size": 13, "anchor": "start", "colour": GREY}


def draw():
    """The drawing, as the text of an SVG."""
    shown = compute()
    rows, counts, windows, index = shown["rows"], shown["counts"], shown["windows"], shown["index"]
    values, pooled, winners = shown["values"], shown["pooled"], shown["winners"]
    positions = range(index.shape[1])
    wins = np.bincount(winners.ravel(), minlength=len(windows))

    def numbered(x, y, window):
        return cell(x, y, window, FILLS[window], weight="bold")

    parts = title(20, 40, 1, "A dataset: three haplotypes")
    parts += table(50, 72, HAPLOTYPES, allele)
    parts += [text(40, 92 + CELL * i, f"x{'₁₂₃'[i]}", anchor="end") for i in range(len(HAPLOTYPES))]
    parts += heads(50, 64, range(1, HAPLOTYPES.shape[1] + 1))
    parts += [text(50, 72 + CELL * len(HAPLOTYPES) + 20, "6 SNPs: 1 is the minor allele", **NOTE)]

    parts += title(330, 40, 2, "Its distinct rows, with counts")
    parts += table(390, 72, rows, allele)
    for u, count in enumerate(counts):
        parts += [text(380, 92 + CELL * u, f"row {u}", anchor="end")]
        parts += [text(390 + CELL * 6 + 10, 92 + CELL * u, f"× {count}", **LEFT, weight="bold")]
    parts += [text(390, 72 + CELL * len(rows) + 20, "sorted by their bytes", **NOTE)]

    parts += title(680, 40, 3, "Their distinct windows, computed once")
    x, y = 690, 72
    parts += [text(x + CELL / 2, y - 8, "no.", size=12, colour=GREY)]
    parts += [text(x + 45 + CELL * 1.5, y - 8, "window", size=12, colour=GREY)]
    parts += heads(x + 185, y - 8, ["a", "b"])
    parts += [text(x + 270, y - 8, "wins", size=12, colour=GREY)]
    for d in range(len(windows)):
        line = y + CELL * d
        parts += [numbered(x, line, d), *table(x + 45, line, windows[d : d + 1], allele)]
        parts += [arrow(x + 142, line + CELL / 2, x + 174, line + CELL / 2)]
        parts += table(x + 185, line, values[d : d + 1], lambda x, y, n, d=d: cell(x, y, n, FILLS[d]))
        parts += [text(x + 270, line + 20, wins[d])]
    parts += [text(x + 158, y + CELL * len(windows) + 20, "Phi", size=13, colour=GREY)]
    parts += [text(x + 185 + CELL, y + CELL * len(windows) + 20, "values", size=13, colour=INK, weight="bold")]

    parts += title(330, 268, 4, "Which window a row has at each position")
    x, y = 390, 313
    parts += [text(380, y - 8, "position", size=12, anchor="end", colour=GREY), *heads(x, y - 8, positions)]
    parts += table(x, y, index, numbered)
    parts += [text(380, y + 20 + CELL * u, f"row {u}", anchor="end") for u in range(len(rows))]
    parts += [text(x + CELL * 2, y + CELL * 2 + 20, "index", size=13, weight="bold")]

    parts += title(680, 268, 5, "The maximum over the rows")
    x = 735
    parts += [text(x - 10, y - 8, "position", size=12, anchor="end", colour=GREY), *heads(x, y - 8, positions)]
    for c, channel in enumerate("ab"):
        parts += [text(x - 10, y + 20 + CELL * c, f"channel {channel}", anchor="end", colour=GREY, size=12)]
        for p in positions:
            parts += [cell(x + CELL * p, y + CELL * c, pooled[p, c], FILLS[winners[p, c]])]
    parts += [text(x, y + CELL * 2 + 20, "colour: the window that wins;", **NOTE)]
    parts += [text(x, y + CELL * 2 + 38, "only winners get a gradient", **NOTE)]

    work = [HAPLOTYPES.shape[0] * len(positions), index.size, len(windows)]
    parts += [text(20, 268, "Windows to compute", **LEFT, size=15)]
    for i, (number, of_what) in enumerate(
        zip(work, ["in the haplotypes", "in distinct rows", "distinct: Phi computes these"], strict=True)
    ):
        line = 298 + 34 * i
        parts += [f'<rect x="20" y="{line}" width="{9 * number}" height="20" fill="{INK if i == 2 else "#d0d0d0"}"/>']
        parts += [text(20 + 9 * number + 8, line + 15, f"{number} {of_what}", **LEFT, size=13)]

    parts += [arrow(248, 102, 320, 102), arrow(630, 102, 672, 102), arrow(480, 164, 480, 242)]
    parts += [arrow(530, 343, 655, 343), arrow(905, 220, 905, 242)]
    body = "\n".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 430" font-family="{FONTS}">
<title>Three haplotypes, their distinct rows and windows, and the windows that win the maximum</title>
<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M 0 0 L 8 4 L 0 8 z" fill="{INK}"/></marker></defs>
<rect width="1000" height="430" fill="white"/>
{body}
</svg>
"""


if __name__ == "__main__":
    Path(__file__).with_name("idea.svg").write_text(draw(), "utf-8")

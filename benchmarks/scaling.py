"""Claim: rounds keep their cost as workers are added and the net grows.

The figures are rounds/s, images/s and bytes per round of RayGroup through shared memory, for
W = 1, 2, 4, 8 workers, H = 100, 200, 800, 3,200 hidden units and batch 512; and for H = 200 with an
elastic distortion of every image by 1.5 pixels. Bytes per round are the bytes written: the
parameters once, and a gradient for each tree node that a worker sends. With more workers than
cores, the figures show oversubscription of one machine, not a cluster; the report states the number
of cores. For one net, the blocks of the different W take turns.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from common import Row, arguments, processes, report
from contenders.base import Setting

from nanograd.nn.mlp import Architecture
from nanograd.training.local import assign_shards
from nanograd.training.tree import cover


def measure(
    workers: Sequence[int], nets: Sequence[Setting], seconds: float, repeats: int
) -> Iterator[Row]:
    """Yield a row for each net and W; the W of one net take turns."""
    for net in nets:
        settings = [replace(net, workers=number) for number in workers]
        with processes(*settings) as group:
            rounds = [each.calibrate(seconds) for each in group]
            speeds = [
                [each.speed(number) for each, number in zip(group, rounds, strict=True)]
                for _ in range(repeats)
            ]
        for setting, of_one in zip(settings, zip(*speeds, strict=True), strict=True):
            yield _row(setting, of_one, max(each.disturbed for each in group))


def _row(setting: Setting, speeds: Sequence[float], others: float) -> Row:
    parameters = Architecture(
        inputs=784, hidden=setting.hidden, classes=10, activation="relu", loss="cross_entropy"
    ).num_parameters
    held = assign_shards(setting.shards, setting.workers, range(setting.workers))
    nodes = sum(len(cover((0, setting.shards), frozenset(shards))) for shards in held.values())
    row = {
        "H": setting.hidden,
        "elastic": setting.elastic,
        "W": setting.workers,
        "rounds/s": round(median(speeds) / setting.batch, 1),
        "images/s": round(median(speeds)),
        "fastest images/s": round(max(speeds)),
        "MB a round": round((1 + nodes) * parameters * 4 / 1e6, 2),
        "others": round(others, 2),
    }
    sys.stderr.write(f"{row}\n")
    return row


def plot(rows: Sequence[Row], place: Path) -> None:
    """Plot images/s by W, with a line for each H; do nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for hidden, elastic in dict.fromkeys((row["H"], row["elastic"]) for row in rows):
        of_one = [row for row in rows if (row["H"], row["elastic"]) == (hidden, elastic)]
        axes.plot(
            [row["W"] for row in of_one],
            [row["images/s"] for row in of_one],
            marker="o",
            label=f"H = {hidden}" + (", elastic" if elastic else ""),
        )
    axes.set(xscale="log", yscale="log", xlabel="workers W", ylabel="images/s, batch 512")
    axes.set_xticks([row["W"] for row in rows], labels=[str(row["W"]) for row in rows])
    axes.legend()
    figure.savefig(place, dpi=120)


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--hidden", type=int, nargs="+", default=[100, 200, 800, 3200])
    parser.add_argument("--elastic", type=float, nargs="*", default=[1.5], help="pixels, H = 200")
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="a PNG file")
    options = parser.parse_args()
    net = Setting(name="nanograd", data=options.data, shards=8)
    nets = [replace(net, hidden=units) for units in options.hidden]
    distorted = [replace(net, elastic=pixels) for pixels in options.elastic]
    rows = list(measure(options.workers, [*nets, *distorted], options.seconds, options.repeats))
    report(rows, options.json)
    if options.plot is not None:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()

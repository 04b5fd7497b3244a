"""Simulate rounds per second for many workers on many hosts.

    python scripts/simulate_scaling.py

A round has phases, which follow each other: the workers of a host compute; the host's server adds
their sums; the servers exchange slices, first of the sums, then of the total; each server updates
the parameters. The processor time of a server grows with the bytes and frames that it sends and
receives. The constants were measured, or fitted to measurements, on hosts that shared two cores.
The first table compares the model with these measurements, which shows how reliable the simulations
in the second table are.
"""

import sys
from dataclasses import dataclass, replace
from math import ceil


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Cluster, net and batch of a simulated round."""

    hosts: int = 1  # K, each with a server
    workers: int = 1  # on each host
    num_parameters: int = 159_010  # P
    images: float = 128  # per worker and round
    distorted: bool = True  # whether images are distorted
    link: float | None = None  # speed of a host's link in bit/s, each way; None for no limit
    cores: int = 8  # per host
    is_one_machine: bool = False  # whether all hosts share these cores
    nodes: float = 1.0  # number of sums that a host sends, one per tree node


# Measured: seconds of a worker to distort an image.
DISTORT_S = 12.6e-6
# Measured: seconds of a server per parameter to add a worker's sum.
ADD_S = 0.35e-9
# Fitted: seconds of a worker per image and parameter; seconds of a server to update a parameter.
IMAGE_S_PER_PARAMETER, UPDATE_S = 4.55e-11, 4.05e-10
# Fitted: factor by which workers are slower if all cores, which share caches and memory, are busy.
BUSY = 1.38
# Fitted, in seconds: a round of a host without sending; a server's time per byte that it sends or
# receives, per frame, and per packet on a limited link; the latency of a step between hosts.
ROUND_S, BYTE_S, FRAME_S = 8.06e-05, 4.99e-10, 0.000179
PACKET_S, LATENCY_S = 4.56e-07, 0.000368
# Bytes on the wire per byte of a vector; a packet has 1,500 bytes, of which 66 are headers.
WIRE = 1.046
# (hosts, workers on each, parameters, images per worker, link, rounds per second), from
# benchmarks/results: Intel Xeon, undistorted images, all hosts on one machine with two cores.
_FIGURES = (
    (1, 1, 159_010, 512, None, 255),
    (1, 1, 636_010, 512, None, 72),
    (1, 1, 2_544_010, 512, None, 15.2),
    (1, 2, 159_010, 256, None, 366),
    (1, 2, 636_010, 256, None, 108),
    (1, 2, 2_544_010, 256, None, 23.7),
    (3, 1, 159_010, 128, None, 185),
    (3, 1, 159_010, 128, 1e9, 79.3),
    (3, 1, 159_010, 128, 1e8, 13.5),
    (3, 1, 636_010, 128, None, 65.9),
    (3, 1, 636_010, 128, 1e9, 19.7),
    (3, 1, 636_010, 128, 1e8, 3.31),
    (3, 2, 159_010, 128, None, 123),
    (3, 2, 159_010, 128, 1e9, 63),
    (3, 2, 159_010, 128, 1e8, 12.8),
    (3, 3, 159_010, 128, None, 85.4),
    (3, 3, 159_010, 128, 1e9, 51.7),
    (3, 3, 159_010, 128, 1e8, 12.5),
)
MEASURED = tuple(
    (
        Cluster(
            hosts=hosts, workers=workers, num_parameters=num_parameters, images=images,
            distorted=False, link=link, cores=2, is_one_machine=True,
        ),
        speed,
    )
    for hosts, workers, num_parameters, images, link, speed in _FIGURES
)  # fmt: skip


def bytes_each_way(cluster: Cluster) -> float:
    """Return the bytes that a host sends in a round, and receives: slices of sums and of totals."""
    share = (cluster.hosts - 1) / cluster.hosts
    return 4 * cluster.num_parameters * share * (cluster.nodes + 1)


def wire_s(cluster: Cluster) -> float:
    """Return the seconds that a link needs for the bytes of a round."""
    return 8 * WIRE * bytes_each_way(cluster) / cluster.link if cluster.link else 0.0


def worker_s(cluster: Cluster) -> float:
    """Return the processor time of a worker in a round, in seconds."""
    image_s = IMAGE_S_PER_PARAMETER * cluster.num_parameters
    num_here = cluster.workers * (cluster.hosts if cluster.is_one_machine else 1)
    busy = BUSY if num_here >= cluster.cores else 1.0
    return busy * cluster.images * (DISTORT_S * cluster.distorted + image_s)


def server_s(cluster: Cluster) -> float:
    """Return the processor time of a server in a round, in seconds."""
    parameters = cluster.num_parameters
    alone_s = ROUND_S + UPDATE_S * parameters + ADD_S * parameters * (cluster.workers - 1)
    if cluster.hosts == 1:
        return alone_s
    frames = 2 * (cluster.hosts - 1) * (cluster.nodes + 1)
    num_bytes = bytes_each_way(cluster)
    packets = 2 * num_bytes / 1434 if cluster.link else 0.0
    return alone_s + 2 * BYTE_S * num_bytes + FRAME_S * frames + PACKET_S * packets


def round_s(cluster: Cluster) -> float:
    """Return the seconds of a round."""
    waves = ceil(cluster.workers / cluster.cores)
    sequence_s = waves * worker_s(cluster) + server_s(cluster)
    if cluster.is_one_machine:
        work_s = cluster.workers * worker_s(cluster) + server_s(cluster)
        sequence_s = max(sequence_s, cluster.hosts * work_s / cluster.cores)
    latency_s = 2 * LATENCY_S if cluster.hosts > 1 else 0.0
    return sequence_s + wire_s(cluster) + latency_s


def main() -> None:
    """Print measured beside simulated speeds, then simulated speeds of larger clusters."""
    _print("hosts", "workers on each", "P", "link Mbit/s", "measured", "simulated", "ratio")
    _print(*["---"] * 7)
    for cluster, speed in MEASURED:
        simulated = 1 / round_s(cluster)
        link = f"{cluster.link / 1e6:,.0f}" if cluster.link else "none"
        numbers = f"{speed:.3g}", f"{simulated:.3g}", f"{simulated / speed:.2f}"
        _print(cluster.hosts, cluster.workers, f"{cluster.num_parameters:,}", link, *numbers)
    sys.stdout.write("\n")
    links = (1e9, 1e10, 2.5e10, 1e11)
    _print("hosts", "workers", *(f"{link / 1e9:.0f} Gbit/s" for link in links), "images/s at 25",
           "server, ms")  # fmt: skip
    _print(*["---"] * 8)
    for hosts in (1, 2, 8, 64, 256, 1000):
        cluster = Cluster(hosts=hosts, workers=8)
        speeds = [1 / round_s(replace(cluster, link=link)) for link in links]
        images = f"{speeds[2] * hosts * 8 * cluster.images:,.0f}"
        server_ms = f"{server_s(cluster) * 1e3:.1f}"
        _print(hosts, hosts * 8, *(f"{speed:.3g}" for speed in speeds), images, server_ms)


def _print(*cells: object) -> None:
    sys.stdout.write(f"| {' | '.join(map(str, cells))} |\n")


if __name__ == "__main__":
    main()

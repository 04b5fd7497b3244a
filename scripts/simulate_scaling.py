"""Simulate rounds per second for many workers on many hosts, with one parameter server or several.

    python scripts/simulate_scaling.py

A round has phases, each of which ends before the next begins: the server's host sends the
parameters, its link transfers them, the workers compute, the link transfers their sums, and the
server's host receives them and updates. With K servers, each has a K-th of every vector and its own
host and link. The constants were measured on hosts that shared two cores. The first table compares
the model with measurements, to show how reliable the second one is.
"""

import sys
from dataclasses import dataclass, replace
from math import ceil


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Cluster, net and batch of a simulated round.

    Args:
        near: number of workers on the server's host, which share its memory.
        far: number of workers on other hosts, which call it.
        num_servers: K, which share each vector.
        num_parameters: P.
        images: images per worker and round.
        distorted: whether images are distorted.
        link: speed of a host's link in bit/s, each way; None for no limit.
        cores: cores per host.
        hosts_share: whether all hosts are one machine with these cores.
        bytes_per_parameter: bytes of a parameter on the wire.
    """

    near: int = 1
    far: int
    num_servers: int = 1
    num_parameters: int = 159_010
    images: float = 128
    distorted: bool = True
    link: float | None = 1e9
    cores: int = 8
    hosts_share: bool = False
    bytes_per_parameter: int = 4


# From benchmarks/results/links_amd-epyc_2026-11-25.md. Measured: seconds of a worker per image, for
# distortion, and per parameter for the gradient; seconds of the server per parameter and worker.
DISTORT_S, IMAGE_S_PER_PARAMETER = 12.6e-6, 77.4e-12
SERVER_S_PER_PARAMETER = 1.1e-9
# Fitted to the four rows without a limit: processor time of a host to send or receive a vector in a
# call, and the latency between two hosts, in which neither works.
CALL_S, CALL_S_PER_BYTE = 3.8e-3, 1.8e-9
LATENCY_S = 4.9e-3

_LINKS = Cluster(near=1, far=2, images=42, cores=2, hosts_share=True)
_SMALL, _LARGE, _LOCAL = 159_010, 636_010, (79_510, 159_010, 636_010, 2_544_010)
# (cluster, rounds per second): the figures of links_*.md and, with two cores, of scaling_*.md.
MEASURED = (
    *(
        (replace(_LINKS, near=far // 2, far=far, num_parameters=num_parameters, link=link), speed)
        for far, num_parameters, link, speed in (
            (2, _SMALL, None, 31.8), (2, _SMALL, 1e9, 18.7), (2, _SMALL, 3e8, 10.9),
            (2, _SMALL, 1e8, 4.61), (2, _LARGE, None, 20.6), (2, _LARGE, 1e9, 8.0),
            (2, _LARGE, 3e8, 3.27), (2, _LARGE, 1e8, 1.22), (4, _SMALL, None, 24.1),
            (4, _SMALL, 1e9, 12.0), (6, _SMALL, None, 15.0), (6, _SMALL, 1e9, 8.37),
        )
    ),
    *(
        (
            Cluster(near=near, far=0, num_parameters=num_parameters, images=512 / near,
                    distorted=False, cores=2),
            speed,
        )
        for near, speeds in ((1, (352, 178, 44.3, 11.8)), (2, (564, 317, 59.5, 17.7)))
        for num_parameters, speed in zip(_LOCAL, speeds, strict=True)
    ),
)  # fmt: skip


def round_s(cluster: Cluster) -> float:
    """Return the seconds of a round."""
    return hosts_s(cluster) + 2 * wire_s(cluster)


def wire_s(cluster: Cluster) -> float:
    """Return the seconds in which a link transfers a vector to, or from, all far workers."""
    num_bytes = cluster.num_parameters / cluster.num_servers * cluster.bytes_per_parameter
    return 8 * num_bytes * cluster.far / cluster.link if cluster.link else 0.0


def hosts_s(cluster: Cluster) -> float:
    """Return the seconds in which hosts compute, copy vectors, and wait for each other."""
    part = cluster.num_parameters / cluster.num_servers
    call_s = CALL_S + CALL_S_PER_BYTE * part * cluster.bytes_per_parameter
    image_s = DISTORT_S * cluster.distorted + IMAGE_S_PER_PARAMETER * cluster.num_parameters
    near_s = cluster.images * image_s
    far_s = near_s + 2 * cluster.num_servers * call_s
    update_s = SERVER_S_PER_PARAMETER * part * (cluster.near + cluster.far)
    calls_s = 2 * call_s * ceil(cluster.far / cluster.cores)
    sequence_s = near_s + update_s
    if cluster.far:
        sequence_s = calls_s + far_s + update_s + 2 * LATENCY_S
    if not cluster.hosts_share:
        return sequence_s
    work = near_s * cluster.near + (far_s + 2 * call_s) * cluster.far + update_s
    return max(sequence_s, work / cluster.cores)


def main() -> None:
    """Print measurements beside their simulation, then simulations without measurements."""
    _print("near", "far", "P", "link Mbit/s", "measured", "simulated", "ratio")
    _print(*["---"] * 7)
    for cluster, speed in MEASURED:
        simulated = 1 / round_s(cluster)
        link = f"{cluster.link / 1e6:,.0f}" if cluster.link and cluster.far else "none"
        numbers = f"{speed:.3g}", f"{simulated:.3g}", f"{simulated / speed:.2f}"
        _print(cluster.near, cluster.far, f"{cluster.num_parameters:,}", link, *numbers)
    sys.stdout.write("\n")
    _print(
        "workers",
        "servers",
        "1 Gbit/s",
        "10 Gbit/s",
        "25 Gbit/s",
        "images/s at 25",
        "hosts' work, ms",
    )
    _print(*["---"] * 7)
    for workers in (8, 64, 1000):
        for servers in (1, 4, 16, 64):
            if servers <= workers:
                cluster = Cluster(far=workers - 1, num_servers=servers)
                speeds = [1 / round_s(replace(cluster, link=link)) for link in (1e9, 1e10, 2.5e10)]
                images = f"{speeds[-1] * workers * cluster.images:,.0f}"
                hosts_ms = f"{hosts_s(cluster) * 1e3:.0f}"
                _print(f"{workers:,}", servers, *(f"{s:.3g}" for s in speeds), images, hosts_ms)


def _print(*cells: object) -> None:
    sys.stdout.write(f"| {' | '.join(map(str, cells))} |\n")


if __name__ == "__main__":
    main()

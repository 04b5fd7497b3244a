"""Claim: on one machine, nanograd trains faster than the usual alternatives.

The figures are images per second of training steps only, without evaluation and checkpoints. The
net is 784-200-10 with ReLU and cross-entropy. It is trained by momentum SGD at a constant rate,
without an average of the weights, on images in memory.

- `--workers 2` (RayGroup, shared memory, one BLAS thread per process) against PyTorch DDP over gloo
  (2 processes of one thread), PyTorch in one process with 2 threads, Ray Train's TorchTrainer with
  2 workers, and the parameter server of Ray's documentation (waiting for the parameters every tenth
  round as documented, and every round).
- `--workers 0` (LocalGroup, 2 threads) against PyTorch in one process with 2 threads and 1, and
  scikit-learn's MLPClassifier with 2 BLAS threads and 1.

Each contender is a separate process, which is frozen (SIGSTOP, with Ray's own processes) while the
other runs. nanograd (A) and the peer (B) take turns, A B A B A, in blocks of about `--seconds`. A
ratio is the mean speed of the A before and after a B, over the speed of B. The report has the
median, the smallest and the largest ratio, and the ratio of the fastest blocks. A block is repeated
up to five times if other programs used more than 15 % of a core, and the least disturbed block
counts. "others" is the largest share of one core that other programs used in a block that counts.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from statistics import median

from common import Process, Row, alternate, arguments, report
from contenders.base import Setting

# Peers by the number of nanograd's workers.
_AGAINST = {
    2: (
        Setting(name="pytorch-ddp"),
        Setting(name="pytorch", workers=0, threads=2),
        Setting(name="ray-train"),
        Setting(name="ray-parameter-server"),
        Setting(name="ray-parameter-server-waiting"),
    ),
    0: (
        Setting(name="pytorch", workers=0, threads=2),
        Setting(name="pytorch", workers=0, threads=1),
        Setting(name="scikit-learn", workers=0, threads=2),
        Setting(name="scikit-learn", workers=0, threads=1),
    ),
}
_PEERS = sorted({peer.name for peers in _AGAINST.values() for peer in peers})


def measure(options: Namespace) -> Iterator[Row]:
    """Yield a row for each pair, number of shards and batch size."""
    ours = Setting(name="nanograd", data=options.data)
    for workers, batch, shards in product(options.workers, options.batch, options.shards):
        with Process(replace(ours, workers=workers, batch=batch, shards=shards)) as process:
            for peer in _AGAINST[workers]:
                if peer.name in options.only:
                    setting = replace(peer, data=options.data, batch=batch)
                    yield _pair(process, setting, options.seconds, options.repeats)


def _pair(ours: Process, setting: Setting, seconds: float, repeats: int) -> Row:
    ours.disturbed = 0.0
    with Process(setting) as peer:
        a, b, ratios = alternate(ours, peer, seconds, repeats)
    row = {
        "ours": f"--workers {ours.setting.workers}"
        + (f" --shards {ours.setting.shards}" if ours.setting.shards else ""),
        "peer": setting.name,
        "processes x threads": f"{max(1, setting.workers)} x {setting.threads}",
        "batch": setting.batch,
        "our images/s": round(median(a)),
        "its images/s": round(median(b)),
        "ratio": round(median(ratios), 2),
        "from": round(min(ratios), 2),
        "to": round(max(ratios), 2),
        "fastest": round(max(a) / max(b), 2),
        "others": round(max(ours.disturbed, peer.disturbed), 2),
    }
    sys.stderr.write(f"{row}\n")
    return row


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 0], choices=[2, 0])
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--shards", type=int, nargs="+", default=[0], help="0: the default")
    parser.add_argument("--only", nargs="+", default=_PEERS, choices=_PEERS, help="peers to run")
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    report(list(measure(options)), options.json)


if __name__ == "__main__":
    main()

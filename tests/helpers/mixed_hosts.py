"""Train on hosts whose processors seem to be of different kinds; print how each command ended.

A program of its own, run by test_mixed_hosts.py: a process that ends one Ray and starts a second
one may be ended by late threads of the first.
"""

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from tests.golden.test_portable_bits import RUNS
from tests.helpers.processes import run
from tests.runtime.test_kernel import PROCESSORS

HOSTS = ("SkylakeX", "Nehalem", "Sandybridge")


def main(folder: Path) -> None:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "env_vars": PROCESSORS[HOSTS[0]]}
    )
    for name in HOSTS[1:]:
        cluster.add_node(num_cpus=1, env_vars=PROCESSORS[name])
    cluster.wait_for_nodes()
    outcomes = []
    for words in (["--kernel", "portable"], ["--strict"]):
        done = run(
            sys.executable, "-m", "nanograd", "train", "--data", "sample", *RUNS["fast"],
            "--workers", "3", "--output", str(folder / words[-1]), *words,
            RAY_ADDRESS=cluster.address, RAY_AUTH_TOKEN="0" * 64,
        )  # fmt: skip
        last = json.loads(done.stdout.splitlines()[-1])
        outcomes.append({"code": done.returncode, "stderr": done.stderr, **last})
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(outcomes))  # noqa: T201 - it is a program


if __name__ == "__main__":
    main(Path(sys.argv[1]))

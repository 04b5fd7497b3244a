"""The commands of docs/cluster.md on four hosts, an object store and a shared folder.

The tests share one cluster and are in the order of the runbook.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nanograd import batch, commands
from nanograd.settings.specs import DataExportSpec, PredictSpec
from simulators.clusters import (
    SHARED,
    Cluster,
    Ended,
    OtherRay,
    events,
    running,
    start_store,
    write_credentials,
)
from simulators.waiting import wait_for

pytestmark = pytest.mark.hosts

# The runbook's three, and the one that is added.
HOSTS = (("head", 11), ("north", 12), ("south", 13), ("west", 14))
NUM_PARAMETERS, BYTES = 159_010, 4
PICTURES = """
import tempfile
from pathlib import Path
from nanograd import batch, commands
from nanograd.runtime import storage
from nanograd.settings.specs import DataExportSpec
with tempfile.TemporaryDirectory() as folder:
    commands.export_data(DataExportSpec(data="sample", output=f"{folder}/png"))
    for digit in (3, 8):
        for file in sorted(Path(folder, "png", str(digit)).iterdir())[:6]:
            storage.commit(f"s3://digits/png/{digit}/{file.name}", file.read_bytes())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The running cluster of the on-premise file, beside another user's Ray on the head."""
    with running(HOSTS, "nanograd") as network:
        head = network.hosts["head"]
        for machine in (network.client, *network.hosts.values()):
            write_credentials(machine, head)
        start_store(head)
        made = Cluster(network, OtherRay(head))
        made.edit("s/192.0.2./10.77.0./")  # the lines marked EDIT
        section = "Hosts of your own"
        made.run_block(section, 0)
        made.run_block(section, 1)
        made.wait_for_hosts(3)
        # `ray status` prints a report that the head makes every few seconds.
        nodes = "3 local.cluster.node"
        wait_for(lambda: nodes in made.run_block(section, 2), "`ray status` never has 3 hosts")
        yield made
        made.terminal.close()


def test_jobs_of_the_runbook_end_with_the_bits_of_one_process(cluster, checksum):
    put = cluster.client.run("cd ~/nanograd && python -", stdin=PICTURES)
    assert put.returncode == 0, put.stdout

    [output] = cluster.run_section("Jobs")

    ingested, trained, predicted = events(output)
    assert (ingested["rows"], ingested["ingested"]) == (12, 12)
    assert trained["workers"] == 6
    assert "6 workers on 3 hosts" in output
    assert trained["params_sha256"] == checksum(shards=8)
    assert (predicted["rows"], predicted["predicted"]) == (12, 12)


def test_stopped_job_resumes_on_other_hosts(cluster, checksum):
    section = "Watch, stop, resume"
    cluster.run_block(section, 0)
    cluster.wait_for_text("long", "rounds/s")
    cluster.run_block(section, 1)
    stopped = cluster.wait_for_end("long")
    cluster.edit("/10.77.0.13/d; s/^    - 10.77.0.12/&\\n    - 10.77.0.14/")
    cluster.run_section("Add a host, remove a host")
    cluster.wait_for_hosts(3)
    output = cluster.run_block(section, 2)

    assert stopped.last["code"] == 75  # Ray itself keeps no code of a stopped job
    assert "continuing after" in output
    assert events(output)[-1]["params_sha256"] == checksum(epochs=60, shards=8)
    assert cluster.network.hosts["south"].processes("raylet") == []


TOKEN, WRONG = "RAY_AUTH_MODE=token", f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN={'ab' * 32}"
NONE = "-u RAY_AUTH_MODE HOME=/tmp"
# Host of the command, its environment, and words of the reason.
REFUSALS = (
    ("north", NONE, "refuses our token"),
    ("north", WRONG, "refuses our token"),
    ("south", TOKEN, "is not a host of the Ray cluster"),
    ("head", TOKEN, "CPUs are free where 8 are needed"),
)


def test_command_that_cannot_join_and_job_without_the_token_are_refused(cluster):
    train = f"train --data sample --shards 8 --workers 8 --output {SHARED}/no"
    train += " --address 10.77.0.11:6379"
    submit = "ray job submit --address http://127.0.0.1:8265 -- true"
    with ThreadPoolExecutor(3) as pool:
        refused = [pool.submit(cluster.run_on, where, train, about) for where, about, _ in REFUSALS]
        jobs = [
            pool.submit(cluster.client.run, f"env {each} {submit}", timeout_s=60)
            for each in (NONE, WRONG)
        ]

    for done, (*_, words) in zip((each.result() for each in refused), REFUSALS, strict=True):
        assert done.code == 69, done.output
        assert words in done.last["reason"]
        assert "Traceback" not in done.output
    for job in (each.result() for each in jobs):
        assert job.returncode != 0
        assert "token" in job.stdout


def test_slow_link_costs_time_but_changes_no_bit(cluster, checksum):
    # One shard a worker: each host has the sum of one tree node.
    settings = {"batch_size": 128, "shards": 3, "epochs": 2}
    flags = "--data sample --batch-size 128 --shards 3 --workers 3 --epochs 2"
    before = cluster.network.num_bytes("head")
    cluster.network.limit("head", 100)

    done = on_shared_folder(cluster, f"train {flags} --output {SHARED}/slow")

    cluster.network.limit("head", None)
    after, rounds = cluster.network.num_bytes("head"), done.last["rounds"]
    # Two thirds of its sum and two thirds of the total; the rest is shards and Ray's own messages.
    least = 4 / 3 * NUM_PARAMETERS * BYTES
    for received_or_sent in (0, 1):
        carried = after[received_or_sent] - before[received_or_sent]
        assert 1 <= carried / (rounds * least) < 1.3
    assert rounds / done.last["train_s"] < 100e6 / 8 / least
    assert done.last["params_sha256"] == checksum(**settings)


def test_hosts_classify_pictures_in_a_shared_folder_as_one_process_does(cluster, tmp_path):
    place = Path(cluster.network.shared)
    commands.export_data(DataExportSpec(data="sample", output=str(tmp_path / "png")))
    shutil.copytree(tmp_path / "png" / "5", place / "png" / "5")

    ingested = on_shared_folder(
        cluster, f"ingest {SHARED}/png --workers 3 --output {SHARED}/rows --part-rows 16"
    )
    predicted = cluster.run_on(
        "north",
        f"predict {SHARED}/rows --workers 3 --model {SHARED}/slow/model --output {SHARED}/out "
        "--address 10.77.0.11:6379",
        TOKEN,
    )

    assert predicted.code == 0, predicted.output
    assert ingested.last["ingested"] == predicted.last["predicted"] == 100
    assert cluster.num_hosts_of_actors("MapWorker") > 1
    there = PredictSpec(model=f"{place}/slow/model", output=str(tmp_path / "out"), workers=0)
    batch.predict([f"{place}/rows"], spec=there)
    assert predictions(place / "out") == predictions(tmp_path / "out")


def predictions(place: Path) -> list[tuple[Any, ...]]:
    """Rows of a prediction's output in the order of its input, folders of files left out."""
    rows = pq.read_table(place / "predictions").to_pylist()
    return sorted((Path(row.pop("source_file")).name, *row.values()) for row in rows)


def test_down_ends_all_processes_except_those_of_another_user(cluster):
    cluster.run_section("Down")

    hosts = [cluster.network.hosts[name] for name in ("head", "north", "south")]

    def left() -> list[str]:
        lines = [line for host in hosts for line in host.processes("ray")]
        return [line for line in lines if line.startswith("nanograd")]

    # The head's connections to the others stay open for ten idle seconds (ssh's ControlPersist).
    wait_for(lambda: not left(), "a process is left", 30)
    assert cluster.other_ray.nodes() == cluster.other_ray.nodes_before


def on_shared_folder(cluster: Cluster, words: str) -> Ended:
    done = cluster.run_on("head", words, f"{TOKEN} RAY_ADDRESS=10.77.0.11:6379")
    assert done.code == 0, done.output
    return done

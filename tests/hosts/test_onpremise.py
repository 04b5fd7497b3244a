"""From `ray up` to `ray down` on three hosts, everything in an object store."""

from pathlib import Path

import pytest

from nanograd import commands
from nanograd.config import TrainConfig
from tests.e2e.conftest import quiet
from tests.hosts.cluster import Cluster

pytestmark = pytest.mark.hosts

FLAGS = "--data sample --epochs 2 --batch-size 128"
PICTURES = """
import tempfile
from pathlib import Path
from nanograd import commands, storage
with tempfile.TemporaryDirectory() as folder:
    commands.data_export("sample", f"{folder}/png", lambda sentence: None)
    for digit in (3, 8):
        for file in sorted(Path(folder, "png", str(digit)).iterdir())[:6]:
            storage.commit(f"s3://digits/png/{digit}/{file.name}", file.read_bytes())
"""


def test_three_hosts_do_the_three_jobs_from_up_to_down(
    cluster: Cluster, store: str, tmp_path: Path
) -> None:
    alone = commands.train(
        TrainConfig(
            data="sample", epochs=2, batch_size=128, workers=0, output=str(tmp_path / "run")
        ),
        quiet,
    )
    put = cluster.desk.run("cd ~/nanograd && python -", stdin=PICTURES)
    assert put.returncode == 0, put.stdout

    ingested = cluster.submit(f"python jobs/ingest.py {store}/png --output {store}/rows")
    trained = cluster.submit(f"python jobs/train.py {FLAGS} --workers 3 --output {store}/run")
    model = f"{store}/run/model"
    predicted = cluster.submit(
        f"python jobs/predict.py {store}/rows --model {model} --output {store}/read"
    )

    assert ingested.code == trained.code == predicted.code == 0, (
        ingested.output + trained.output + predicted.output
    )
    assert (ingested.last["rows"], ingested.last["ingested"]) == (12, 12)
    assert trained.last["workers"] == 3
    assert trained.last["params_sha256"] == alone["params_sha256"]
    assert (predicted.last["rows"], predicted.last["predicted"]) == (12, 12)

    cluster.down()

    left = {name: host.processes("ray") for name, host in cluster.world.hosts.items()}
    assert left == {"head": [], "north": [], "south": []}

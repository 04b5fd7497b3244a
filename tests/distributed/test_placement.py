"""How many actors there are, and who has the CPUs when."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd import batch, commands
from nanograd.distributed import cluster
from nanograd.distributed.cluster import num_actors
from nanograd.errors import ClusterError
from nanograd.settings.specs import PredictSpec
from nanograd.settings.train_spec import TrainSpec


def test_there_are_as_many_actors_as_cpus_but_those_of_others(ray_cpus, hold, monkeypatch):
    num_actors(ray_cpus)  # waits until the actors of the test before have given back their CPUs
    monkeypatch.setattr(cluster, "CPU_TIMEOUT_S", 0)
    assert [num_actors(None, most=most) for most in (None, 193, 1)] == [ray_cpus, ray_cpus, 1]
    hold(1)

    assert num_actors(None) == ray_cpus - 1
    for asked in (ray_cpus, 99):
        with pytest.raises(ClusterError, match=f"{ray_cpus - 1} of {ray_cpus} CPUs are free"):
            num_actors(asked)


def test_prediction_has_the_cpu_that_training_held(ray_cpus, hold, tmp_path, sample):
    hold(ray_cpus - 1)
    run, rows, read = (str(tmp_path / name) for name in ("run", "a.parquet", "read"))
    pq.write_table(pa.table({"image": list(sample.test.images)}), rows)
    learning = TrainSpec(data="sample", output=run, epochs=1, hidden=8, workers=1)
    trained = commands.train(spec=learning).to_json()
    reading = PredictSpec(model=trained["model"], output=read, workers=1)
    predicted = batch.predict([rows], spec=reading).to_json()

    assert predicted["predicted"] == 1000

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.extensions import ArrowTensorArray

import nanograd
from nanograd.models import model as model_io
from tests.helpers.folders import untimed_contents
from tests.helpers.image_columns import ray_tensors
from tests.helpers.models import some_model

ROWS = 29
V2, VARIABLE = "tensor_v2", "variable_shaped_tensor"


def test_tensors_of_ray_are_predicted_alike_by_any_process(
    sample, tmp_path, nanograd_process, joining
):
    model_io.save(some_model(), str(tmp_path / "model"))
    images = sample.test.images[:ROWS].reshape(ROWS, 28, 28)
    wide = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    tables = {
        "v1": ray_tensors(images, "tensor"),
        "v2": ray_tensors(images),
        "variable": ray_tensors(images, VARIABLE, b"2"),
        # Those of Ray 2.49 to 2.54 are never unpickled.
        "pickled v2": ray_tensors(images, V2, pickle.dumps((28, 28))),
        "pickled variable": ray_tensors(images, VARIABLE, pickle.dumps(2)),
        "v2 of 32 x 32": ray_tensors(wide),
        "pickled v2 of 32 x 32": ray_tensors(wide, V2, pickle.dumps((32, 32))),
    }
    (tmp_path / "in").mkdir()
    for name, table in tables.items():
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet")
    by_ray = pa.table(dict.fromkeys(("image", "other"), ArrowTensorArray.from_numpy(images)))
    pq.write_table(by_ray, tmp_path / "in/by ray.parquet")

    for workers, variables in (("0", {}), ("1", joining)):
        words = ("predict", "in", "--model", "model", "--output", f"out{workers}")
        done = nanograd_process(*words, "--keep", "other", "--workers", workers, **variables)
        assert done.code == 0, done.stderr
    # This process has imported Ray's types.
    places = {"model": tmp_path / "model", "output": tmp_path / "here"}
    nanograd.predict(tmp_path / "in", keep=["other"], **places)

    read = pq.read_table(tmp_path / "out1/predictions").to_pandas()
    by_file = {Path(file).stem: rows for file, rows in read.groupby("source_file")}
    for other in ("out1", "here"):
        assert untimed_contents(tmp_path / "out0") == untimed_contents(tmp_path / other)
    assert set(by_file) == {*tables, "by ray"} - {"pickled v2 of 32 x 32"}
    for name in set(by_file) - {"v2 of 32 x 32"}:
        assert by_file[name]["prediction"].tolist() == by_file["v1"]["prediction"].tolist()
    [reason] = pq.read_table(tmp_path / "out1/quarantine")["reason"].unique().to_pylist()
    assert reason == "wrong_shape"

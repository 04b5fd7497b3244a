import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd import batch
from nanograd.digits.form import to_png
from nanograd.models import model as model_io
from nanograd.settings.specs import PredictSpec
from tests.conftest import ROOT
from tests.helpers.image_columns import raw
from tests.helpers.models import some_model

PAGE = (ROOT / "docs/ray-data.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


# A user with so few rows sees this warning of Ray Data, too.
@pytest.mark.filterwarnings("ignore:The minimum number of concurrent actors")
def test_documented_pipeline_has_the_predictions_of_the_command(
    sample, tmp_path, hold, ray_cpus, capsys
):
    hold(ray_cpus - 2)  # so that Ray starts fewer processes
    model_io.save(some_model(), str(tmp_path / "runs/1/model"))
    images = sample.test.images[:193]
    rows = [b"no picture", *raw(images).to_pylist()]
    (tmp_path / "rows").mkdir()
    table = pa.table({"id": range(194), "image": rows, "label": [7] * 194})
    pq.write_table(table, tmp_path / "rows/a.parquet")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/7.png").write_bytes(to_png(images[0]))
    # The processes of this Ray run in another folder.
    code = re.sub('"(rows|read|photos|runs/1/model)"', rf'"{tmp_path}/\1"', "".join(BLOCKS))

    exec(code, {})  # noqa: S102 - our own documentation

    assert "7.png" in capsys.readouterr().out
    settings = {"model": str(tmp_path / "runs/1/model"), "workers": 0, "keep": ("id",)}
    config = PredictSpec(**settings, output=str(tmp_path / "out"))
    batch.predict([str(tmp_path / "rows")], spec=config)
    expected = pq.read_table(tmp_path / "out/predictions").sort_by("id")
    found = pq.read_table(tmp_path / "read").sort_by("id")
    assert found["reason"].to_pylist() == ["broken_image", *[None] * 193]
    assert found["prediction"].to_pylist() == [None, *expected["prediction"].to_pylist()]
    assert found["label"].to_pylist() == [None, *expected["label"].to_pylist()]
    np.testing.assert_allclose(
        found["confidence"].to_numpy()[1:], expected["confidence"].to_numpy(), rtol=1e-5
    )

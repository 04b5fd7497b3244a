"""nanograd from Python: what the commands do, without them."""

import signal
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

import nanograd
from nanograd import commands
from nanograd.config.train_config import TrainConfig
from nanograd.data.mnist import Mnist
from nanograd.errors import DataError, Stopped, UsageError
from nanograd.pictures import normalise
from nanograd.runtime.events import EpochFinished, Event, broadcast
from tests.helpers.drawings import drawings, painted
from tests.helpers.processes import run_python

SETTINGS: dict[str, Any] = {
    "data": "sample", "hidden": 8, "epochs": 2, "warmup": 2, "batch_size": 512, "elastic": 0.0
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> nanograd.Training:
    return nanograd.train(output=tmp_path_factory.mktemp("api") / "run", **SETTINGS)


def printed(code: str, **environment: str) -> str:
    done = run_python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_nothing_that_is_slow() -> None:
    loaded = printed("import sys, nanograd; print(*sys.modules)").split()

    assert {"numpy", "ray", "pyarrow", "PIL", "click", "sklearn"}.isdisjoint(loaded)


def test_every_name_it_offers_is_there_and_others_are_not() -> None:
    for name in nanograd.__all__:
        assert name in dir(nanograd)
        assert getattr(nanograd, name).__module__.startswith("nanograd.")
    with pytest.raises(AttributeError, match="module 'nanograd' has no attribute 'trian'"):
        _ = nanograd.trian  # type: ignore[attr-defined]


def test_function_and_command_train_to_the_same_bits(
    tmp_path: Path, run: nanograd.Training
) -> None:
    config = TrainConfig.resolve({**SETTINGS, "workers": 0, "output": str(tmp_path / "run")})

    figures = commands.train(config)

    assert run.model.params_sha256() == run.figures["params_sha256"] == figures["params_sha256"]
    assert run.figures["test_accuracy"] == figures["test_accuracy"]


def test_run_has_its_metrics_and_its_directory(run: nanograd.Training) -> None:
    assert [row["epoch"] for row in run.metrics] == [1, 2]
    assert run.metrics[0]["loss"] > run.metrics[1]["loss"]
    assert Path(run.directory, "report.html").exists()
    again = nanograd.load_model(Path(run.directory) / "model")
    assert again.params_sha256() == run.model.params_sha256()


def test_listener_receives_events_and_text_log_renders_them(tmp_path: Path) -> None:
    events: list[Event] = []
    lines: list[str] = []

    listener = broadcast(events.append, nanograd.TextLog(lines.append))
    run = nanograd.train(output=tmp_path / "run", listener=listener, **SETTINGS)

    epochs = [event.metrics for event in events if isinstance(event, EpochFinished)]
    assert [epoch.loss for epoch in epochs] == [row["loss"] for row in run.metrics]
    assert any(line.startswith("train  epoch 2/2") for line in lines)


def test_same_call_finds_the_work_done(run: nanograd.Training) -> None:
    events: list[Event] = []

    again = nanograd.train(output=run.directory, listener=events.append, **SETTINGS)

    assert again.metrics == run.metrics
    assert any("holds this run, complete" in str(event) for event in events)


def test_ctrl_c_stops_a_run_that_the_same_call_finishes(
    tmp_path: Path, run: nanograd.Training
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, EpochFinished) and event.metrics.epoch == 1:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Stopped, match="the same settings with --output"):
        nanograd.train(output=tmp_path / "run", listener=interrupt, **SETTINGS)
    finished = nanograd.train(output=tmp_path / "run", **SETTINGS)

    assert finished.model.params_sha256() == run.model.params_sha256()
    assert signal.getsignal(signal.SIGINT) == before


def test_training_in_this_process_does_not_import_ray(tmp_path: Path) -> None:
    code = f"""
import sys, nanograd
nanograd.train(output={str(tmp_path / "run")!r}, **{SETTINGS!r})
print("ray" in sys.modules)
"""

    assert printed(code) == "False\n"


def test_thread_of_another_program_may_train(tmp_path: Path) -> None:
    found: list[nanograd.Training] = []
    thread = Thread(
        target=lambda: found.append(nanograd.train(output=tmp_path / "run", **SETTINGS))
    )

    thread.start()
    thread.join()

    assert len(found) == 1


def test_settings_that_are_wrong_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown setting 'epoch'; known are .*epochs"):
        nanograd.train(epoch=3)
    with pytest.raises(UsageError, match="quiet is for the terminal"):
        nanograd.train(quiet=True)
    with pytest.raises(UsageError, match="--preset is 'fsat': choose classic or fast"):
        nanograd.train(preset="fsat")
    with pytest.raises(DataError, match="is not a model directory"):
        nanograd.load_model(tmp_path)


@pytest.mark.parametrize(
    "form",
    [
        lambda images: images,
        lambda images: images.reshape(-1, 28, 28),
        lambda images: images.astype(np.int64),
        lambda images: images / 255,
        lambda images: (images / 255).astype(np.float32).reshape(-1, 28, 28),
        lambda images: images.tolist(),
        np.asfortranarray,
    ],
)
def test_every_form_of_the_same_images_is_read_alike(
    sample: Mnist, run: nanograd.Training, form: Any
) -> None:
    images = sample.test.images[:193]

    scores = run.model.predict_proba(form(images))

    assert np.array_equal(scores, run.model.scores(images))
    assert np.array_equal(run.model.predict(form(images)), scores.argmax(axis=1))


def test_threads_that_predict_at_once_get_the_same_bits(run: nanograd.Training) -> None:
    code = f"""
import numpy as np, nanograd
from concurrent.futures import ThreadPoolExecutor
model = nanograd.load_model({run.directory!r} + "/model")
images = np.random.default_rng(0).integers(0, 256, (193, 784))
model.predict(images)  # threadpoolctl then lets the main thread alone set limits
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lambda _: model.predict_proba(images).tobytes(), range(64)))
print(len(set(found)))
"""

    # As many BLAS threads as a machine may have: a limit that ended early would show.
    assert printed(code, OMP_NUM_THREADS="2", OPENBLAS_NUM_THREADS="2") == "1\n"


def test_no_images_are_no_digits(run: nanograd.Training) -> None:
    assert run.model.predict(np.zeros((0, 28, 28), np.uint8)).shape == (0,)


@pytest.mark.parametrize(
    ("images", "why"),
    [
        (np.zeros((28, 28), np.uint8), r"not \(28, 28\)"),
        (np.zeros((1, 1, 28, 28), np.uint8), r"not \(1, 1, 28, 28\)"),
        (np.full((1, 784), 255.0), "from 255.0 to 255.0: floats must lie in 0 to 1"),
        (np.full((1, 784), -1), "from -1 to -1"),
        (np.full((1, 784), 256), "from 256 to 256"),
        (np.full((1, 784), np.nan), "from nan to nan"),
        (np.full((1, 784), "7"), "not <U1"),
        (np.full((1, 784), 1j), "not complex128"),
    ],
)
def test_images_of_another_kind_are_refused(run: nanograd.Training, images: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        run.model.predict(images)


def test_pictures_are_read_from_paths_archives_and_bytes(tmp_path: Path) -> None:
    picture = painted(next(iter(drawings(1, seed=2))))
    stream = BytesIO()
    picture.save(stream, "PNG")
    (tmp_path / "0.png").write_bytes(stream.getvalue())
    with ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("0/x.png", stream.getvalue())

    found = [
        nanograd.read_picture(place)
        for place in (tmp_path / "0.png", f"{tmp_path}/in.zip/0/x.png", stream.getvalue())
    ]

    for image in found:
        assert np.array_equal(image, normalise.normalise(picture))


def test_picture_in_which_nothing_can_be_read_says_why(tmp_path: Path) -> None:
    Image.new("L", (100, 100), 255).save(tmp_path / "blank.png")

    with pytest.raises(nanograd.UnreadableError) as caught:
        nanograd.read_picture(tmp_path / "blank.png")

    assert caught.value.reason == "blank"

"""The whole pipeline on the built-in sample: train, draw pictures, ingest them, read them."""

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

from nanograd import commands, storage
from nanograd.commands import Figures, Say
from nanograd.config import IngestConfig, PredictConfig
from nanograd.progress import Show, ignore
from nanograd.report import closing
from nanograd.train_config import TrainConfig

_TRAINING = TrainConfig.resolve(
    {"preset": "accurate", "data": "sample", "workers": 2, "overwrite": True}
)


def demo(output: str, say: Say, show: Show = ignore) -> Iterator[tuple[str, Figures]]:
    """The whole pipeline on the built-in sample; yields (command, figures) as each step is done."""
    from nanograd.distributed.session import session

    began = perf_counter()
    run, pictures, rows, read = (storage.join(output, n) for n in ("run", "png", "rows", "read"))
    with session(None, 2):
        say("training on the built-in sample with two Ray workers")
        training = commands.train(replace(_TRAINING, output=run), say, show)
        yield "train", training
        say("writing its test digits as PNG files, as your own folder of digits could look")
        commands.data_export("sample", pictures, say)
        ingest = IngestConfig(output=rows, overwrite=True)
        yield "ingest", commands.ingest(ingest, [pictures], say, show)
        predict = PredictConfig(output=read, model=training["model"], overwrite=True)
        reading = commands.predict(predict, [rows], say, show)
        yield "predict", reading
    say(closing.of_demo(reading, pictures=pictures, rows=rows, model=training["model"]))
    figures = {"test_accuracy": training["test_accuracy"], "accuracy": reading["accuracy"]}
    yield "demo", {**figures, "demo_s": round(perf_counter() - began, 3), "output": output}

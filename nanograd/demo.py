"""The whole pipeline on the built-in sample, offline."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from nanograd.commands import export_data, ingest, predict, train
from nanograd.distributed.cluster import session
from nanograd.results import Result, lines
from nanograd.runtime import storage
from nanograd.runtime.events import Listener, ignore, info


@dataclass(frozen=True, kw_only=True)
class Demo(Result):
    """The result of the demo."""

    test_accuracy: float  # of the training run
    accuracy: float | None  # of the prediction
    predicted: int  # rows
    demo_s: float
    output: str  # folder

    def summary(self) -> str:
        """Return a text for people."""
        model = storage.join(self.output, "run", "model")
        return lines(
            f"classified {self.predicted:,} handwritten digits, "
            f"{self.accuracy:.2%} of them correctly",
            ("pictures", storage.join(self.output, "png")),
            ("as Parquet", storage.join(self.output, "rows")),
            ("predictions", storage.join(self.output, "read")),
            ("the model", model),
            next_=f"nanograd ingest YOUR_PICTURES --output rows; "
            f"nanograd predict rows --model {shlex.quote(model)} --output read",
        )


def demo(output: str, listener: Listener = ignore) -> Iterator[tuple[str, Result]]:
    """Run the pipeline with two Ray workers; yield the name of each command with its result."""
    began = perf_counter()
    run, pictures, rows, read = (storage.join(output, n) for n in ("run", "png", "rows", "read"))
    job: Any = {"overwrite": True, "listener": listener}
    with session(None, 2, listener):
        listener(info("training on the built-in sample with two Ray workers"))
        trained = train(preset="accurate", data="sample", workers=2, output=run, **job)
        yield "train", trained
        listener(info("writing its test digits as PNG files, like a folder of your own digits"))
        export_data(["sample"], pictures, listener)
        yield "ingest", ingest(pictures, output=rows, workers=None, **job)
        model = storage.join(run, "model")
        predicted = predict(rows, output=read, model=model, workers=None, **job)
        yield "predict", predicted
    result = Demo(
        test_accuracy=trained.test_accuracy,
        accuracy=predicted.accuracy,
        predicted=predicted.predicted,
        demo_s=round(perf_counter() - began, 3),
        output=output,
    )
    listener(info(result.summary()))
    yield "demo", result

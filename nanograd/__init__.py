"""A three-layer perceptron on MNIST, with the same bits for any number of Ray workers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanograd.api import load_model, read_numbers, read_picture
    from nanograd.batch import ingest, inspect, predict, review
    from nanograd.commands import compare, evaluate, export, train
    from nanograd.console.log_lines import TextLog
    from nanograd.console.results import (
        Comparison,
        Corrections,
        Evaluation,
        Export,
        Ingestion,
        Inspections,
        Plan,
        Prediction,
        Training,
    )
    from nanograd.errors import NanogradError, UnreadableError
    from nanograd.models.model import Model
    from nanograd.predictor import Predictor
    from nanograd.sklearn import MLPClassifier

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Corrections",
    "Evaluation",
    "Export",
    "Ingestion",
    "Inspections",
    "MLPClassifier",
    "Model",
    "NanogradError",
    "Plan",
    "Prediction",
    "Predictor",
    "TextLog",
    "Training",
    "UnreadableError",
    "compare",
    "evaluate",
    "export",
    "ingest",
    "inspect",
    "load_model",
    "predict",
    "read_numbers",
    "read_picture",
    "review",
    "train",
]

# Names that are slow to import are imported on first use (PEP 562).
_MODULES = dict.fromkeys(__all__, "nanograd.console.results") | {
    "MLPClassifier": "nanograd.sklearn",
    "Model": "nanograd.models.model",
    "NanogradError": "nanograd.errors",
    "Predictor": "nanograd.predictor",
    "TextLog": "nanograd.console.log_lines",
    "UnreadableError": "nanograd.errors",
    **dict.fromkeys(("load_model", "read_numbers", "read_picture"), "nanograd.api"),
    **dict.fromkeys(("ingest", "inspect", "predict", "review"), "nanograd.batch"),
    **dict.fromkeys(("compare", "evaluate", "export", "train"), "nanograd.commands"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})

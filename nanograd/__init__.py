"""A three-layer perceptron on MNIST, with the same bits for any number of Ray workers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # type checkers export a name that is imported with `as`
    from nanograd.api import Predictor as Predictor
    from nanograd.api import load_model as load_model
    from nanograd.api import read_numbers as read_numbers
    from nanograd.api import read_picture as read_picture
    from nanograd.batch import ingest as ingest
    from nanograd.batch import inspect as inspect
    from nanograd.batch import predict as predict
    from nanograd.batch import review as review
    from nanograd.commands import compare as compare
    from nanograd.commands import evaluate as evaluate
    from nanograd.commands import export as export
    from nanograd.commands import train as train
    from nanograd.console.log_lines import TextLog as TextLog
    from nanograd.console.results import Comparison as Comparison
    from nanograd.console.results import Corrections as Corrections
    from nanograd.console.results import Evaluation as Evaluation
    from nanograd.console.results import Export as Export
    from nanograd.console.results import Ingestion as Ingestion
    from nanograd.console.results import Inspections as Inspections
    from nanograd.console.results import Plan as Plan
    from nanograd.console.results import Prediction as Prediction
    from nanograd.console.results import Training as Training
    from nanograd.errors import NanogradError as NanogradError
    from nanograd.errors import UnreadableError as UnreadableError
    from nanograd.models.model import Model as Model
    from nanograd.sklearn import MLPClassifier as MLPClassifier

__version__ = "0.1.0"

# Modules of the names that this package offers. They are imported on first use (PEP 562), because
# they are slow to import.
_NAMES = {
    "api": ("Predictor", "load_model", "read_numbers", "read_picture"),
    "batch": ("ingest", "inspect", "predict", "review"),
    "commands": ("compare", "evaluate", "export", "train"),
    "console.log_lines": ("TextLog",),
    "console.results": (
        "Comparison",
        "Corrections",
        "Evaluation",
        "Export",
        "Ingestion",
        "Inspections",
        "Plan",
        "Prediction",
        "Training",
    ),
    "errors": ("NanogradError", "UnreadableError"),
    "models.model": ("Model",),
    "sklearn": ("MLPClassifier",),
}
_MODULES = {name: f"nanograd.{module}" for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)  # noqa: PLE0605 - type checkers take the imports above


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})

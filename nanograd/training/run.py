"""One training run in its run directory: begin or go on, train, test once, save the model.

    RUN/  config.toml  metrics.jsonl  checkpoints/  model/

`run.json` says which recipe and data the directory belongs to, so that a second command of the
same kind goes on and one of another kind is refused.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nanograd import storage
from nanograd.config import TrainConfig
from nanograd.data.dataset import Dataset, split
from nanograd.data.mnist import Mnist
from nanograd.errors import DataError, OutputExistsError
from nanograd.model import load, save
from nanograd.training import checkpoint, loop
from nanograd.training.checkpoint import History
from nanograd.training.group import WorkerGroup
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import Snapshot, first_snapshot

MakeGroup = Callable[[Recipe, Dataset, Snapshot], WorkerGroup]

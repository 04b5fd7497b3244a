from collections.abc import Callable
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from nanograd import commands
from nanograd.settings.train_spec import TrainSpec
from simulators.machines import unavailable

Checksum = Callable[..., str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, where there can be no machines."""
    ours = [item for item in items if item.nodeid.startswith("tests/hosts/")]
    if ours and (reason := unavailable()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def checksum() -> Checksum:
    """Return a function of settings: the checksum of the parameters that one process computes."""

    @cache
    def train(**settings: Any) -> str:
        with TemporaryDirectory() as folder:
            given = {"data": ["sample"], "workers": 0, "output": f"{folder}/run", **settings}
            return str(commands.train(spec=TrainSpec.resolve(given)).to_json()["params_sha256"])

    return train

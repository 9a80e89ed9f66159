"""A base model, a dataset, and runs with their scheduler."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.data import save_base, write_zip

from resnet_hub.demo.runs.scheduler import Scheduler
from resnet_hub.demo.runs.store import RunStore


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("shelf") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zip(tmp_path_factory.mktemp("data") / "colors.zip")


@pytest.fixture
def runs(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def scheduler(runs: RunStore) -> Iterator[Scheduler]:
    scheduler = Scheduler(runs)
    yield scheduler
    scheduler.close()

"""The directory of a training run. Imports no torch.

It holds everything of the run: a process that can open it can watch, stop, resume or share the run.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnet_hub.atomic import write_atomic
from resnet_hub.datasets.remote import HUB_PREFIX
from resnet_hub.datasets.report import DatasetReport
from resnet_hub.errors import DataError, TrainingError
from resnet_hub.training.config import TrainConfig, read_settings
from resnet_hub.training.events import Epoch, Sample
from resnet_hub.training.run_lock import RunLock


class EvaluationSplit(NamedTuple):
    """The images that the saved model is evaluated on."""

    split: str  # of the dataset
    indices: list[int]  # in that split
    name: str  # such as "test" or "20% held out"
    chose_epoch: bool  # whether the epoch was chosen on the same images, which makes their metrics optimistic


# Keys of version 0.1 -> the fields of `SplitRecord`
_FIELD_OF_OLD_KEY = {
    **{"pictures": "images", "called": "validation_name"},
    **{"split": "validation_split", "held_out": "validation"},
}


@dataclass(frozen=True, kw_only=True)
class SplitRecord:
    """The content of `split.json`: which images a run trains, validates and evaluates on.

    The images to train on, which may be a million, are stored as those of the split that are left out.
    """

    images: dict[str, int]  # number in each split of the dataset
    labels: list[str]
    excluded: list[int]  # indices in the split "train" that are not trained on
    validation: list[int]  # indices in `validation_split`
    validation_split: str
    validation_name: str
    test: list[int] | None = None  # indices in the split "test", if the saved model is evaluated on it
    digests: dict[str, str] | None = None  # of the images; older runs have none

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "SplitRecord":
        fields = {_FIELD_OF_OLD_KEY.get(key, key): value for key, value in content.items()}
        if "train" in fields:  # older runs
            fields["excluded"] = _complement(fields.pop("train"), fields["images"]["train"]).tolist()
        return cls(**fields)

    @property
    def train(self) -> np.ndarray:
        """The indices in the split "train" to train on, int64 (N,)."""
        return _complement(self.excluded, self.images["train"])


def _complement(indices: Sequence[int], length: int) -> np.ndarray:
    return np.delete(np.arange(length), np.asarray(indices, np.int64))


class RunDir:
    """The files of a run directory.

    Attributes:
        settings: `run.json`, the settings.
        report: `report.json`, the report on the dataset.
        split: `split.json`, a `SplitRecord`.
        history: `history.jsonl`, a line per epoch.
        state: `state.safetensors`, the training state.
        samples: `samples.json`, the last predictions for a few validation images.
        base: `base`, a copy of the base model.
        model: `model`, the checkpoint folder with the best weights so far.
        head: `head.safetensors`, the head of `model` before its calibration.
        evaluation: `evaluation.json`, the evaluation of the finished model.
        stop: If this file appears, the run stops.
        end: If this file appears, the training ends as at its time limit.
        lock: `lock`, held by the process that trains.
        images: `images`, decoded images, while the run is not finished.
        features: Features of some images, between the phases of a run.
        stream: `stream`, the positions of each process in a stream.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.settings, self.history = self.folder / "run.json", self.folder / "history.jsonl"
        self.report, self.split = self.folder / "report.json", self.folder / "split.json"
        self.samples, self.evaluation = self.folder / "samples.json", self.folder / "evaluation.json"
        self.state, self.stop, self.end = self.folder / "state.safetensors", self.folder / "stop", self.folder / "end"
        self.lock = RunLock(self.folder)
        self.base, self.model = self.folder / "base", self.folder / "model"
        self.head = self.folder / "head.safetensors"
        self.stream = self.folder / "stream"
        self.images, self.features = self.folder / "images", self.folder / "features.safetensors"

    def check_location(self, data: str) -> None:
        """Raise `TrainingError` where a new run would be written among the images of its dataset.

        A run directory of its own inside the dataset is left out when the dataset is read.
        """
        run, source = self.folder.resolve(), Path(data).resolve()
        if self.exists() or data.startswith(HUB_PREFIX) or not source.exists():
            return
        if source == run or any(source.is_relative_to(folder) for folder in (run / "images", run / "model")):
            raise TrainingError(
                f"The dataset {data} is in the run directory {self.folder}, whose files a training replaces and "
                "deletes. Name another run directory."
            )
        if run.is_relative_to(source) and self.folder.is_dir():
            names = {path.name for path in self.folder.iterdir()} - {"lock", "stop", "end", "logs"}
            if names and not names & {"split.json", "report.json"}:  # of a start that failed
                raise TrainingError(
                    f"The run directory {self.folder} is a folder of the dataset {data} with other files in it. Name "
                    "a new folder."
                )

    def exists(self) -> bool:
        return self.settings.is_file()

    def create(self, config: TrainConfig) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.settings, json.dumps(asdict(config), indent=1) + "\n")

    @property
    def config(self) -> TrainConfig:
        """The settings that `create` wrote; raises `TrainingError` if they cannot be read."""
        try:
            content = json.loads(self.settings.read_text(encoding="utf-8"))
            return read_settings(content)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise TrainingError(f"Cannot read the run in {self.folder}: {error}.") from None

    def read_report(self) -> DatasetReport | None:
        """Returns the report on the dataset; None if there is none that can be read."""
        try:
            return DatasetReport.from_json(self.report.read_text(encoding="utf-8"))
        except (OSError, DataError):
            return None

    def write_split(self, record: SplitRecord) -> None:
        write_atomic(self.split, json.dumps(asdict(record)))

    def read_split(self) -> SplitRecord:
        """Raises `OSError` if the images have not been chosen yet."""
        return SplitRecord.from_dict(json.loads(self.split.read_text(encoding="utf-8")))

    def evaluation_split(self) -> EvaluationSplit:
        """Returns which images the saved model is evaluated on; raises `OSError` if they have not been chosen yet."""
        record = self.read_split()
        if record.test is not None:
            return EvaluationSplit("test", record.test, "test", chose_epoch=False)
        evaluations = sum(epoch.accuracy is not None for epoch in self.epochs())
        chose_epoch = evaluations > 1 and self.config.select != "last"
        return EvaluationSplit(record.validation_split, record.validation, record.validation_name, chose_epoch)

    def append(self, event: Epoch) -> None:
        """Adds a line to the history."""
        is_torn = self.history.is_file() and not self.history.read_bytes().endswith(b"\n")  # the disk was full
        with self.history.open("a", encoding="utf-8") as file:
            file.write("\n" * is_torn + json.dumps(event._asdict()) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_samples(self) -> list[Sample]:
        """Returns the last predictions for a few validation images; none before the first evaluation."""
        try:
            return [Sample(**row) for row in json.loads(self.samples.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    def epochs(self) -> list[Epoch]:
        """Returns the history; if a resumed run repeated an epoch, only its last line."""
        epochs: dict[int, Epoch] = {}
        if self.history.is_file():
            for line in self.history.read_text(encoding="utf-8").splitlines():
                try:
                    event = Epoch(**json.loads(line))
                except (ValueError, TypeError):  # the process was killed while it wrote the line
                    continue
                epochs[event.epoch] = event
        return [epochs[epoch] for epoch in sorted(epochs)]

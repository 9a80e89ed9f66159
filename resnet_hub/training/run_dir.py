"""The directory of a training run. Imports no torch.

Whoever holds the directory can watch, stop, resume or share the run; nothing of it lives in a process only."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from resnet_hub.atomic import write_atomic
from resnet_hub.errors import TrainingError
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Epoch, Sample


class EvaluationSplit(NamedTuple):
    """The pictures that figures are of: those at `places` of a split of the data, and what they are called."""

    split: str
    places: list[int]
    called: str
    chose_epoch: bool  # whether the kept epoch is the one that did best on them, so that their figures are lucky


class RunDir:
    """The folder of a run.

    `run.json` is what was asked, `report.json` what the data is like, `split.json` which pictures are held out,
    `history.jsonl` a line an epoch, `state.safetensors` where it stands, `samples.json` what the last epoch made of a
    few held-out pictures, `model` the checkpoint folder kept so far, `evaluation.json` how good that is in the end. A
    file `stop` asks it to stop, a file `end` to end as if its time were up. Runs in pieces keep `pictures.safetensors`
    and `features.safetensors` meanwhile.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.settings, self.history = self.folder / "run.json", self.folder / "history.jsonl"
        self.report, self.split = self.folder / "report.json", self.folder / "split.json"
        self.state, self.model = self.folder / "state.safetensors", self.folder / "model"
        self.evaluation = self.folder / "evaluation.json"
        self.stop, self.end = self.folder / "stop", self.folder / "end"
        self.samples = self.folder / "samples.json"
        self.pictures, self.features = self.folder / "pictures.safetensors", self.folder / "features.safetensors"

    def exists(self) -> bool:
        return self.settings.is_file()

    def create(self, config: TrainConfig) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.settings, json.dumps(asdict(config), indent=1) + "\n")

    @property
    def config(self) -> TrainConfig:
        """What `create` wrote; raises `TrainingError` where that cannot be read."""
        try:
            content = json.loads(self.settings.read_text(encoding="utf-8"))
            return TrainConfig(**{"optimizer": "sgd"} | content)  # runs from before there was a choice
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(f"The folder {self.folder} holds no run that can be read: {error}.") from None

    def measured(self) -> EvaluationSplit:
        """Which pictures the figures of the finished model are of; raises `OSError` before it is decided."""
        content = json.loads(self.split.read_text(encoding="utf-8"))
        if (test := content.get("test")) is not None:  # runs of before there was one have none
            return EvaluationSplit("test", test, "test", chose_epoch=False)
        compared = sum(epoch.accuracy is not None for epoch in self.epochs())
        chose = compared > 1 and self.config.select != "last"
        return EvaluationSplit(content["split"], content["held_out"], content["called"], chose_epoch=chose)

    def append(self, event: Epoch) -> None:
        torn = self.history.is_file() and not self.history.read_bytes().endswith(b"\n")  # by a disk that was full
        with self.history.open("a", encoding="utf-8") as file:
            file.write("\n" * torn + json.dumps(event._asdict()) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_samples(self) -> list[Sample]:
        """The last account of a few held-out pictures; none before the first evaluation."""
        try:
            return [Sample(**row) for row in json.loads(self.samples.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    def epochs(self) -> list[Epoch]:
        """The history; of an epoch that a resumed run repeated, the last account."""
        found: dict[int, Epoch] = {}
        if self.history.is_file():
            for line in self.history.read_text(encoding="utf-8").splitlines():
                try:
                    event = Epoch(**json.loads(line))
                except (ValueError, TypeError):  # a line that its process was killed in
                    continue
                found[event.epoch] = event
        return [found[epoch] for epoch in sorted(found)]

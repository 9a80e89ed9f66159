"""The training state: what resuming a run needs, as one safetensors file."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from resnet_hub.atomic import write_atomic
from resnet_hub.errors import TrainingError
from resnet_hub.model import ResNet


class Best(NamedTuple):
    """The epoch whose weights are saved, and its validation metrics."""

    epoch: int
    accuracy: float
    loss: float


@dataclass
class Position:
    """The progress of a run."""

    epoch: int = 0  # completed epochs
    step: int = 0  # completed steps of the current epoch
    loss_sum: float = 0.0  # over those steps
    best: Best | None = None
    evaluations_since_best: int = 0
    seconds: float = 0.0  # of training, in all processes that have resumed the run
    hardware: str = ""  # of the last process
    scaler: dict[str, Any] | None = None  # state of the gradient scaler of fp16
    rate_drops: int = 0  # divisions of the learning rate on plateaus
    optimizer_steps: int = 0  # of an optimizer that counts them for a whole group, as timm's LAMB does
    chunks: int = 1  # of a batch, after it did not fit into the memory of the GPU

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Position":
        if "worse" in content:  # version 0.1
            best = content["best"] and [content["best"][key] for key in Best._fields]
            content = content | {"best": best, "evaluations_since_best": content["worse"]}
        values = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        return cls(**values | {"best": Best(*content["best"]) if content["best"] else None})


@dataclass
class TrainingState:
    """The objects that change while a run trains. `save` and `load` restore them bit for bit."""

    model: ResNet
    average: ResNet | None  # of the weights
    optimizer: torch.optim.Optimizer
    scaler: "torch.amp.GradScaler | None"  # of fp16
    position: Position

    @property
    def evaluated_model(self) -> ResNet:
        """The model that is evaluated and saved: the average of the weights, if the run has one."""
        return self.average or self.model

    def save(self, path: Path) -> None:
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        if self.average:
            tensors |= {f"average.module.{key}": value for key, value in self.average.state_dict().items()}
        for index, buffers in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in buffers.items() if value is not None}
        self.position.optimizer_steps = int(self.optimizer.param_groups[0].get("step", 0))
        self.position.scaler = self.scaler.state_dict() if self.scaler else None
        tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        write_atomic(path, save(tensors, metadata={"position": json.dumps(asdict(self.position))}))

    def load(self, saved: "SavedState") -> None:
        """Loads a saved state into these objects, except the position."""
        tensors = saved.read_tensors()

        def select(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.model.load_state_dict(select("model."))
        if self.average:
            self.average.load_state_dict(select("average.module."))
        buffers: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
        momentum = {f"{index}.momentum_buffer": value for index, value in select("momentum.").items()}  # of older runs
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for name, value in (select("optimizer.") or momentum).items():
            index, _, key = name.partition(".")
            # In the memory format of its weight: a fused kernel goes through both side by side.
            target = torch.empty_like(weights[int(index)]) if value.ndim else torch.empty_like(value)
            buffers[int(index)][key] = target.copy_(value)
        groups = self.optimizer.state_dict()["param_groups"]
        if self.position.optimizer_steps:
            groups = [group | {"step": torch.tensor(float(self.position.optimizer_steps))} for group in groups]
        self.optimizer.load_state_dict({"state": dict(buffers), "param_groups": groups})
        if self.scaler and self.position.scaler:
            self.scaler.load_state_dict(self.position.scaler)


class SavedState:
    """A file of a training state, opened once: a file that replaces it meanwhile is not read.

    Attributes:
        position: The progress of the run.

    Raises:
        TrainingError: The file is damaged.
    """

    def __init__(self, path: Path):
        try:
            self._file: Any = cast(Any, safe_open(path, "pt"))
            self.position = Position.from_dict(json.loads(self._file.metadata()["position"]))
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise TrainingError(f"Cannot read the training state {path}: {error}. Start a new run.") from None

    def read_tensors(self) -> dict[str, Tensor]:
        """Reads the tensors and closes the file, which Windows else could not replace."""
        tensors = {key: self._file.get_tensor(key) for key in self._file.keys()}  # noqa: SIM118, no mapping
        self._file = None
        return tensors

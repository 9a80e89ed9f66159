"""The accelerator of a run: its device, its precision, and what its processes decide together."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import nn

from resnet_hub.errors import TrainingError
from resnet_hub.inference.engines import has_bf16
from resnet_hub.training.config import ResolvedTrainConfig, TrainConfig, TrainPrecision
from resnet_hub.training.run_dir import RunDir
from resnet_hub.training.tracking import check_tracker

T = TypeVar("T")

_WAIT = timedelta(days=1)  # of processes for the first one, which checks the dataset; by default NCCL's is 10 minutes
_AGREE_STEPS = 10  # between two exchanges among several processes on whether to stop


def create_accelerator(config: ResolvedTrainConfig, run: RunDir) -> Any:
    """Returns an `accelerate.Accelerator` for a run.

    Raises:
        TrainingError: The tracker is not installed, the device does not compute in the precision of the run, or the
            processes cannot share a batch.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # it refuses another precision than that of an earlier run in this process
    check_tracker(config.log_to)
    precision = choose_precision(config)
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=None if config.log_to == "none" else config.log_to,
        project_dir=run.folder / "logs",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_WAIT)],
    )
    check_precision(config, accelerator.device)
    config.check_processes(accelerator.num_processes)
    torch.backends.cudnn.benchmark = True  # the images of an epoch have one size
    return accelerator


def choose_precision(config: TrainConfig) -> TrainPrecision:
    """Returns the precision of the steps of a run: bfloat16 by default, where the hardware has it."""
    return config.precision or ("bf16" if has_bf16() else "fp32")


def check_precision(config: TrainConfig, device: torch.device) -> None:
    """Raises `TrainingError` if a device does not compute in the precision of a run."""
    if config.precision == "fp16" and device.type == "cpu":
        raise TrainingError("fp16 needs a GPU; choose bf16 or fp32.")


def evaluates_in_bf16(accelerator: Any) -> bool:
    """Whether a run on the CPU evaluates in bfloat16: where its steps do, without a measurement, so that it repeats."""
    return bool(accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu")


def synchronize_batch_norm(accelerator: Any, model: nn.Module) -> None:
    """Makes the BatchNorm layers of a model use the statistics of the whole batch, if several GPUs share it."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # replaces them: hooks are added later


def decide_once(accelerator: Any, decide: Callable[[], T]) -> T:
    """Returns the result of a function that only the first process calls, to all: each might decide otherwise."""
    from accelerate.utils import broadcast_object_list

    decision: T = broadcast_object_list([decide() if accelerator.is_main_process else None])[0]
    return decision


def agree_to_stop(accelerator: Any, is_due: bool, step: int) -> bool:
    """Whether to stop after a step: all processes at the same one, soon after it is due in one of them."""
    if accelerator.num_processes == 1:
        return is_due
    if is_due:
        accelerator.set_trigger()
    return step % _AGREE_STEPS == 0 and bool(accelerator.check_trigger())


def mean_over_processes(accelerator: Any, value: float) -> float:
    """Returns the mean of a value over the processes of a run."""
    return float(accelerator.reduce(torch.tensor(value, device=accelerator.device), "mean"))

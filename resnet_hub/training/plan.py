"""Estimates what a run will take before it starts: disk, memory and time, by a sample of its images and one step."""

import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import TRAIN, VALIDATION, ImageDataset
from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.stream import open_stream
from resnet_hub.errors import ImageError
from resnet_hub.images.load import load_image
from resnet_hub.images.transforms import resize_whole
from resnet_hub.model import ResNet
from resnet_hub.training.config import AUTO, ResolvedTrainConfig, TrainConfig
from resnet_hub.training.initial_model import choose_base, create_model, read_model_config
from resnet_hub.training.loader import FREE_DISK, MEMORY_SHARE, count_cores, measure_free_memory
from resnet_hub.training.run_dir import RunDir
from resnet_hub.training.split import MAX_CHECKED
from resnet_hub.training.stream import count_epoch_images

_SAMPLE = 64  # images that are decoded
_STEP_IMAGES = 8  # in the step that is timed
_WEIGHT_COPIES = 7  # in the run directory: training state with average and moments, best model, base
_FORWARD_SHARE = 1 / 3  # of the time of a step


class Plan(NamedTuple):
    """An estimate of a run. Sizes are in bytes, times in seconds."""

    train_images: int
    validation_images: int
    labels: int
    epochs: int
    steps: int  # of an epoch
    in_memory: int  # decoded images
    on_disk: int  # decoded images
    decoded_again: float  # fraction of the images that are decoded in each epoch, for want of space
    files: int  # other files in the run directory
    loaded_per_second: float  # images that are decoded
    trained_per_second: float  # images
    seconds: float


def plan_run(config: TrainConfig) -> Plan:
    """Estimates a run in one process. A dataset on the Hub is downloaded, of a stream only a sample.

    Nothing is written to the run directory.

    Raises:
        ResNetHubError: If the run could not start.
    """
    if config.base == AUTO:
        config = replace(config, base=str(choose_base().source))
    resolved = config.resolved()
    if config.base:
        resolved = resolved.choose_sizes(read_model_config(config).image_size)
    stream = open_stream(config.data, **config.data_names) if config.stream else None
    splits = stream.sample if stream else load_dataset(config.data, **config.data_names)
    labels, count = splits[TRAIN].labels, len(splits[TRAIN])
    held_out = 0 if VALIDATION in splits else min(round(count * config.validation), MAX_CHECKED)
    validation_images = len(splits.get(VALIDATION, ())) or held_out
    train_images = count_epoch_images(resolved, stream, held_out) if stream else count - held_out
    epochs = resolved.choose_epochs(train_images)
    steps = max(1, train_images // resolved.batch_size)

    model, _ = create_model(resolved, RunDir(config.run), labels, copies_base=False)
    sizes, loaded_per_second = _measure_loading(splits[TRAIN], model.config, config.workers or count_cores())
    trained_per_second = _measure_step(model, config.crop_size or model.config.image_size)
    total = int(count * np.mean(sizes))  # of a stream: those of the sample
    in_memory, on_disk = (0, 0) if stream else _distribute_images(total, resolved)
    decoded_again = 1 - (in_memory + on_disk) / total

    training, loading = train_images / trained_per_second, train_images / loaded_per_second
    seconds = loading if not epochs else max(training, loading) + (epochs - 1) * max(training, decoded_again * loading)
    evaluations = math.ceil(epochs / config.evaluate_every) + 1
    seconds += evaluations * validation_images * _FORWARD_SHARE / trained_per_second
    return Plan(
        train_images,
        validation_images,
        len(labels),
        epochs,
        steps,
        in_memory,
        on_disk,
        round(decoded_again, 3),
        _WEIGHT_COPIES * sum(value.numel() * value.element_size() for value in model.state_dict().values()),
        round(loaded_per_second, 1),
        round(trained_per_second, 1),
        round(seconds, 1),
    )


def _measure_loading(images: ImageDataset, model_config: ResNetConfig, threads: int) -> tuple[list[int], float]:
    """Returns the sizes of some decoded images, and how many are decoded in a second."""

    def decode(index: int) -> int:
        with suppress(ImageError):
            image = load_image(images.sources[index], name=images.name(index), near=model_config.resize_size)
            return resize_whole(model_config, image).nbytes
        return 0

    chosen = np.random.default_rng(0).choice(len(images), min(_SAMPLE, len(images)), replace=False)
    decode(int(chosen[0]))  # the first one loads the decoder
    start = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        sizes = list(pool.map(decode, np.sort(chosen).tolist()))
    return [size for size in sizes if size] or [1], len(sizes) / (time.monotonic() - start)


def _measure_step(model: ResNet, size: int) -> float:
    """Returns how many images a second the model is trained on."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(memory_format=torch.channels_last).to(device).train()
    batch = torch.randn(_STEP_IMAGES, 3, size, size, device=device).to(memory_format=torch.channels_last)
    for _ in range(2):  # the first one prepares the kernels
        start = time.monotonic()
        model(batch).square().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()
    return _STEP_IMAGES / (time.monotonic() - start)


def _distribute_images(total: int, config: ResolvedTrainConfig) -> tuple[int, int]:
    """Returns how many of `total` bytes of decoded images memory and disk have space for."""
    memory = int(MEMORY_SHARE * measure_free_memory()) if config.cache in ("auto", "memory") else 0
    folder = Path(config.run).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    disk = max(0, shutil.disk_usage(existing).free - FREE_DISK) if config.cache in ("auto", "disk") else 0
    in_memory = min(total, memory)
    return in_memory, min(total - in_memory, disk)

"""Estimates what a run will take before it starts: disk, memory and time, by a sample of its images and a few steps."""

import math
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import TRAIN, VALIDATION, ImageDataset, Splits
from resnet_hub.datasets.image_stream import ImageStream, open_stream
from resnet_hub.datasets.load import load_dataset, measure_storage
from resnet_hub.datasets.report import check_counts
from resnet_hub.datasets.storage import Storage
from resnet_hub.errors import DataError, HubError, ImageError, gpu_memory_is_full
from resnet_hub.images.load import load_image
from resnet_hub.images.transforms import resize_whole
from resnet_hub.memory import measure_free_memory
from resnet_hub.model import ResNet
from resnet_hub.training.accelerator import check_precision, choose_precision
from resnet_hub.training.config import AUTO, ResolvedTrainConfig, TrainConfig
from resnet_hub.training.gpu_memory import free_gpu_memory
from resnet_hub.training.image_cache import FREE_DISK, MEMORY_SHARE
from resnet_hub.training.initial_model import check_batch_norm, choose_base, create_model, read_model_config
from resnet_hub.training.linear_probe import MAX_FITTED
from resnet_hub.training.loader import count_cores, share_batch
from resnet_hub.training.optimizer import frozen_modules, set_train_mode
from resnet_hub.training.run_dir import RunDir
from resnet_hub.training.split import MAX_CHECKED
from resnet_hub.training.stream_sampler import BUFFER, BUFFER_BYTES, count_epoch_images
from resnet_hub.training.tracking import check_tracker

_SAMPLE = 64  # images that are decoded
_FIRST_IMAGES = 4  # of the first step on a CPU, by which the next ones are chosen
_TIMED_STEPS, _STEP_SECONDS = 2, 1.0  # and how long they take together on a CPU
_WEIGHT_COPIES = 7  # in the run directory: training state with average and moments, best model, base
_FORWARD_SHARE = 1 / 3  # of the time of a step
_START_AND_END = 8.0  # seconds of a worker: imports, then plots and card; measured on two cores of an AMD EPYC


class Plan(NamedTuple):
    """An estimate of a run. Sizes are in bytes, times in seconds."""

    base: str | None  # None: random weights
    base_reason: str | None  # why the included model replaces the preferred base
    train_images: int
    validation_images: int
    labels: int
    epochs: int
    steps: int  # of an epoch
    in_memory: int  # decoded images; of a stream, also its buffers and its sample, which are encoded
    on_disk: int  # decoded images
    decoded_again: float  # fraction of the training images that are decoded in each epoch, for want of space
    dataset: int  # what is downloaded and copied before the run
    files: int  # other files in the run directory
    loaded_per_second: float  # images that are decoded
    trained_per_second: float  # images
    seconds: float


def plan_run(config: TrainConfig) -> Plan:
    """Estimates a run in one process. Tables that a run would download or copy are read in part, as a stream.

    Nothing is written to the run directory.

    Raises:
        ResNetHubError: If the run could not start.
    """
    run = RunDir(config.run)
    run.check_location(config.data)
    reason = None
    if config.base == AUTO:
        source, reason = choose_base()
        config = replace(config, base=str(source))
    resolved = config.recorded() if run.exists() else config.resolved()
    resolved.check_processes(int(os.environ.get("WORLD_SIZE", "1")))
    check_tracker(config.log_to)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    check_precision(config, device)
    if config.base:
        resolved = resolved.choose_sizes(read_model_config(config, run).image_size)
    data = _Data.open(config)
    if config.stream or not data.stream:  # else the sample may lack classes of the dataset
        check_counts(data.splits)
    stream = data.stream if config.stream else None
    count, labels = data.count(TRAIN), data.splits[TRAIN].labels
    held_out = 0 if VALIDATION in data.splits else min(max(1, round(count * config.validation)), MAX_CHECKED)
    validation_images = held_out or data.count(VALIDATION)
    train_images = count_epoch_images(resolved, stream, held_out) if stream else count - held_out
    epochs = resolved.choose_epochs(train_images)
    batch_size = share_batch(resolved, train_images, 1)
    steps = train_images // batch_size

    model, _ = create_model(resolved, run, labels, copies_base=False)
    check_batch_norm(resolved, model.config, batch_size)
    sizes, loaded_per_second = _measure_loading(data.splits[TRAIN], model.config, config.workers or count_cores())
    trained_per_second = _measure_steps(model, resolved, device)
    total = int(np.mean(sizes) * (validation_images if stream else count + validation_images - held_out))
    in_memory, on_disk = _distribute_images(total, resolved)
    decoded_again = 1.0 if stream else 1 - (in_memory + on_disk) / total

    seconds = _estimate_seconds(
        config,
        epochs,
        training=train_images / trained_per_second,
        fitting=(min(train_images, MAX_FITTED) if epochs else 2 * train_images) * _FORWARD_SHARE / trained_per_second,
        loading=train_images / loaded_per_second,
        evaluating=validation_images * _FORWARD_SHARE / trained_per_second,
        decoded_again=decoded_again,
    )
    return Plan(
        config.base,
        reason,
        train_images,
        validation_images,
        len(labels),
        epochs,
        steps,
        in_memory + (data.measure_buffers() if stream else 0),
        on_disk,
        round(decoded_again, 3),
        data.storage.download + data.storage.copy,
        _WEIGHT_COPIES * sum(value.numel() * value.element_size() for value in model.state_dict().values()),
        round(loaded_per_second, 1),
        round(trained_per_second, 1),
        round(seconds, 1),
    )


def _estimate_seconds(
    config: TrainConfig,
    epochs: int,
    *,
    training: float,
    fitting: float,
    loading: float,
    evaluating: float,
    decoded_again: float,
) -> float:
    """Returns the seconds of a run, from its start to its model card.

    Args:
        config: Its settings.
        epochs: The number of epochs.
        training: Seconds of the steps of an epoch.
        fitting: Seconds to compute the features that the head of a base is fitted to.
        loading: Seconds to decode the training images.
        evaluating: Seconds of an evaluation.
        decoded_again: Fraction of the images that are decoded in each epoch.
    """
    seconds = _START_AND_END
    if config.base:
        seconds += max(fitting, loading) + evaluating
        seconds += epochs * max(training, decoded_again * loading)
    elif epochs:
        seconds += max(training, loading) + (epochs - 1) * max(training, decoded_again * loading)
    return seconds + (math.ceil(epochs / config.evaluate_every) + 1) * evaluating  # the last one is for the card


class _Data(NamedTuple):
    """The dataset of a run, or a sample of it."""

    splits: Splits
    stream: ImageStream | None  # which `splits` are a sample of
    storage: Storage  # that the run takes

    @classmethod
    def open(cls, config: TrainConfig) -> "_Data":
        if config.stream:
            stream = open_stream(config.data, **config.data_names)
            return cls(stream.sample, stream, Storage(0, 0, {}))
        storage = None
        # What is no stream, such as a part of a split or an archive on the Hub, is loaded as the run does.
        with suppress(DataError, HubError):
            names = {name: value for name, value in config.data_names.items() if not name.endswith("_column")}
            storage = measure_storage(config.data, **names)
            if storage and storage.download + storage.copy:
                stream = open_stream(config.data, **config.data_names)
                return cls(stream.sample, stream, storage)
        return cls(load_dataset(config.data, **config.data_names), None, storage or Storage(0, 0, {}))

    def count(self, split: str) -> int:
        """Returns the number of images of a split, in the sample of a run that is a stream itself.

        If it is not known, it is estimated by the sizes of the files.
        """
        images, size = self.splits.get(split), self.storage.splits.get(split)
        if images is None or size is None or self.stream is None:
            return len(images or ())
        known = self.stream.count if split == TRAIN else None
        count = round(size / max(1, sum(map(len, images.sources))) * len(images)) if known is None else known
        return max(len(images), count)

    def measure_buffers(self) -> int:
        """Returns the bytes of the sample of a stream, and of its two buffers."""
        sample = sum(len(source) for images in self.splits.values() for source in images.sources)
        images = self.splits[TRAIN]
        buffer = min(BUFFER_BYTES, BUFFER * sum(map(len, images.sources)) // len(images))
        return sample + 2 * buffer


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


def _measure_steps(model: ResNet, config: ResolvedTrainConfig, device: torch.device) -> float:
    """Returns how many images a second the model is trained on, in the precision of the run.

    A GPU trains on chunks of the run, a CPU on as many images as are cheap: it depends little on their number.
    """
    is_gpu = device.type != "cpu"
    size, count = config.crop_size or model.config.image_size, math.ceil(config.batch_size / config.accumulate)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(choose_precision(config))
    frozen = frozen_modules(model, config.frozen_stages)
    for module in frozen:
        module.requires_grad_(False)
    model = model.to(memory_format=torch.channels_last).to(device)
    set_train_mode(model, frozen, frozen_norm=config.frozen_norm or config.epochs == 0)

    def train(images: int, steps: int) -> float:
        batch = torch.randn(images, 3, size, size, device=device).to(memory_format=torch.channels_last)
        start = time.monotonic()
        for _ in range(steps):
            with torch.autocast(device.type, dtype) if dtype else nullcontext():
                logits = model(batch)
            logits.float().square().mean().backward()
        if is_gpu:
            torch.accelerator.synchronize()
        return images * steps / (time.monotonic() - start)

    if not is_gpu:
        first = min(count, _FIRST_IMAGES)
        speed = train(first, 1)
        count = min(count, int(speed * _STEP_SECONDS / _TIMED_STEPS))
        return train(count, _TIMED_STEPS) if count >= first else speed
    while True:
        try:
            train(count, 1)  # prepares the kernels
            return train(count, _TIMED_STEPS)
        except RuntimeError as error:
            if not gpu_memory_is_full(error) or count == 1:
                raise
        count = math.ceil(count / 2)  # as a step of the run is repeated
        free_gpu_memory()


def _distribute_images(total: int, config: ResolvedTrainConfig) -> tuple[int, int]:
    """Returns how many of `total` bytes of decoded images memory and disk have space for."""
    memory = int(MEMORY_SHARE * measure_free_memory()) if config.cache in ("auto", "memory") else 0
    folder = Path(config.run).absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    disk = max(0, shutil.disk_usage(existing).free - FREE_DISK) if config.cache in ("auto", "disk") else 0
    in_memory = min(total, memory)
    return in_memory, min(total - in_memory, disk)

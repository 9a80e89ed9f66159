"""Opens the decoded images of a run with the loader and the cache that its settings and the machine allow."""

import os
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from resnet_hub.config import ResNetConfig
from resnet_hub.images.transforms import MAX_ASPECT, resize_and_crop, resize_whole
from resnet_hub.training.config import TrainConfig
from resnet_hub.training.events import Preparing
from resnet_hub.training.image_cache import MEMORY_SHARE, ImageCache, measure_free_memory
from resnet_hub.training.loader import DecodedImages, Loader, count_cores, split_batches
from resnet_hub.training.split import RunImages

_BATCH = 256  # images between two events


class Inputs(NamedTuple):
    """The decoded images of a run, and what loads them."""

    train: DecodedImages  # whole images, from which crops are cut
    validation: DecodedImages  # at the size of the network, pixel by pixel as a prediction sees them
    loader: Loader


def open_inputs(
    images: RunImages,
    config: TrainConfig,
    model_config: ResNetConfig,
    folder: Path,
    *,
    keeps_on_disk: bool,
    is_on_gpu: bool,
) -> Inputs:
    """Opens the images of a run.

    Args:
        images: The encoded images.
        config: Its `cache` and `workers` are used.
        model_config: Its preprocessing.
        folder: The folder of the cache on disk.
        keeps_on_disk: Whether another process will read the images again, so that none is kept in memory.
        is_on_gpu: Whether the batches go to a GPU.
    """
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes of the run on this machine
    threads = max(1, (count_cores() - is_on_gpu) // neighbours)  # the main thread takes a core to feed a GPU
    in_memory = config.cache in ("auto", "memory") and not keeps_on_disk
    cache = ImageCache(
        folder,
        count=len(images.train) + len(images.validation),
        slot=MAX_ASPECT * 3 * model_config.resize_size**2,
        memory=int(MEMORY_SHARE * measure_free_memory() / neighbours) if in_memory else 0,
        disk=config.cache in ("auto", "disk") or (config.cache == "memory" and keeps_on_disk),
    )

    def decode_exactly(image: Image.Image) -> np.ndarray:
        return np.array(resize_and_crop(model_config, image))

    decode, near = partial(resize_whole, model_config), model_config.resize_size
    return Inputs(
        DecodedImages(images.train, decode, cache, near=near),
        DecodedImages(images.validation, decode_exactly, cache, first_key=len(images.train)),
        Loader(config.workers or threads, pin_memory=is_on_gpu),
    )


def fill_cache(inputs: Inputs) -> Generator[Preparing, None, None]:
    """Decodes all images, so that the cache keeps those that fit."""
    done, total = 0, len(inputs.train) + len(inputs.validation)
    for images in (inputs.train, inputs.validation):
        batches = split_batches(np.arange(len(images)), _BATCH)
        loading = inputs.loader.load(images, batches, lambda decoded, _: np.empty(len(decoded), np.uint8))
        with closing(loading):
            for batch, _ in loading:
                yield Preparing("images", done, total)
                done += len(batch.indices)

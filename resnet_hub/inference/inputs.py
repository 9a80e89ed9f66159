"""Reads the images of a dataset as inputs of a network, ahead of the network that consumes them."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image
from torch import Tensor

from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import ImageError
from resnet_hub.images.load import load_image

MAX_BATCH_PIXELS = 2**22  # of the network's input: 83 images of 224 x 224, one of 2048 x 2048


def limit_batch_size(batch_size: int, image_size: int) -> int:
    """Reduces a batch size so that the inputs, squares of `image_size` pixels, fit into `MAX_BATCH_PIXELS`."""
    return min(batch_size, max(1, MAX_BATCH_PIXELS // image_size**2))


def load_inputs(
    data: ImageDataset, transform: Callable[[Image.Image], Tensor], batch_size: int
) -> Iterator[list[Tensor | ImageError]]:
    """Loads the images of a dataset in batches, in order. Threads decode one batch ahead, so that memory is bounded.

    Args:
        data: The images.
        transform: Maps an RGB image to an input (C, side, side).
        batch_size: Images in each batch; the last may have fewer.

    Yields:
        For each batch a list with an input for each image, or the `ImageError` of one that cannot be read.
    """

    def load(index: int) -> Tensor | ImageError:
        try:
            return transform(load_image(data.sources[index], name=data.name(index)))
        except ImageError as error:
            return error

    pending: deque[list[Future[Tensor | ImageError]]] = deque()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(data), batch_size):
            pending.append([pool.submit(load, index) for index in range(start, min(start + batch_size, len(data)))])
            if len(pending) == 2:
                yield [future.result() for future in pending.popleft()]
        yield [future.result() for future in pending.popleft()]

"""Computes in smaller parts what does not fit into the memory of a GPU."""

from collections.abc import Callable

import torch
from torch import Tensor

from resnet_hub.errors import gpu_memory_is_full


class ChunkedFunction:
    """A function of a batch, called with smaller chunks from the first time on that one does not fit.

    For an evaluation, in which the images of a batch do not influence each other.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function, self.num_chunks = function, 1

    def __call__(self, batch: Tensor) -> Tensor:
        while True:
            try:
                return torch.cat([self.function(chunk) for chunk in batch.chunk(self.num_chunks)])
            except RuntimeError as error:
                if not gpu_memory_is_full(error) or self.num_chunks >= len(batch):
                    raise
            self.num_chunks *= 2
            free_gpu_memory()


def free_gpu_memory() -> None:
    """Returns the memory that PyTorch keeps for later to the GPU, in which it may be in pieces that are too small."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()

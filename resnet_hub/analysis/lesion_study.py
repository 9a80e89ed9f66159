"""The accuracy of a model without some of its blocks, or with its blocks in another order.

Veit et al. 2016 (https://arxiv.org/abs/1605.06431): figures 3 and 4 (one block removed), 5a (several) and 5b (order).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from resnet_hub.analysis.block_removal import remove_blocks, reorder_blocks
from resnet_hub.analysis.blocks import changes_shape, evaluation_mode, forward_head, forward_shortcut, list_blocks
from resnet_hub.analysis.labelled_images import LabelledImages, compute_accuracy, count_correct, split_batches
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet

Progress = Callable[[int, int], object]  # called with the work done and its total


class BlockLesion(NamedTuple):
    """The accuracy of a model without one block."""

    block: str
    changes_shape: bool
    accuracy: float  # 0 to 1


@dataclass(frozen=True)
class LesionStudy:
    """The accuracy of a model as it is, and without each one of its blocks."""

    num_images: int
    accuracy: float  # 0 to 1
    lesions: tuple[BlockLesion, ...]

    @property
    def drops(self) -> tuple[float, ...]:
        """The accuracy that each block's removal costs."""
        return tuple(self.accuracy - lesion.accuracy for lesion in self.lesions)

    @property
    def mean_drop(self) -> float:
        return float(np.mean(self.drops))

    @property
    def mean_accuracy(self) -> float:
        """Mean over the blocks of the accuracy without that block."""
        return float(np.mean([lesion.accuracy for lesion in self.lesions]))


class RemovalPoint(NamedTuple):
    """The accuracies of a model without `removed` blocks, one for each random choice of them."""

    removed: int
    accuracies: tuple[float, ...]


class ReorderPoint(NamedTuple):
    """The accuracies of a model after `swaps` swaps of random blocks, one for each choice of them."""

    swaps: int
    rank_correlations: tuple[float, ...]  # Kendall's tau between the new and the old order: 1 is the old order
    accuracies: tuple[float, ...]


def remove_each_block(model: ResNet, labelled: LabelledImages, *, progress: Progress | None = None) -> LesionStudy:
    """Compute the accuracy of a model without each one of its blocks; the model does not change.

    Args:
        model: The model, with a head.
        labelled: The images, from `load_labelled_images`.
        progress: Called with the batches done and their total.

    Raises:
        AnalysisError: The model has no head, or the images do not fit it.
    """
    blocks = list_blocks(model)
    correct, without = 0, np.zeros(len(blocks), np.int64)
    batches = split_batches(model, labelled)
    with torch.inference_mode(), evaluation_mode(model):
        for done, (images, targets) in enumerate(batches, 1):
            x = model.forward_stem(images)
            for index, block in enumerate(blocks.values()):
                y = forward_shortcut(block, x)  # all blocks before have computed x; those after go on from here
                for later in list(blocks.values())[index + 1 :]:
                    y = later(y)
                without[index] += count_correct(forward_head(model, y), targets)
                x = block(x)
            correct += count_correct(forward_head(model, x), targets)
            if progress is not None:
                progress(done, len(batches))
    total = len(labelled.targets)
    rows = zip(blocks.items(), without.tolist(), strict=True)
    lesions = tuple(BlockLesion(name, changes_shape(block), count / total) for (name, block), count in rows)
    return LesionStudy(total, correct / total, lesions)


def removal_curve(
    model: ResNet,
    labelled: LabelledImages,
    counts: Sequence[int],
    *,
    draws: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[RemovalPoint]:
    """Compute the accuracy of a model without several random blocks, among those that keep the shape.

    Args:
        model: The model, with a head, which does not change.
        labelled: The images.
        counts: How many blocks to remove: one point of the curve for each.
        draws: Random choices of blocks for each point.
        seed: Of the choices.
        progress: Called with the evaluations done and their total.

    Raises:
        AnalysisError: A count is larger than the number of blocks that keep the shape.
    """
    names = [name for name, block in list_blocks(model).items() if not changes_shape(block)]
    if wrong := [count for count in counts if not 0 <= count <= len(names)]:
        raise AnalysisError(f"{wrong[0]} blocks cannot be removed: {len(names)} blocks of the model keep the shape.")
    points: list[RemovalPoint] = []
    for index, count in enumerate(counts):
        accuracies = []
        for draw in range(draws):
            chosen = np.random.default_rng([seed, count, draw]).permutation(names)[:count].tolist()
            accuracies.append(compute_accuracy(remove_blocks(model, chosen), labelled))
            if progress is not None:
                progress(index * draws + draw + 1, len(counts) * draws)
        points.append(RemovalPoint(count, tuple(accuracies)))
    return points


def reorder_curve(
    model: ResNet,
    labelled: LabelledImages,
    swaps: Sequence[int],
    *,
    draws: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[ReorderPoint]:
    """Compute the accuracy of a model after random swaps of two blocks of a stage, among those that keep the shape.

    Args:
        model: The model, with a head, which does not change.
        labelled: The images.
        swaps: How many pairs to swap, one after the other: one point of the curve for each.
        draws: Random choices of pairs for each point.
        seed: Of the choices.
        progress: Called with the evaluations done and their total.

    Raises:
        AnalysisError: No stage has two blocks that keep the shape.
    """
    blocks = list_blocks(model)
    movable = [name for name, block in blocks.items() if not changes_shape(block)]
    pairs = [(a, b) for i, a in enumerate(movable) for b in movable[i + 1 :] if a.split(".")[0] == b.split(".")[0]]
    if not pairs:
        raise AnalysisError("No stage of the model has two blocks that keep the shape; there is nothing to swap.")
    points: list[ReorderPoint] = []
    for index, count in enumerate(swaps):
        correlations, accuracies = [], []
        for draw in range(draws):
            generator = np.random.default_rng([seed, count, draw])
            order = {name: name for name in movable}
            for a, b in (pairs[i] for i in generator.integers(len(pairs), size=count)):
                order[a], order[b] = order[b], order[a]
            positions = {name: position for position, name in enumerate(blocks)}
            correlations.append(kendall_tau([positions[order.get(name, name)] for name in blocks]))
            accuracies.append(compute_accuracy(reorder_blocks(model, order), labelled))
            if progress is not None:
                progress(index * draws + draw + 1, len(swaps) * draws)
        points.append(ReorderPoint(count, tuple(correlations), tuple(accuracies)))
    return points


def kendall_tau(ranks: Sequence[int]) -> float:
    """Compute Kendall's tau between an order without ties and the ascending one: 1 if equal, -1 if reversed."""
    values = np.asarray(ranks)
    signs = np.sign(values[None, :] - values[:, None])[np.triu_indices(len(values), 1)]
    return float(signs.mean()) if len(signs) else 1.0

"""Lesions: networks without some of their blocks or with blocks in another order, and the accuracy that is left.

Veit et al. 2016 (https://arxiv.org/abs/1605.06431), section 4, figures 3 and 4 (one block removed), 5a (several) and
5b (order): a residual network survives both, a plain network does not survive the loss of one block.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from resnet_hub.analysis.blocks import (
    Block,
    BlockNames,
    changes_shape,
    evaluation_mode,
    forward_head,
    forward_shortcut,
    list_blocks,
    select_blocks,
)
from resnet_hub.analysis.labeled_images import LabeledImages, compute_accuracy, count_correct, split_batches
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet

T = TypeVar("T")


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


class RemovalPoint(NamedTuple):
    """The accuracies of a model without `removed` blocks, one for each random choice of them."""

    removed: int
    accuracies: tuple[float, ...]


class ReorderPoint(NamedTuple):
    """The accuracies of a model after `swaps` swaps of random blocks, one for each choice of them."""

    swaps: int
    rank_correlations: tuple[float, ...]  # Kendall's tau between the new and the old order: 1 is the old order
    accuracies: tuple[float, ...]


@contextmanager
def lesion(model: ResNet, blocks: BlockNames) -> Iterator[ResNet]:
    """Switch off blocks of a model inside a `with` block; after it the model is as before.

    The output of a block that is off is the relu of its shortcut: equation 1 of He et al. with F(x) = 0. In a plain
    network, which has no shortcuts, it is the input; see `blocks.forward_shortcut`.

    The model itself changes meanwhile. Threads that share a model use `remove_blocks`. Lesions of the same block end in
    the reverse order, as nested `with` blocks do.

    Args:
        model: The model, in any mode, dtype and device.
        blocks: Names such as "layer2.0" or positions from 0 over the whole network; one or several.

    Yields:
        The model.

    Raises:
        AnalysisError: The model has no such block.
    """
    selected = list(select_blocks(model, blocks).values())
    before = [vars(block).get("forward") for block in selected]
    try:
        for block in selected:
            _switch_off(block)
        yield model
    finally:
        for block, forward in zip(selected, before, strict=True):
            if forward is None:
                vars(block).pop("forward", None)
            else:  # an enclosing lesion of the same block
                vars(block)["forward"] = forward


def remove_blocks(model: ResNet, blocks: BlockNames) -> ResNet:
    """Create a model without some blocks that shares its weights with the given model, which does not change.

    See `lesion` for what replaces a block. The result is for inference: its layers are those of the given model.

    Args:
        model: The model, which does not change.
        blocks: The names of the blocks, such as "layer1.0".

    Returns:
        A model without those blocks.

    Raises:
        AnalysisError: The model has no such block.
    """
    names = select_blocks(model, blocks)
    copies = {name: copy.copy(block) for name, block in names.items()}
    for block in copies.values():
        _switch_off(block)
    return _replace_blocks(model, copies)


def reorder_blocks(model: ResNet, order: Mapping[str, str]) -> ResNet:
    """Create a model whose blocks are in another order, which shares its weights with the given model.

    Veit et al., section 4.3: blocks of the same shape are swapped.

    Args:
        model: The model, which does not change.
        order: From the name of a block to the name of the block that takes its place; other blocks stay where they are.

    Returns:
        A model with the blocks in that order.

    Raises:
        AnalysisError: The model has no such block, a block is used twice or not at all, or shapes differ.
    """
    targets, blocks = select_blocks(model, order), select_blocks(model, order.values())
    if targets.keys() != blocks.keys():
        raise AnalysisError("The order names a block twice or not at all. Name each block once.")
    for position, name in order.items():
        keeps_shape = not changes_shape(targets[position]) and not changes_shape(blocks[name])
        if position != name and not (keeps_shape and position.split(".")[0] == name.split(".")[0]):
            raise AnalysisError(f"{name} cannot stand in place of {position}: both must keep the shape, in one stage.")
    return _replace_blocks(model, {position: blocks[name] for position, name in order.items()})


def remove_each_block(model: ResNet, labeled: LabeledImages) -> LesionStudy:
    """Compute the accuracy of a model without each one of its blocks; the model does not change.

    Args:
        model: The model, with a head.
        labeled: The images, from `load_labeled_images`.

    Returns:
        The accuracy of the whole model, and without each block.

    Raises:
        AnalysisError: The model has no head, or the images do not fit it.
    """
    blocks = list_blocks(model)
    correct, without = 0, np.zeros(len(blocks), np.int64)
    with torch.inference_mode(), evaluation_mode(model):
        for images, targets in split_batches(model, labeled):
            x = model.forward_stem(images)
            for index, block in enumerate(blocks.values()):
                y = forward_shortcut(block, x)  # all blocks before have computed x; those after continue from here
                for later in list(blocks.values())[index + 1 :]:
                    y = later(y)
                without[index] += count_correct(forward_head(model, y), targets)
                x = block(x)
            correct += count_correct(forward_head(model, x), targets)
    total = len(labeled.targets)
    rows = zip(blocks.items(), without.tolist(), strict=True)
    lesions = tuple(BlockLesion(name, changes_shape(block), count / total) for (name, block), count in rows)
    return LesionStudy(total, correct / total, lesions)


def removal_curve(
    model: ResNet,
    labeled: LabeledImages,
    counts: Sequence[int],
    *,
    draws: int = 5,
    seed: int = 0,
) -> list[RemovalPoint]:
    """Compute the accuracy of a model without several random blocks, among those that keep the shape.

    Args:
        model: The model, with a head, which does not change.
        labeled: The images.
        counts: How many blocks to remove: one point of the curve for each.
        draws: Random choices of blocks for each point.
        seed: Of the choices.

    Returns:
        A point with the accuracies of its draws for each count.

    Raises:
        AnalysisError: A count is larger than the number of blocks that keep the shape.
    """
    names = [name for name, block in list_blocks(model).items() if not changes_shape(block)]
    if wrong := [count for count in counts if not 0 <= count <= len(names)]:
        raise AnalysisError(f"{wrong[0]} blocks cannot be removed: {len(names)} blocks of the model keep the shape.")

    def remove_random(count: int, generator: np.random.Generator) -> float:
        return compute_accuracy(remove_blocks(model, generator.permutation(names)[:count].tolist()), labeled)

    points = _compute_points(remove_random, counts, draws, seed)
    return [RemovalPoint(count, tuple(accuracies)) for count, accuracies in zip(counts, points, strict=True)]


def reorder_curve(
    model: ResNet,
    labeled: LabeledImages,
    swaps: Sequence[int],
    *,
    draws: int = 5,
    seed: int = 0,
) -> list[ReorderPoint]:
    """Compute the accuracy of a model after random swaps of two blocks of a stage, among those that keep the shape.

    Swaps that undo each other are drawn again, so that no order is the trained one; of a single pair they cannot be.

    Args:
        model: The model, with a head, which does not change.
        labeled: The images.
        swaps: How many pairs to swap, one after the other: one point of the curve for each.
        draws: Random choices of pairs for each point.
        seed: Of the choices.

    Returns:
        A point with the accuracies of its draws for each number of swaps.

    Raises:
        AnalysisError: No stage has two blocks that keep the shape.
    """
    blocks, pairs = list_blocks(model), list_swaps(model)
    if not pairs:
        raise AnalysisError("No stage of the model has two blocks that keep the shape; there is nothing to swap.")
    positions = {name: position for position, name in enumerate(blocks)}

    def swap_random(count: int, generator: np.random.Generator) -> tuple[float, float]:
        while True:
            order = {name: name for pair in pairs for name in pair}
            for a, b in (pairs[i] for i in generator.integers(len(pairs), size=count)):
                order[a], order[b] = order[b], order[a]
            if not count or len(pairs) == 1 or any(name != position for position, name in order.items()):
                break
        tau = kendall_tau([positions[order.get(name, name)] for name in blocks])
        return tau, compute_accuracy(reorder_blocks(model, order), labeled)

    points = _compute_points(swap_random, swaps, draws, seed)
    return [ReorderPoint(count, *zip(*results, strict=True)) for count, results in zip(swaps, points, strict=True)]


def list_swaps(model: ResNet) -> list[tuple[str, str]]:
    """List the pairs of blocks that can be swapped: those of a stage that keep the shape."""
    movable = [name for name, block in list_blocks(model).items() if not changes_shape(block)]
    return [(a, b) for i, a in enumerate(movable) for b in movable[i + 1 :] if a.split(".")[0] == b.split(".")[0]]


def _compute_points(
    compute: Callable[[int, np.random.Generator], T], counts: Sequence[int], draws: int, seed: int
) -> list[list[T]]:
    """Compute each point of a curve several times, with random numbers that depend on the point and the draw only."""
    if draws < 1 or any(count < 0 for count in counts):
        raise AnalysisError(
            f"draws is {draws} and the counts are {list(counts)}; expected at least 1, and none below 0."
        )
    return [[compute(count, np.random.default_rng([seed, count, draw])) for draw in range(draws)] for count in counts]


def kendall_tau(ranks: Sequence[int]) -> float:
    """Compute Kendall's tau between an order without ties and the ascending one: 1 if equal, -1 if reversed."""
    values = np.asarray(ranks)
    signs = np.sign(values[None, :] - values[:, None])[np.triu_indices(len(values), 1)]
    return float(signs.mean()) if len(signs) else 1.0


def _switch_off(block: Block) -> None:
    vars(block)["forward"] = partial(forward_shortcut, block)  # before the method of the class


def _replace_blocks(model: ResNet, replacements: Mapping[str, Block]) -> ResNet:
    """Copy the model and its stages, not their layers, with some blocks exchanged."""
    result: ResNet = _copy_children(model)
    for name in list_blocks(model):
        if name in replacements:
            stage, index = name.split(".")
            if result._modules[stage] is model._modules[stage]:
                result._modules[stage] = _copy_children(model._modules[stage])
            child: Any = result._modules[stage]
            child._modules[index] = replacements[name]
    return result


def _copy_children(module: Any) -> Any:
    """Copy a module so that its children can be replaced in the copy; the children are shared."""
    result = copy.copy(module)
    result._modules = dict(module._modules)
    return result

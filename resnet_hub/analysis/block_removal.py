"""Networks without some of their blocks, or with blocks in another order.

Veit et al. 2016 (https://arxiv.org/abs/1605.06431), sections 4.1 to 4.3: a residual network survives both, a plain
network does not survive the loss of one block.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from resnet_hub.analysis.blocks import Block, BlockNames, changes_shape, forward_shortcut, list_blocks, select_blocks
from resnet_hub.errors import AnalysisError
from resnet_hub.model import ResNet


@contextmanager
def lesion(model: ResNet, blocks: BlockNames) -> Iterator[ResNet]:
    """Switch off blocks of a model inside a `with` block; after it the model is as before.

    The output of a block that is off is the relu of its shortcut: equation 1 of He et al. with F(x) = 0. In a plain
    network, which has no shortcuts, it is the input; see `blocks.forward_shortcut`.

    The model itself changes meanwhile. Threads that share a model use `remove_blocks`.

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
        order: From the name of a place to the name of the block that stands there; other blocks keep their places.

    Raises:
        AnalysisError: The model has no such block, a block is used twice or not at all, or shapes differ.
    """
    targets, blocks = select_blocks(model, order), select_blocks(model, order.values())
    if targets.keys() != blocks.keys():
        raise AnalysisError("The order names a block twice or not at all. Give each place one of the blocks.")
    for place, name in order.items():
        keeps_shape = not changes_shape(targets[place]) and not changes_shape(blocks[name])
        if place != name and not (keeps_shape and place.split(".")[0] == name.split(".")[0]):
            raise AnalysisError(f"{name} cannot stand in place of {place}: both must keep the shape, in one stage.")
    return _replace_blocks(model, {place: blocks[name] for place, name in order.items()})


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

"""The order of the images and their random numbers: the same for any number of processes, and from any step on."""

import numpy as np
import pytest
import torch

from resnet_hub.errors import TrainingError
from resnet_hub.training.config import ResolvedTrainConfig, TrainConfig
from resnet_hub.training.sampler import BatchSampler
from resnet_hub.training.split import split_many_indices


def resolve(**settings: object) -> ResolvedTrainConfig:
    return TrainConfig(data="", run="", epochs=3, batch_size=12, **settings).resolved()  # type: ignore[arg-type]


def create_sampler(config: ResolvedTrainConfig, count: int = 50, process: int = 0, processes: int = 1) -> BatchSampler:
    return BatchSampler(config, torch.arange(count) % 5, 5, 32, process=process, num_processes=processes)


@pytest.mark.parametrize("balance", ["none", "sampling"])
def test_processes_share_the_batches_of_one(balance: str) -> None:
    config = resolve(balance=balance, mixup=0.2)
    alone = list(create_sampler(config).iterate(0, 0))
    assert len(alone) == 3 * 4
    for count in (2, 3, 6):
        shares = [
            list(create_sampler(config, process=process, processes=count).iterate(0, 0)) for process in range(count)
        ]
        for whole, parts in zip(alone, zip(*shares, strict=True), strict=True):
            assert np.array_equal(whole.indices, np.concatenate([part.indices for part in parts]))
            assert np.array_equal(whole.numbers, np.concatenate([part.numbers for part in parts]))


def test_batches_from_any_step_on_are_those_of_the_whole_run() -> None:
    sampler = create_sampler(resolve())
    batches = list(sampler.iterate(0, 0))
    for epoch, step in ((0, 3), (1, 0), (2, 2)):
        rest = list(sampler.iterate(epoch, step))
        for batch, resumed in zip(batches[epoch * sampler.steps + step :], rest, strict=True):
            assert np.array_equal(batch.indices, resumed.indices) and np.array_equal(batch.numbers, resumed.numbers)
    first, second = (np.concatenate([batch.indices for batch in batches[start : start + 4]]) for start in (0, 4))
    assert len(set(first)) == len(set(second)) == 48 and not np.array_equal(first, second)


def test_batches_are_shared_in_whole_images_and_pairs() -> None:
    assert create_sampler(resolve(), processes=5).batch_size == 10
    assert create_sampler(resolve(mixup=0.1), processes=4).batch_size == 8  # images are mixed in pairs
    assert create_sampler(resolve(mixup=0.1), count=7).batch_size == 7
    with pytest.raises(TrainingError, match="3 images cannot be shared by 4 processes"):
        create_sampler(resolve(), count=3, processes=4)


def test_many_images_are_held_out_of_each_class() -> None:
    targets = np.repeat([0, 1, 3], [1000, 10, 1])[np.random.default_rng(0).permutation(1011)]
    kept, held_out = split_many_indices(targets, 0.2, 0)
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(1011))
    assert np.bincount(targets[held_out], minlength=4).tolist() == [200, 2, 0, 0]  # the only image of a class is kept
    assert np.array_equal(held_out, split_many_indices(targets, 0.2, 0)[1])
    assert not np.array_equal(held_out, split_many_indices(targets, 0.2, 1)[1])

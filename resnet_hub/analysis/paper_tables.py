"""The tables of He et al. 2015 (https://arxiv.org/abs/1512.03385) beside what this project measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from resnet_hub.analysis.cifar import TrainingRecord
from resnet_hub.analysis.races import create_cifar_config
from resnet_hub.config import ResNetConfig

# Table 6: layers -> millions of parameters, and test error in percent
_TABLE_6 = {
    20: (0.27, 8.75),
    32: (0.46, 7.51),
    44: (0.66, 7.17),
    56: (0.85, 6.97),
    110: (1.7, 6.43),
    1202: (19.4, 7.93),
}
_REMARKS = {110: ", best of five runs, 6.61 +- 0.16"}  # table 6
_PLAIN = (20, 56)  # figure 6 draws their errors and names none
# Table 1: layers -> billions of multiply-adds, which the paper calls FLOPs
_TABLE_1 = {18: 1.8, 34: 3.6, 50: 3.8, 101: 7.6, 152: 11.3}


@dataclass(frozen=True, kw_only=True)
class ErrorRow:
    """A network of table 6 or figure 6: what the paper states, and our trainings of it."""

    network: str
    paper_parameters: float | None  # millions
    paper_error: float | None  # of the test images, 0 to 1
    paper_remark: str  # beside the error
    num_parameters: int
    multiply_adds: int
    records: tuple[TrainingRecord, ...]  # one for each seed; empty: was not trained

    @property
    def test_errors(self) -> tuple[float, ...]:
        return tuple(record.test_error for record in self.records)

    @property
    def minutes(self) -> float:
        """Of one training, mean over the seeds."""
        return sum(record.last.seconds for record in self.records) / len(self.records) / 60


@dataclass(frozen=True, kw_only=True)
class SizeRow:
    """A network of table 1: multiply-adds in the paper and here, and the parameters, which the paper does not state."""

    network: str
    paper_multiply_adds: float
    multiply_adds: int
    num_parameters: int


def compare_errors(records: Sequence[TrainingRecord]) -> list[ErrorRow]:
    """List the networks of table 6, after the plain ones of figure 6, with the finished records of each."""
    kinds: list[tuple[int, Literal["none", "A"]]] = [(layers, "none") for layers in _PLAIN]
    rows = []
    for layers, shortcut in [*kinds, *((layers, "A") for layers in _TABLE_6)]:
        config = create_cifar_config(layers, shortcut=shortcut)
        network = f"plain{layers}" if shortcut == "none" else f"resnet{layers}"
        parameters, error = (None, None) if shortcut == "none" else _TABLE_6[layers]
        rows.append(
            ErrorRow(
                network=network,
                paper_parameters=parameters,
                paper_error=None if error is None else error / 100,
                paper_remark="" if error is None else _REMARKS.get(layers, ""),
                num_parameters=config.num_parameters,
                multiply_adds=config.multiply_adds,
                records=tuple(record for record in records if record.network == network and record.is_finished),
            )
        )
    return rows


def compare_sizes() -> list[SizeRow]:
    """List the networks of table 1, with the stride on the first 1x1 convolution of a bottleneck as in the paper."""
    rows = []
    for layers, billions in _TABLE_1.items():
        config = ResNetConfig.from_name(f"resnet{layers}", num_classes=1000)
        config = replace(config, stride_in_1x1=config.block == "bottleneck")
        rows.append(
            SizeRow(
                network=f"resnet{layers}",
                paper_multiply_adds=billions * 1e9,
                multiply_adds=config.multiply_adds,
                num_parameters=config.num_parameters,
            )
        )
    return rows

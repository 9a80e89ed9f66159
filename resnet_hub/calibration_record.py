"""What int8 of a model needs: the range of each map, and what the accuracy was. Imports no torch."""

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from resnet_hub.errors import CheckpointError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord:
    """What makes int8 of a model: the range of each map, as seen on real pictures, and what it costs."""

    weights: str  # digest of the weights that the ranges belong to, as `digest` has it
    ranges: dict[str, tuple[float, float]]  # name of a map in the graph -> its smallest and largest value
    data: str  # that accuracy was measured on, for people
    pictures: int  # that it was measured on
    accuracy: float  # in float32, 0..1
    accuracy_int8: float
    passed: bool  # whether int8 is as good, so that it is used where it is faster

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Raises `CheckpointError` for anything but what `to_json` writes."""
        hints = {"weights": str, "data": str, "pictures": int, "accuracy": float, "accuracy_int8": float}
        try:
            content = json.loads(text)
            values: dict[str, Any] = {key: kind(content[key]) for key, kind in hints.items()}
            values["passed"] = content["passed"] is True
            values["ranges"] = {str(name): (float(low), float(high)) for name, (low, high) in content["ranges"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            values = {"ranges": {"": (math.nan, math.nan)}}
        for low, high in values["ranges"].values():
            if not (-math.inf < low <= 0 <= high < math.inf and high - low > 1e-30):
                raise CheckpointError("The int8 calibration is damaged; make it again with `resnet-hub quantize`.")
        return cls(**values)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

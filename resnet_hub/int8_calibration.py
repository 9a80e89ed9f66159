"""The int8 calibration of a checkpoint, stored as `onnx/int8.json`. Imports no torch."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Self

from resnet_hub.errors import CheckpointError

_FIELD_OF_KEY = {"pictures": "num_images"}  # files keep the keys of version 0.1, whose readers need them


@dataclass(frozen=True, kw_only=True)
class CalibrationRecord:
    """Value range of each feature map, and the accuracy before and after quantization."""

    weights: str  # digest of the weights that the ranges belong to, from `inference.onnx_graph.digest_weights`
    ranges: dict[str, tuple[float, float]]  # name of a feature map in the graph -> its minimum and maximum
    data: str  # description of the evaluation data, for the model card
    num_images: int  # number of images that the accuracies were computed on
    accuracy: float  # in float32, 0..1
    accuracy_int8: float
    passed: bool  # whether int8 is accurate enough to be used wherever it is faster

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the output of `to_json`.

        Raises:
            CheckpointError: The text is damaged, or a range is empty or does not contain 0.
        """
        types = {"weights": str, "data": str, "pictures": int, "accuracy": float, "accuracy_int8": float}
        try:
            content = json.loads(text)
            values: dict[str, Any] = {_FIELD_OF_KEY.get(key, key): cast(content[key]) for key, cast in types.items()}
            values["passed"] = content["passed"] is True
            values["ranges"] = {str(name): (float(low), float(high)) for name, (low, high) in content["ranges"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            values = {"ranges": {"": (math.nan, math.nan)}}
        for low, high in values["ranges"].values():
            if not (-math.inf < low <= 0 <= high < math.inf and high - low > 1e-30):
                raise CheckpointError("The int8 calibration is damaged. Create it again with `resnet-hub quantize`.")
        return cls(**values)

    def to_json(self) -> str:
        keys = {field: key for key, field in _FIELD_OF_KEY.items()}
        return json.dumps({keys.get(name, name): value for name, value in asdict(self).items()}, indent=1) + "\n"

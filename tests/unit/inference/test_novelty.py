"""Images unlike all that a model knows, told by their pooled features."""

from pathlib import Path

import pytest
import torch

from resnet_hub.checkpoints.save import CALIBRATION_FILE
from resnet_hub.errors import ConfigError
from resnet_hub.evaluation.reliability import MAX_NOVELTY_LABELS
from resnet_hub.included_models import INCLUDED_FOLDER
from resnet_hub.inference.classifier import Classifier
from resnet_hub.inference.novelty import DIRECTIONS, FeatureSubspace
from resnet_hub.inference.onnx_graph import digest_weights
from resnet_hub.int8_calibration import CalibrationRecord


def draw_features(count: int, directions: torch.Tensor) -> torch.Tensor:
    """Positive features near the plane of a few directions."""
    generator = torch.Generator().manual_seed(count)
    noise = 0.02 * torch.rand(count, directions.shape[1], generator=generator)
    return torch.rand(count, len(directions), generator=generator) @ directions + noise


def test_features_outside_the_plane_are_far() -> None:
    directions = torch.eye(64)[:4]
    subspace = FeatureSubspace.fit(draw_features(100, directions))
    assert subspace.directions.shape == (DIRECTIONS, 64)
    same = subspace.measure_distances(draw_features(200, directions))
    other = subspace.measure_distances(draw_features(200, torch.eye(64)[4:8]))
    assert float(same.max()) < float(other.min())
    stronger = subspace.measure_distances(7 * draw_features(200, directions))  # brightness and contrast say little
    torch.testing.assert_close(stronger, same)


def test_it_is_stored_as_text() -> None:
    features = draw_features(100, torch.eye(64)[:4])
    subspace = FeatureSubspace.fit(features)
    text = subspace.encode()
    assert text.isascii() and len(text) < 1.4 * 2 * (DIRECTIONS + 1) * 64
    loaded = FeatureSubspace.decode(text, 64)
    torch.testing.assert_close(
        loaded.measure_distances(features), subspace.measure_distances(features), atol=1e-3, rtol=0.01
    )


INFINITE = FeatureSubspace(torch.full((64,), torch.inf), torch.zeros(0, 64)).encode()


@pytest.mark.parametrize("text", ["", "no base64", "AAA=", "AAAA", INFINITE], ids=range(5))
def test_a_damaged_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="subspace"):
        FeatureSubspace.decode(text, 64)


def test_few_images_have_fewer_directions() -> None:
    assert len(FeatureSubspace.fit(draw_features(9, torch.eye(64)[:4])).directions) == 2
    assert len(FeatureSubspace.fit(torch.rand(100, 16)).directions) == 4
    assert FeatureSubspace.fit(torch.rand(1, 16)).measure_distances(torch.rand(2, 16)).shape == (2,)


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in INCLUDED_FOLDER.glob("[!.]*/config.json")), ids=lambda p: p.name
)
def test_included_models_of_few_labels_recognize_unknown_images(folder: Path) -> None:
    model = Classifier.from_pretrained(folder, device="cpu", precision="fp32").model
    reliability = model.config.reliability
    if model.config.num_classes <= MAX_NOVELTY_LABELS:
        assert reliability.most_distance is not None and reliability.subspace is not None
    if (folder / CALIBRATION_FILE).is_file():
        record = CalibrationRecord.from_json((folder / CALIBRATION_FILE).read_bytes())
        assert record.weights == digest_weights(model) and "pictures" not in record.data

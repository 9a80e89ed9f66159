import copy
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers.networks import calibration, network, ranges

from resnet_hub.errors import CheckpointError, ResNetHubError
from resnet_hub.inference.engines import (
    BatchedEngine,
    EngineOutput,
    OnnxRuntimeEngine,
    PyTorchEngine,
    create_bf16_engine,
    estimate_agreement,
    select_engine,
)
from resnet_hub.inference.onnx_graph import build_onnx, digest_weights, fold_batchnorm


@pytest.fixture(scope="module")
def model():
    return network(depths=(1, 1), width=16)


@pytest.fixture(scope="module")
def batch():
    return torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def calibrated(model, batch, **changes):
    model = copy.deepcopy(model)
    facts = {"weights": digest_weights(model), "ranges": ranges(model, batch)} | changes
    model.calibration = calibration(**facts).to_json().encode()
    return model


def without(monkeypatch, *names):
    monkeypatch.setattr("resnet_hub.inference.engines.find_spec", lambda name: None if name in names else object())


def assert_near(found, expected, tolerance=1e-4):
    assert found.logits.dtype == found.feature_maps.dtype == torch.float32
    assert (found.logits.softmax(1) - expected.logits.softmax(1)).abs().max() <= tolerance
    assert found.feature_maps.shape == expected.feature_maps.shape


# Which engine it is, and that its answers are those of PyTorch


def test_onnx_runtime_where_it_is(model, batch):
    plain = PyTorchEngine(model, exact=True)
    fast = select_engine(model, "auto")
    assert (fast.name, fast.precision) == ("ONNX Runtime", "fp32")
    assert_near(fast(batch), plain(batch))
    assert torch.allclose(fast(batch).feature_maps, plain(batch).feature_maps, atol=1e-4)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_folded_pytorch_where_it_is_not(model, batch, monkeypatch, missing):
    without(monkeypatch, missing)
    fast = select_engine(model, "auto")
    assert (fast.name, fast.precision) == ("PyTorch", "fp32")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.model.modules())
    assert_near(fast(batch), PyTorchEngine(model, exact=True)(batch))
    with pytest.raises(ResNetHubError, match="pip install"):
        select_engine(model, "int8")


def test_half_precision_stays_with_pytorch(model, batch):
    half = copy.deepcopy(model).bfloat16()
    fast = select_engine(half, "auto")
    assert (fast.name, fast.precision, fast.model) == ("PyTorch", "bf16", half)
    assert_near(fast(batch), PyTorchEngine(model, exact=True)(batch), 0.05)


def test_a_graph_that_answers_otherwise_is_not_used(model, batch, monkeypatch, caplog):
    other = build_onnx(fold_batchnorm(network(seed=3, depths=(1, 1), width=16)), extra="last")
    monkeypatch.setattr("resnet_hub.inference.engines.build_onnx", lambda *_, **__: other)
    with caplog.at_level(logging.WARNING):
        fast = select_engine(model, "auto")
    assert fast.name == "PyTorch" and fast.model is model
    assert "so PyTorch does: The ONNX graph and PyTorch disagree" in caplog.text


def test_weights_that_are_no_numbers_are_left_to_pytorch(model, caplog):
    broken = copy.deepcopy(model)
    torch.nn.init.constant_(broken.fc.weight, torch.nan)
    assert select_engine(broken, "auto").name == "PyTorch"


def test_large_batches_run_in_parts(model, batch, monkeypatch):
    whole = OnnxRuntimeEngine(build_onnx(fold_batchnorm(model), extra="last"), "fp32")(batch)
    monkeypatch.setattr("resnet_hub.inference.engines._RUN_PIXELS", 2 * 32 * 32)
    parts = OnnxRuntimeEngine(build_onnx(fold_batchnorm(model), extra="last"), "fp32")(batch)
    assert torch.allclose(whole.logits, parts.logits, atol=1e-5)
    assert torch.allclose(whole.feature_maps, parts.feature_maps, atol=1e-5)


def test_no_thread_outlives_its_engine(model, batch):
    def threads():
        return len(list(Path("/proc/self/task").iterdir()))

    graph = build_onnx(fold_batchnorm(model), extra="last")
    before = [OnnxRuntimeEngine(graph, "fp32")(batch), threads()][1]
    for _ in range(5):
        OnnxRuntimeEngine(graph, "fp32")(batch)
    assert threads() <= before


# int8


@pytest.mark.parametrize(("seconds", "precision"), [({"fp32": 2, "int8": 1}, "int8"), ({"fp32": 2, "int8": 2}, "fp32")])
def test_int8_by_itself_where_it_is_faster(model, batch, monkeypatch, seconds, precision):
    monkeypatch.setattr("resnet_hub.inference.engines._measure_seconds", lambda one, batch: seconds[one.precision])
    fast = select_engine(calibrated(model, batch), "auto")
    assert (fast.name, fast.precision) == ("ONNX Runtime", precision)
    assert_near(fast(batch), PyTorchEngine(model, exact=True)(batch), 0.1)


def test_float32_stays_if_requested_or_if_int8_loses_too_much(model, batch, monkeypatch):
    monkeypatch.setattr(
        "resnet_hub.inference.engines._measure_seconds", lambda one, batch: {"fp32": 2, "int8": 1}[one.precision]
    )
    assert select_engine(calibrated(model, batch), "fp32").precision == "fp32"
    assert select_engine(calibrated(model, batch, passed=False), "auto").precision == "fp32"
    assert select_engine(calibrated(model, batch, passed=False), "int8").precision == "int8"


def test_a_calibration_of_other_weights_is_not_used(model, batch, monkeypatch):
    monkeypatch.setattr(
        "resnet_hub.inference.engines._measure_seconds", lambda one, batch: {"fp32": 2, "int8": 1}[one.precision]
    )
    trained_on = calibrated(model, batch)
    with torch.no_grad():
        trained_on.fc.weight.mul_(1.01)
    assert select_engine(trained_on, "auto").precision == "fp32"
    for uncalibrated in (trained_on, model):
        with pytest.raises(ResNetHubError, match="no int8 calibration of these weights"):
            select_engine(uncalibrated, "int8")


def test_a_damaged_calibration(model, batch, caplog):
    damaged = copy.deepcopy(model)
    damaged.calibration = b"{}"
    assert select_engine(damaged, "auto").name == "ONNX Runtime"
    assert "calibration is damaged" in caplog.text
    with pytest.raises(CheckpointError, match="calibration is damaged"):
        select_engine(damaged, "int8")


# bf16


@pytest.fixture
def multiplies(monkeypatch):
    """As on a CPU that multiplies bf16, with a network that is worth it."""
    monkeypatch.setattr("resnet_hub.inference.engines.multiplies_bf16", lambda: True)
    monkeypatch.setattr("resnet_hub.inference.engines._MIN_WORK", 0)


@pytest.mark.parametrize(("seconds", "precision"), [({"fp32": 2, "bf16": 1}, "bf16"), ({"fp32": 2, "bf16": 2}, "fp32")])
@pytest.mark.parametrize("missing", [(), ("onnxruntime",)])
def test_bf16_by_itself_where_it_is_faster(model, batch, monkeypatch, multiplies, missing, seconds, precision):
    without(monkeypatch, *missing)
    monkeypatch.setattr("resnet_hub.inference.engines._MIN_AGREEMENT", 0.9)
    monkeypatch.setattr("resnet_hub.inference.engines._measure_seconds", lambda one, *_, **__: seconds[one.precision])
    fast = select_engine(model, "auto")
    assert fast.precision == precision
    assert_near(fast(batch), PyTorchEngine(model, exact=True)(batch), 0.05)
    assert select_engine(model, "fp32").precision == "fp32"


def test_float32_stays_where_bf16_changes_labels_or_gains_nothing(model, monkeypatch, multiplies):
    monkeypatch.setattr(
        "resnet_hub.inference.engines._measure_seconds", lambda one, *_, **__: {"fp32": 2, "bf16": 1}[one.precision]
    )
    undecided = copy.deepcopy(model)
    with torch.no_grad():  # two classes whose logits differ by less than bf16 resolves
        undecided.fc.weight[:] = undecided.fc.weight[:1] * torch.linspace(0.999, 1, 5)[:, None]
        undecided.fc.bias[:] = 0
    assert select_engine(undecided, "auto").precision == "fp32"
    monkeypatch.setattr("resnet_hub.inference.engines._MIN_AGREEMENT", 0)
    assert select_engine(undecided, "auto").precision == "bf16"
    monkeypatch.setattr("resnet_hub.inference.engines._MIN_WORK", 100e6)
    assert select_engine(undecided, "auto").precision == "fp32"


def test_bf16_if_requested(model, batch):
    forced = select_engine(model, "bf16")
    assert (forced.name, forced.precision) == ("PyTorch", "bf16")
    assert forced.model.conv1.weight.dtype == torch.bfloat16 and forced.model.fc.weight.dtype == torch.float32
    assert model.conv1.weight.dtype == torch.float32
    assert_near(forced(batch), PyTorchEngine(model, exact=True)(batch), 0.05)
    headless = copy.deepcopy(model)
    headless.reset_head()
    maps = create_bf16_engine(fold_batchnorm(headless))(batch).feature_maps
    assert torch.equal(maps, forced(batch).feature_maps)


def test_agreement_is_estimated_from_a_few_images():
    noise = torch.Generator().manual_seed(0)
    expected = torch.randn(20_000, 10, generator=noise) * 3
    logits = expected + torch.randn(20_000, 10, generator=noise) * 0.03
    changed = (logits.argmax(1) != expected.argmax(1)).float().mean()
    few = [1 - estimate_agreement(logits[rows], expected[rows]) for rows in torch.arange(20_000).split(16)]
    assert torch.tensor(few).mean() == pytest.approx(float(changed), rel=0.2)
    assert torch.tensor(few).std() < changed / 2  # by counting it is more than twice `changed`
    assert estimate_agreement(expected, expected) == 1
    assert estimate_agreement(logits[:, :1], expected[:, :1]) == 1
    assert not estimate_agreement(logits * torch.nan, expected) > 0


# Many callers


class Slow:
    name, precision = "slow", "fp32"

    def __init__(self):
        self.batches, self.busy = [], threading.Lock()

    def __call__(self, batch):
        assert self.busy.acquire(blocking=False), "two runs at once"
        self.batches.append(len(batch))
        time.sleep(0.02)
        self.busy.release()
        if (batch < 0).any():
            raise ValueError("negative")
        return EngineOutput(batch.flatten(1).sum(1, keepdim=True), batch)


def test_batches_that_wait_run_together_and_each_gets_its_own():
    slow = Slow()
    run = BatchedEngine(slow)
    batches = [torch.full((1 + index % 3, 1, 1, 1), float(index)) for index in range(32)]
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(run, batches))
    for batch, answer in zip(batches, answers, strict=True):
        assert torch.equal(answer.feature_maps, batch) and answer.logits.shape == (len(batch), 1)
    assert sum(slow.batches) == sum(map(len, batches)) and len(slow.batches) < len(batches)


def test_a_failure_reaches_its_batch_and_the_next_batch_works():
    run = BatchedEngine(Slow())
    with pytest.raises(ValueError, match="negative"):
        run(torch.full((1, 1, 1, 1), -1.0))
    assert run(torch.ones(1, 1, 1, 1)).logits.item() == 1

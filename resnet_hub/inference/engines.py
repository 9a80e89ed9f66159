"""Engines compute a model's outputs: ONNX Runtime on a CPU if it is installed, else PyTorch.

docs/log.md has the measurements behind the constants. onnxruntime is imported when an engine is built."""

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_hub.calibration_record import CalibrationRecord
from resnet_hub.errors import CheckpointError, ResNetHubError
from resnet_hub.inference.onnx_graph import INPUT, LOGITS, MAP, TOLERANCE, build_onnx, digest_weights, fold_batchnorm
from resnet_hub.model import ResNet

Precision = Literal["auto", "fp32", "int8"]

_RUN_PIXELS = 2**20  # in one run on the CPU: 20 images of 224 x 224; larger runs are no faster and keep their memory
_TIMED_RUNS = 5  # of each engine, to compare their speed on this machine
_MAX_INT8_TIME = 0.9  # of the time in float32; above it int8 is not worth its rounding errors

log = logging.getLogger(__name__)


class EngineOutput(NamedTuple):
    """Logits (N, classes) and the last stage's feature maps (N, K, h, w), float32 on the CPU."""

    logits: Tensor
    feature_maps: Tensor


class Engine(Protocol):
    """Computes the outputs for a batch (N, C, H, W) of float32 on the CPU."""

    name: str  # to show: "PyTorch" or "ONNX Runtime"
    precision: str  # in which it computes, such as "fp32"

    def __call__(self, batch: Tensor) -> EngineOutput: ...


class PyTorchEngine:
    """Runs the model on its device; on a GPU in half precision, unless `exact`."""

    name = "PyTorch"

    def __init__(self, model: ResNet, *, exact: bool):
        self.model = model
        weights = next(model.parameters())
        self.device, self.dtype = weights.device, weights.dtype
        self.autocast = self.device.type == "cuda" and self.dtype == torch.float32 and not exact
        names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
        self.precision = "fp16" if self.autocast else names.get(self.dtype, str(self.dtype))

    def __call__(self, batch: Tensor) -> EngineOutput:
        autocast = torch.autocast("cuda", torch.float16) if self.autocast else nullcontext()
        with torch.inference_mode(), autocast:
            # convolutions are faster with channels last, and take the memory format of their input
            maps = self.model.forward_features(batch.to(self.device, self.dtype, memory_format=torch.channels_last))
            logits = self.model.fc(self.model.avgpool(maps).flatten(1))
            return EngineOutput(logits.float().cpu(), maps.float().cpu())


class OnnxRuntimeEngine:
    """Runs a graph that `build_onnx` made of the model's weights. Its threads end when it is deleted."""

    name = "ONNX Runtime"

    def __init__(self, graph: bytes, precision: str):
        self.precision = precision
        self._session = create_session(graph)

    def __call__(self, batch: Tensor) -> EngineOutput:
        chunk = max(1, _RUN_PIXELS // (batch.shape[2] * batch.shape[3]))
        starts = range(0, len(batch), chunk)
        runs = [self._session.run([LOGITS, MAP], {INPUT: batch[start : start + chunk].numpy()}) for start in starts]
        if len(runs) > 1:
            runs = [[np.concatenate(outputs) for outputs in zip(*runs, strict=True)]]
        return EngineOutput(*map(torch.from_numpy, runs[0]))


def create_session(graph: bytes) -> Any:
    """Creates an ONNX Runtime session on the CPU with as many threads as PyTorch has."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read once, when onnxruntime is imported
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else idle threads keep cores busy
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def select_engine(model: ResNet, precision: Precision) -> Engine:
    """Builds the fastest engine for a model on this machine and checks its logits against PyTorch's.

    Args:
        model: The model, in evaluation mode.
        precision: "auto" takes int8 if the model is calibrated for it, lost little accuracy, and runs faster in it.

    Raises:
        ResNetHubError: If `precision` is "int8" and the model cannot run in it here.
    """
    onnx = has_onnx()
    if precision == "int8":
        if model.device.type != "cpu":
            raise ResNetHubError(f"int8 runs on a CPU only, and the model is on {model.device}; use device='cpu'.")
        if not onnx:
            raise ResNetHubError("int8 needs ONNX Runtime: pip install 'resnet_hub[onnx]'.")
    plain = PyTorchEngine(model, exact=precision == "fp32")
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return plain
    try:
        folded = fold_batchnorm(model)
        if not onnx:
            return PyTorchEngine(folded.to(memory_format=torch.channels_last), exact=True)
        if precision == "int8":
            calibration = load_calibration(model)
            if calibration is None:
                advice = "make one with `resnet-hub quantize`"
                raise ResNetHubError(f"The model has no int8 calibration of these weights; {advice}.")
            return OnnxRuntimeEngine(build_onnx(folded, ranges=calibration.ranges, extra="map"), "int8")
        engine, batch = OnnxRuntimeEngine(build_onnx(folded, extra="map"), "fp32"), example_batch(model)
        check_logits(engine(batch).logits, plain(batch).logits)
        return _try_int8(engine, model, folded) if precision == "auto" else engine
    except Exception as error:  # PyTorch still works
        if precision == "int8":
            raise
        log.warning("ONNX Runtime cannot run this model, so PyTorch does: %s", error)
        return plain


def _try_int8(engine: Engine, model: ResNet, folded: ResNet) -> Engine:
    """Returns an int8 engine if the model is calibrated for it and it is faster on this machine, else `engine`."""
    try:
        calibration = load_calibration(model)
        if calibration and calibration.passed:
            quantized = OnnxRuntimeEngine(build_onnx(folded, ranges=calibration.ranges, extra="map"), "int8")
            image = example_batch(model)[:1]
            if _measure_seconds(quantized, image) < _MAX_INT8_TIME * _measure_seconds(engine, image):
                return quantized
    except CheckpointError as error:
        log.warning("%s Until then the model runs in float32.", error)
    return engine


def example_batch(model: ResNet) -> Tensor:
    """Makes two smooth inputs (2, C, side, side) on which to compare engines, the same on each machine."""
    generator = torch.Generator().manual_seed(0)
    side = model.config.image_size
    coarse = torch.rand(2, model.config.in_channels, 8, 8, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bilinear") * 4 - 2


def check_logits(logits: Tensor, expected: Tensor) -> None:
    """Raises `CheckpointError` if logits (N, classes) differ by more than `TOLERANCE`."""
    error = ((logits - expected).abs().max() / expected.abs().max().clamp_min(1)).item()
    if not error <= TOLERANCE:  # in this form NaN fails too
        raise CheckpointError(f"The ONNX graph and PyTorch disagree: their logits differ by {error:.2g}.")


def load_calibration(model: ResNet) -> CalibrationRecord | None:
    """Returns the int8 calibration of the model's folder, or None if there is none of these weights."""
    if model.calibration is None:
        return None
    calibration = CalibrationRecord.from_json(model.calibration)
    return calibration if calibration.weights == digest_weights(model) else None


def has_onnx() -> bool:
    return all(find_spec(name) for name in ("onnx", "onnxruntime"))


def _measure_seconds(engine: Engine, batch: Tensor) -> float:
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        engine(batch)
        times.append(time.perf_counter() - start)
    return min(times)


def join_tensors(join: Callable[[list[np.ndarray]], np.ndarray], tensors: list[Tensor]) -> Tensor:
    """Joins tensors on the CPU by a function of NumPy.

    PyTorch would start its threads for it, which then spin while they wait and take a core from ONNX Runtime: a
    ResNet-18 on two cores lost a third of its speed, and more after a pause (docs/log.md).
    """
    return torch.from_numpy(join([tensor.numpy() for tensor in tensors]))


class BatchedEngine:
    """Runs one batch at a time on all cores. Batches that other threads add in the meantime run together next."""

    def __init__(self, engine: Engine):
        self.engine = engine  # may be replaced at any time
        self._waiting: list[tuple[Tensor, Future[EngineOutput]]] = []
        self._queue_lock, self._run_lock = threading.Lock(), threading.Lock()

    def __call__(self, batch: Tensor) -> EngineOutput:
        future: Future[EngineOutput] = Future()
        with self._queue_lock:
            self._waiting.append((batch, future))
        with self._run_lock:
            if not future.done():  # else the run before has included this batch
                self._run_queued_batches()
        return future.result()

    def _run_queued_batches(self) -> None:
        with self._queue_lock:
            waiting, self._waiting = self._waiting, []
        try:
            outputs = self.engine(join_tensors(np.concatenate, [batch for batch, _ in waiting]))
        except BaseException as error:
            for _, future in waiting:
                future.set_exception(error)
            return
        start = 0
        for batch, future in waiting:
            rows = slice(start, start := start + len(batch))
            future.set_result(EngineOutput(outputs.logits[rows], outputs.feature_maps[rows]))

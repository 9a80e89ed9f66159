"""Engines compute a model's outputs: ONNX Runtime on a CPU if it is installed, else PyTorch; bfloat16 where it pays.

docs/log.md has the measurements behind the constants. onnxruntime is imported when an engine is built."""

import copy
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

from resnet_hub.errors import CheckpointError, ResNetHubError
from resnet_hub.inference.onnx_graph import (
    FEATURE_MAP,
    INPUT,
    LOGITS,
    TOLERANCE,
    build_onnx,
    digest_weights,
    fold_batchnorm,
)
from resnet_hub.int8_calibration import CalibrationRecord
from resnet_hub.model import ResNet

Precision = Literal["auto", "fp32", "bf16", "int8"]

_RUN_PIXELS = 2**20  # in one run on the CPU: 20 images of 224 x 224; larger runs are no faster and keep their memory
_TIMED_RUNS = 5  # of each engine, to compare their speed on this machine
_MAX_TIME = 0.9  # of the time in float32; above it int8 and bf16 are not worth their rounding errors
_MIN_AGREEMENT = 0.995  # of the first labels in bf16 with those in float32
_MIN_WORK = 100e6  # multiply-adds of an image; a smaller network gains too little by bf16 to compare engines for it
_CHECKED = 16  # images that bf16 and float32 are compared on

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
    """Runs the model on its device; on a GPU in half precision, the dtype `half`, unless `exact`."""

    name = "PyTorch"

    def __init__(self, model: ResNet, *, exact: bool, half: torch.dtype = torch.float16):
        self.model, self.half = model, half
        weights = next(model.parameters())
        self.device, self.dtype = weights.device, weights.dtype
        self.head_dtype = getattr(model.fc, "weight", weights).dtype
        self.autocast = self.device.type == "cuda" and self.dtype == torch.float32 and not exact
        names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
        dtype = half if self.autocast else self.dtype
        self.precision = names.get(dtype, str(dtype))

    def __call__(self, batch: Tensor) -> EngineOutput:
        autocast = torch.autocast("cuda", self.half) if self.autocast else nullcontext()
        with torch.inference_mode(), autocast:
            # convolutions are faster with channels last, and take the memory format of their input
            feature_maps = self.model.forward_features(
                batch.to(self.device, self.dtype, memory_format=torch.channels_last)
            )
            logits = self.model.fc(self.model.avgpool(feature_maps.to(self.head_dtype)).flatten(1))
            return EngineOutput(logits.float().cpu(), feature_maps.float().cpu())


def create_bf16_engine(folded: ResNet) -> PyTorchEngine:
    """Creates an engine in bfloat16 for a network that `fold_batchnorm` returned.

    The head stays in float32: rounded logits changed twice as many first labels (docs/log.md).
    """
    rounded = copy.deepcopy(folded).bfloat16().to(memory_format=torch.channels_last)
    rounded.fc.float()
    return PyTorchEngine(rounded, exact=True)


def has_bf16() -> bool:
    """Whether bfloat16 is faster than float32 on this hardware, because it multiplies it directly."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return multiplies_bf16()


def multiplies_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 directly."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not in all versions of PyTorch
    return torch.backends.mkldnn.is_available() and any(getattr(torch.cpu, name, bool)() for name in names)


class OnnxRuntimeEngine:
    """Runs a graph that `build_onnx` made of the model's weights. Its threads end when it is deleted."""

    name = "ONNX Runtime"

    def __init__(self, graph: bytes, precision: str):
        self.precision = precision
        self._session = create_session(graph)

    def __call__(self, batch: Tensor) -> EngineOutput:
        chunk = max(1, _RUN_PIXELS // (batch.shape[2] * batch.shape[3]))
        starts = range(0, len(batch), chunk)
        runs = [
            self._session.run([LOGITS, FEATURE_MAP], {INPUT: batch[start : start + chunk].numpy()}) for start in starts
        ]
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
        ResNetHubError: If `precision` is "int8" or "bf16" and the model cannot run in it here.
    """
    onnx = has_onnx()
    if precision == "bf16" and model.device.type not in ("cpu", "cuda"):
        raise ResNetHubError(f"bf16 runs on a CPU or a CUDA GPU, and the model is on {model.device}; use device='cpu'.")
    if precision == "int8":
        if model.device.type != "cpu":
            raise ResNetHubError(f"int8 runs on a CPU only, and the model is on {model.device}; use device='cpu'.")
        if not onnx:
            raise ResNetHubError("int8 needs ONNX Runtime: pip install 'resnet_hub[onnx]'.")
    plain = create_plain_engine(model, precision)
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return plain
    try:
        folded = fold_batchnorm(model)
        if precision == "bf16":
            return create_bf16_engine(folded)
        if not onnx:
            engine: Engine = PyTorchEngine(folded.to(memory_format=torch.channels_last), exact=True)
            return _try_bf16(engine, model, folded) if precision == "auto" else engine
        if precision == "int8":
            calibration = load_calibration(model)
            if calibration is None:
                advice = "make one with `resnet-hub quantize`"
                raise ResNetHubError(f"The model has no int8 calibration of these weights; {advice}.")
            return OnnxRuntimeEngine(build_onnx(folded, ranges=calibration.ranges, extra="last"), "int8")
        engine, batch = OnnxRuntimeEngine(build_onnx(folded, extra="last"), "fp32"), example_batch(model)
        check_logits(engine(batch).logits, plain(batch).logits)
        if precision == "auto":
            return _try_int8(engine, model, folded) or _try_bf16(engine, model, folded)
        return engine
    except Exception as error:  # PyTorch still works
        if precision in ("int8", "bf16"):
            raise
        log.warning("ONNX Runtime cannot run this model, so PyTorch does: %s", error)
        return plain


def create_plain_engine(model: ResNet, precision: Precision) -> PyTorchEngine:
    """Creates the engine that runs the model as it is, without preparation."""
    return PyTorchEngine(
        model, exact=precision == "fp32", half=torch.bfloat16 if precision == "bf16" else torch.float16
    )


def _try_int8(engine: Engine, model: ResNet, folded: ResNet) -> Engine | None:
    """Returns an int8 engine if the model is calibrated for it and it is faster than `engine` on this machine."""
    try:
        calibration = load_calibration(model)
        if calibration and calibration.passed:
            quantized = OnnxRuntimeEngine(build_onnx(folded, ranges=calibration.ranges, extra="last"), "int8")
            image = example_batch(model)[:1]
            if _measure_seconds(quantized, image) < _MAX_TIME * _measure_seconds(engine, image):
                return quantized
    except CheckpointError as error:
        log.warning("%s Until then the model runs without it.", error)
    return None


def _try_bf16(engine: Engine, model: ResNet, folded: ResNet) -> Engine:
    """Returns an engine in bfloat16 if this CPU multiplies it, it is faster, and it hardly changes labels."""
    side, work = model.config.image_size, model.config.multiply_adds
    if not (multiplies_bf16() and work >= _MIN_WORK):
        return engine
    rounded, batch = create_bf16_engine(folded), example_batch(model, max(2, min(_CHECKED, _RUN_PIXELS // side**2)))
    agreement = estimate_agreement(rounded(batch).logits, engine(batch).logits)
    if not agreement >= _MIN_AGREEMENT:
        log.info("In bf16 about %.1f%% of the labels would stay, so the model runs in float32.", 100 * agreement)
        return engine
    seconds = [_measure_seconds(one, batch, runs=1) for one in (rounded, engine)]  # both have run before
    return rounded if seconds[0] < _MAX_TIME * seconds[1] else engine


def estimate_agreement(logits: Tensor, expected: Tensor) -> float:
    """Estimates how many of many images (0 to 1) have the same first label, from logits (N, classes) of a few.

    A label changes where the error of the difference of the two best logits is larger than this difference. With the
    errors taken as normal, and `smoothing` times as large, each change counts the less: so images whose two best labels
    are nearly equal, which are few, need not be among the few.
    """
    if expected.shape[1] < 2:
        return 1.0
    smoothing = 8.0
    best = expected.topk(2, 1)
    changes = (logits - expected).gather(1, best.indices)
    error = (changes[:, 0] - changes[:, 1]).square().mean().sqrt().clamp_min(1e-12)
    margins = best.values[:, 0] - best.values[:, 1]
    return 1 - float(torch.special.ndtr(-margins / (smoothing * error)).mean()) / smoothing


def example_batch(model: ResNet, count: int = 2) -> Tensor:
    """Makes smooth inputs (count, C, side, side) on which to compare engines, the same on each machine."""
    generator = torch.Generator().manual_seed(0)
    side = model.config.image_size
    coarse = torch.rand(count, model.config.in_channels, 8, 8, generator=generator)
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


def _measure_seconds(engine: Engine, batch: Tensor, runs: int = _TIMED_RUNS) -> float:
    times = []
    for _ in range(runs):
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

"""What computes a network's answers: ONNX Runtime on a CPU where it is installed, else PyTorch.

Figures and what else was tried are in docs/log.md. onnxruntime is imported when an engine is made."""

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

_RUN_PIXELS = 2**20  # of a run on the CPU: 20 pictures of 224 x 224; larger ones gain nothing and keep their memory
_RUNS = 5  # of each engine, to see which is faster here
_FASTER = 0.9  # of the time in float32, from which on int8 is worth its rounding

log = logging.getLogger(__name__)


class EngineOutput(NamedTuple):
    """Logits (N, classes) and the last stage's map (N, K, h, w), float32 on the CPU."""

    logits: Tensor
    maps: Tensor


class Engine(Protocol):
    """Computes answers to a batch (N, C, H, W) of float32 on the CPU."""

    name: str  # for people: "PyTorchEngine" or "ONNX Runtime"
    precision: str  # that it computes in, such as "fp32"

    def __call__(self, batch: Tensor) -> EngineOutput: ...


class PyTorchEngine:
    """The model itself, on its own device; on a GPU in half precision, unless `exact`."""

    name = "PyTorch"

    def __init__(self, model: ResNet, *, exact: bool):
        self.model = model
        weights = next(model.parameters())  # of any: a folded network has no BatchNorm
        self.device, self.dtype = weights.device, weights.dtype
        self.autocast = self.device.type == "cuda" and self.dtype == torch.float32 and not exact
        names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
        self.precision = "fp16" if self.autocast else names.get(self.dtype, str(self.dtype))

    def __call__(self, batch: Tensor) -> EngineOutput:
        halved = torch.autocast("cuda", torch.float16) if self.autocast else nullcontext()
        with torch.inference_mode(), halved:
            # convolutions are faster with the channels last, and follow their input
            maps = self.model.forward_features(batch.to(self.device, self.dtype, memory_format=torch.channels_last))
            logits = self.model.fc(self.model.avgpool(maps).flatten(1))
            return EngineOutput(logits.float().cpu(), maps.float().cpu())


class OnnxRuntimeEngine:
    """A graph that was made here, of the model's weights; its threads end with it."""

    name = "ONNX Runtime"

    def __init__(self, graph: bytes, precision: str):
        self.precision = precision
        self._session = create_session(graph)

    def __call__(self, batch: Tensor) -> EngineOutput:
        chunk = max(1, _RUN_PIXELS // (batch.shape[2] * batch.shape[3]))
        runs = [self._session.run([LOGITS, MAP], {INPUT: part.numpy()}) for part in batch.split(chunk)]
        if len(runs) > 1:
            runs = [[np.concatenate(parts) for parts in zip(*runs, strict=True)]]
        return EngineOutput(*map(torch.from_numpy, runs[0]))


def create_session(graph: bytes) -> Any:
    """An ONNX Runtime session on the CPU with as many threads as PyTorch has."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it looks once, when it is imported, and notes who runs it
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads would take a core from others
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def select_engine(model: ResNet, precision: Precision) -> Engine:
    """The engine for a model on this machine, which answers as PyTorch does; with "auto" int8 where it is as good.

    Raises `ResNetHubError` where int8 is asked for and cannot be.
    """
    onnx = has_onnx()
    if precision == "int8":
        if model.device.type != "cpu":
            raise ResNetHubError(f"int8 runs on a CPU only, and the model is on {model.device}; take device='cpu'.")
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
                again = "make one with `resnet-hub quantize`"
                raise ResNetHubError(f"The model has no int8 calibration of these weights; {again}.")
            return OnnxRuntimeEngine(build_onnx(folded, ranges=calibration.ranges, extra="map"), "int8")
        engine, batch = OnnxRuntimeEngine(build_onnx(folded, extra="map"), "fp32"), example_batch(model)
        check_logits(engine(batch).logits, plain(batch).logits)
        return _faster(engine, model, folded) if precision == "auto" else engine
    except Exception as error:  # PyTorch answers too
        if precision == "int8":
            raise
        log.warning("ONNX Runtime cannot run this model, so PyTorch does: %s", error)
        return plain


def _faster(engine: Engine, model: ResNet, folded: ResNet) -> Engine:
    """int8, where the model is calibrated for it and it is faster on this machine; else `engine`."""
    try:
        calibration = load_calibration(model)
        if calibration and calibration.passed:
            whole, picture = (
                OnnxRuntimeEngine(build_onnx(folded, ranges=calibration.ranges, extra="map"), "int8"),
                example_batch(model)[:1],
            )
            if _seconds(whole, picture) < _FASTER * _seconds(engine, picture):
                return whole
    except CheckpointError as error:
        log.warning("%s Until then the model runs in float32.", error)
    return engine


def example_batch(model: ResNet) -> Tensor:
    """Two smooth pictures to compare engines on, (2, C, side, side): the same on each machine."""
    generator = torch.Generator().manual_seed(0)
    side = model.config.image_size
    coarse = torch.rand(2, model.config.in_channels, 8, 8, generator=generator)
    return F.interpolate(coarse, (side, side), mode="bilinear") * 4 - 2


def check_logits(found: Tensor, expected: Tensor) -> None:
    """Raises `CheckpointError` where logits differ by more than `TOLERANCE`."""
    gap = ((found - expected).abs().max() / expected.abs().max().clamp_min(1)).item()
    if not gap <= TOLERANCE:  # so written, NaN fails too
        raise CheckpointError(f"The ONNX graph answers otherwise than PyTorch: logits differ by {gap:.2g}.")


def load_calibration(model: ResNet) -> CalibrationRecord | None:
    """What the model's folder has for int8, where it is of these weights."""
    if model.calibration is None:
        return None
    calibration = CalibrationRecord.from_json(model.calibration)
    return calibration if calibration.weights == digest_weights(model) else None


def has_onnx() -> bool:
    return all(find_spec(name) for name in ("onnx", "onnxruntime"))


def _seconds(engine: Engine, batch: Tensor) -> float:
    times = []
    for _ in range(_RUNS):
        start = time.perf_counter()
        engine(batch)
        times.append(time.perf_counter() - start)
    return min(times)


def join_outputs(how: Callable[[list[np.ndarray]], np.ndarray], tensors: list[Tensor]) -> Tensor:
    """Tensors on the CPU, joined by NumPy.

    PyTorch would wake its threads for it, which then wait busily for more to do and take a core from ONNX Runtime's: a
    ResNet-18 on two cores lost a third of its speed, and more after a pause (docs/log.md).
    """
    return torch.from_numpy(how([tensor.numpy() for tensor in tensors]))


class BatchedEngine:
    """Runs one batch at a time, with all cores; those that threads bring meanwhile run together in the next."""

    def __init__(self, engine: Engine):
        self.engine = engine  # may be replaced at any time
        self._waiting: list[tuple[Tensor, Future[EngineOutput]]] = []
        self._arriving, self._running = threading.Lock(), threading.Lock()

    def __call__(self, batch: Tensor) -> EngineOutput:
        place: Future[EngineOutput] = Future()
        with self._arriving:
            self._waiting.append((batch, place))
        with self._running:
            if not place.done():  # else whoever ran before took this batch along
                self._run()
        return place.result()

    def _run(self) -> None:
        with self._arriving:
            together, self._waiting = self._waiting, []
        try:
            answer = self.engine(join_outputs(np.concatenate, [batch for batch, _ in together]))
        except BaseException as error:
            for _, place in together:
                place.set_exception(error)
            return
        sizes = [len(batch) for batch, _ in together]
        parts = zip(answer.logits.split(sizes), answer.maps.split(sizes), strict=True)
        for (_, place), (logits, maps) in zip(together, parts, strict=True):
            place.set_result(EngineOutput(logits, maps))

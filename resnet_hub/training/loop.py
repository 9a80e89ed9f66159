"""Training: one loop over one run folder, told as events.

Everything random is drawn from (seed, epoch, step), never from a stream: a run that was killed and resumed, or spread
over processes, repeats the unbroken one."""

import itertools
import json
import math
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_hub.atomic import write_atomic
from resnet_hub.checkpoints.folder import CONFIG_FILE
from resnet_hub.checkpoints.load import read_config
from resnet_hub.config import ResNetConfig
from resnet_hub.datasets.dataset import TEST, TRAIN, VALIDATION, ImageDataset, Splits
from resnet_hub.datasets.inspect import iterate_report
from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.report import DatasetReport
from resnet_hub.datasets.split import split_indices
from resnet_hub.errors import DataError, ResNetHubError, TrainingError, disk_is_full, memory_is_full
from resnet_hub.model import ResNet
from resnet_hub.training.config import Phase, ResolvedTrainConfig, TrainConfig
from resnet_hub.training.events import (
    Epoch,
    Event,
    Failed,
    Finished,
    Preparing,
    Progress,
    Sample,
    Saved,
    Started,
    Stopped,
    TimeUp,
)
from resnet_hub.training.finalize import describe_hardware, finalize_run, is_finished
from resnet_hub.training.linear_probe import FeatureCache, extract_features, fit_head, l2_penalty
from resnet_hub.training.run_dir import RunDir
from resnet_hub.training.transforms import mixup_or_cutmix, random_erasing, random_resized_crop, shift_and_flip

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image


_TICK = 0.5  # seconds between two `Progress` events
_CHUNK = 256  # pictures decoded or evaluated at a time
_SAMPLES = 6  # held-out pictures whose predictions are told while it trains
_POSITION = ("epoch", "step", "loss_sum", "best", "worse", "seconds")

T = TypeVar("T")


def train(
    config: TrainConfig,
    *,
    phase: Phase = "all",
    time_limit: float | None = None,
    max_download: int | None = None,
) -> Iterator[Event]:
    """Trains a model and yields what happens as events; resumes the run if its directory already holds one.

    The last event is `Finished`, `Stopped` (after a file `stop` appeared in the run directory) or `Failed`. Closing the
    generator saves the training state and stops.

    Args:
        config: The settings of the run.
        phase: Which part of the run to do. "all" trains and evaluates. "prepare" decodes the images and stores them in
            the run directory. "train" trains without the final evaluation, and ends with `Stopped`, whose `trained`
            says whether all epochs are done. "evaluate" evaluates the best model so far; if no epoch was evaluated yet,
            it trains one step first. A run done in phases ends with the same weights as an unbroken one.
        time_limit: Seconds of training in this call. In phase "all" the run then yields `TimeUp`, and evaluates the
            best model so far, as it does after a file `end` appeared in the run directory. It can be resumed.
        max_download: Largest size in bytes of a dataset on the Hub; None: the default of `load_dataset`.

    Raises:
        ResNetHubError: If the run cannot start: a wrong setting, an unreadable dataset or base.
    """
    if phase == "evaluate":
        time_limit = 0.0
    deadline = math.inf if time_limit is None else time.monotonic() + time_limit
    run = RunDir(config.run)
    if run.exists():
        config.check_same(run.config)
        known = run.config
        config = replace(known, run=config.run, data=config.data or known.data, base=config.base or known.base)
    resolved = config.resolved()
    try:
        run.stop.unlink(missing_ok=True)
        trainer = _Trainer(resolved, run, phase, deadline, max_download)
        ready = yield from trainer.set_up()
    except OSError as error:
        raise TrainingError(_reason(error, resolved)) from None
    if not ready:
        yield Stopped(0, 0)
        return
    try:
        yield from trainer.events()
    except ResNetHubError as error:
        yield Failed(str(error))
    except torch._dynamo.exc.BackendCompilerFailed as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        yield Failed(f"torch.compile does not work here ({reason}); start again without compile.")
    except (RuntimeError, MemoryError, OSError) as error:
        yield Failed(_reason(error, resolved))


def _reason(error: Exception, config: TrainConfig) -> str:
    if disk_is_full(error):
        return f"The disk of {config.run} is full; make room and resume, the last saved state is kept."
    if memory_is_full(error):
        return (
            f"A batch of {config.batch_size} does not fit into memory; start again with a larger accumulate, or with a "
            "smaller batch_size."
        )
    if isinstance(error, OSError):
        return f"The run {config.run} cannot be written: {error}."
    raise error


class _Trainer:
    """A run at work: pictures, model, average, optimiser, and how far it is."""

    def __init__(
        self,
        config: ResolvedTrainConfig,
        run: RunDir,
        phase: Phase = "all",
        deadline: float = math.inf,
        max_download: int | None = None,
    ):
        try:
            from accelerate import Accelerator
            from accelerate.state import AcceleratorState
        except ImportError:
            raise TrainingError("Training needs accelerate: pip install 'resnet_hub[train]'.") from None

        self.config, self.run, self.deadline = config, run, deadline
        self.phase, self.max_download = phase, max_download
        self.in_pieces = phase in ("prepare", "train")
        self.time_is_up = False  # for a run that is not in pieces: it ends here
        AcceleratorState._reset_state()  # it refuses the other precision of an earlier run in this process
        self.accelerator = Accelerator(mixed_precision=config.precision or ("bf16" if _has_bf16() else "no"))
        self.device, self.world = self.accelerator.device, self.accelerator.num_processes
        if config.precision == "fp16" and self.device.type == "cpu":
            raise TrainingError("fp16 needs a GPU; choose bf16 or no.")
        if config.base:
            _check_channels(config.base, read_config(self._start))

    def set_up(self) -> Generator[Preparing, None, bool]:
        """Reads the data and makes the network; False: asked to stop before that was done."""
        with self.accelerator.main_process_first():
            found = yield from self._split()
        if found is None:
            return False
        self.train_set, self.validation_set, self.measured_set, self.split = found
        self.config = config = replace(self.config, epochs=self.config.choose_epochs(len(self.train_set)))
        self.labels = self.train_set.labels
        torch.manual_seed(config.seed)  # here, as whoever watches may draw between two events
        model = self._initial_model().to(memory_format=torch.channels_last)
        self.model_config = model.config
        self.view = _View(config, self.model_config)
        self.batch = min(_need(config.batch_size), len(self.train_set)) // self.world * self.world
        if not self.batch:
            raise TrainingError(f"{len(self.train_set)} pictures cannot be shared by {self.world} processes.")
        self.steps = len(self.train_set) // self.batch  # what is left over of the shuffled pictures waits an epoch
        self.epochs = _need(config.epochs)

        self.model: nn.Module = model.to(self.device)
        self.average: torch.optim.swa_utils.AveragedModel | None = None
        self.epoch, self.step = 0, 0  # done: epochs, and steps of the one under way
        self.loss_sum = 0.0  # over those steps, on this process
        self.best: dict[str, Any] = {}  # epoch, accuracy and loss of the kept model
        self.worse = 0  # evaluations since then
        self.seconds = 0.0  # spent in all pieces of the run
        self.hardware = describe_hardware()
        self.saved_at = time.monotonic()
        return True

    @property
    def _start(self) -> "str | Path":
        """The base, or the run's own model once it has one: the base may have moved, or its Hub be out of reach."""
        known = self.run.state.is_file() and (self.run.model / CONFIG_FILE).is_file()
        return self.run.model if known else _need(self.config.base)

    def _split(self) -> Generator[Preparing, None, tuple[ImageDataset, ImageDataset, ImageDataset, str] | None]:
        """The pictures to learn from, to compare epochs on, and to measure the kept one on, as the run's folder has it.

        And what those that compare the epochs are called. None where it was asked to stop during the look at them.

        Raises `DataError` where the report of the data finds a reason not to start, or the data changed since.
        """
        splits = load_dataset(self.config.data, **self.config.data_names, max_bytes=self.max_download)
        if splits.commit:
            self.config = replace(self.config, data_revision=splits.commit)  # a resumed run reads the same
        # What a first start that failed has left may be of other settings.
        if not self.run.split.is_file() or (self.accelerator.is_main_process and not self.run.exists()):
            self.run.folder.mkdir(parents=True, exist_ok=True)  # first: a look at all pictures takes long
            looked = self._known_report(splits) or (yield from self._look(splits))
            if looked is None:
                return None
            self._write_split(splits, looked)
        content = json.loads(self.run.split.read_text(encoding="utf-8"))
        found = {name: len(images) for name, images in splits.items()}
        labels = list(splits[TRAIN].labels)
        if (content["pictures"], content["labels"]) != (found, labels):
            raise DataError(
                f"The data set {self.config.data} changed since the run began, from {content['pictures']} pictures "
                f"with the labels {content['labels'][:5]} to {found} with {labels[:5]}; start a new run."
            )
        measured = self.run.measured()
        return (
            splits[TRAIN].subset(content["train"]),
            splits[content["split"]].subset(content["held_out"]),
            splits[measured.split].subset(measured.places),
            content["called"],
        )

    def _look(self, splits: Splits) -> Generator[Preparing, None, DatasetReport | None]:
        """The report on all pictures; None where it was asked to stop."""
        told = time.monotonic()
        with closing(iterate_report(splits)) as steps:
            while not self._is_asked_to_stop:
                try:
                    done, total = next(steps)
                except StopIteration as end:
                    return cast(DatasetReport, end.value)
                if time.monotonic() - told > _TICK:
                    told = time.monotonic()
                    yield Preparing("report", done, total)
        return None

    def _write_split(self, splits: Splits, found: DatasetReport) -> None:
        """Writes which pictures the run learns from and which it is measured on.

        Where epochs are chosen among, a test split takes no part in it: it is for the kept one's figures alone.
        """
        found.check()
        bad = {(picture.split, picture.name) for picture in found.unreadable}

        def readable(split: str) -> np.ndarray:
            images = splits[split]
            return np.array([index for index in range(len(images)) if (split, images.name(index)) not in bad])

        train = readable(TRAIN)
        chooses = self.config.select != "last"
        held = next((name for name in (VALIDATION, TEST)[: 1 if chooses else 2] if name in splits), None)
        if held:
            held_out, called = readable(held), held
        else:
            images = splits[TRAIN].subset(train)
            groups = found.group_duplicates(images)
            kept, places = split_indices(images.targets, self.config.validation, self.config.seed, groups)
            train, held_out, called = train[kept], train[places], f"{self.config.validation:.0%} held out"
        if not len(held_out):
            raise DataError(f"The data set {self.config.data} has too few pictures to hold some out; add more.")
        content = {
            "pictures": {name: len(images) for name, images in splits.items()},
            "labels": list(splits[TRAIN].labels),
            "called": called,
            "split": held or TRAIN,
            "train": train.tolist(),
            "held_out": held_out.tolist(),
            "test": (readable(TEST).tolist() if TEST in splits and held != TEST else []) or None,
        }
        write_atomic(self.run.report, found.to_json())
        write_atomic(self.run.split, json.dumps(content))

    def _known_report(self, splits: Splits) -> DatasetReport | None:
        """The report that whoever made the run's folder has put there, where it is of these pictures."""
        try:
            found = DatasetReport.from_json(self.run.report.read_text(encoding="utf-8"))
        except (FileNotFoundError, DataError):
            return None
        counts = {name: sum(row.images for row in found.classes if row.split == name) for name in splits}
        for picture in found.unreadable:
            counts[picture.split] = counts.get(picture.split, 0) + 1
        same = counts == {name: len(images) for name, images in splits.items()}
        return found if same and found.labels == tuple(splits[TRAIN].labels) else None

    def _initial_model(self) -> ResNet:
        changes = _asked(self.config)
        if not self.config.base:
            names = dict(enumerate(self.labels))
            return ResNet(ResNetConfig.from_name(self.config.architecture, id2label=names, **changes))
        model = ResNet.from_pretrained(self._start)
        model.card = None  # of the base: nothing on it is true of what comes of it
        # a base that knows these very labels goes on with its own head
        self.keeps_head = self.config.recipe != "head" and model.config.id2label == dict(enumerate(self.labels))
        if not self.keeps_head:
            model.reset_head(list(self.labels))
        model.config = replace(model.config, **changes)
        return model

    # -- the course of a run -------------------------------------------------------------------------------------------

    def events(self) -> Iterator[Event]:
        config, run = self.config, self.run
        if self.accelerator.is_main_process and (
            not run.exists() or run.config.resolved() != config
        ):  # data or base have moved
            run.create(config)
        resumed = run.state.is_file()
        if resumed:
            self._read_state()
        yield Started(
            str(run.folder),
            list(self.labels),
            len(self.train_set),
            len(self.validation_set),
            self.split,
            self.model_config.num_parameters,
            self.epoch,
            self.epochs,
            str(self.device),
        )
        if self.phase == "evaluate" and self.best and not self._is_trained:
            self.time_is_up = True
            yield TimeUp(self.epoch, self.step)
        if not (resumed and self._is_trained):
            start = time.monotonic()
            for event in self._decode():
                yield event
                if self._is_asked_to_stop:
                    break
            if self.phase == "prepare" or self._is_asked_to_stop:
                yield Stopped(self.epoch, self.step)
                return
            if config.base and not resumed and not self.keeps_head and not (yield from self._fit_head()):
                yield Stopped(0, 0)
                return
            self.seconds += time.monotonic() - start
            self._prepare(resumed)
            yield from self._fit(fitted=bool(config.base and not resumed))
            if not self._is_trained:
                return
        if self.in_pieces:
            yield Stopped(self.epoch, self.step, trained=True)
            return
        if self.accelerator.is_main_process:
            if not is_finished(run):
                finalize_run(run, self.train_set, self.measured_set, hardware=self.hardware)
            run.pictures.unlink(missing_ok=True)
            run.end.unlink(missing_ok=True)
        kept = self.best
        yield Finished(str(run.model), kept["epoch"], kept["accuracy"], kept["loss"], round(self.seconds, 1))

    def _fit(self, *, fitted: bool) -> Iterator[Event]:
        """Trains until all epochs are done or `Stopped` is told; `fitted`: the head was fitted just now."""
        if self.accelerator.is_main_process:
            self.run.evaluation.unlink(missing_ok=True)  # of a run that had ended early, which goes on
        try:
            if fitted:
                yield self._end_epoch()
                self._save_state()
                self.run.features.unlink(missing_ok=True)
            while not self._is_trained:
                for event in self._train_epoch():
                    yield event
                    if isinstance(event, Stopped):
                        return
                if self.step < self.steps:  # the time is up; the state on disk goes on from here
                    break
                yield self._end_epoch()
                self._save_state()
                yield Saved(self.epoch, self.step)
            if not self.best:  # out of time before an evaluation
                yield self._end_epoch()
        except GeneratorExit:
            self._save_state()
            raise

    def _decode(self) -> Iterator[Preparing]:
        """Both splits as uint8 (N, H, W, C) in memory; training pictures with the margin that evaluation cuts off."""
        from safetensors.torch import load_file, save

        if self.run.pictures.is_file():
            kept = load_file(self.run.pictures)
            self.pictures, self.validation_pictures = kept["training"], kept["validation"]
        else:
            yield from self._decode_anew()
            if self.in_pieces and self.accelerator.is_main_process:
                content = {"training": self.pictures, "validation": self.validation_pictures}
                write_atomic(self.run.pictures, save(content))
        self.targets = torch.from_numpy(self.train_set.targets)
        self.validation_targets = torch.from_numpy(self.validation_set.targets)
        counts = torch.bincount(self.targets, minlength=len(self.labels)).clamp_min(1)
        self.class_weights = len(self.targets) / (len(self.labels) * counts)

    def _decode_anew(self) -> Iterator[Preparing]:
        from resnet_hub.images.transforms import resize_and_crop

        total, done, parts = len(self.train_set) + len(self.validation_set), 0, []
        for images, config in ((self.train_set, self.view.canvas), (self.validation_set, self.model_config)):
            shape = (len(images), config.image_size, config.image_size, 3)
            try:
                decoded = torch.empty(shape, dtype=torch.uint8)
            except (RuntimeError, MemoryError):
                size = f"{shape[1]} x {shape[1]} pixels take {math.prod(shape) / 1e9:.1f} GB"
                raise TrainingError(
                    f"{len(images):,} pictures of {size}, more than there is; choose a smaller image_size, or fewer."
                ) from None
            for start in range(0, len(images), _CHUNK):
                yield Preparing("pictures", done, total)
                part = images.subset(range(start, min(start + _CHUNK, len(images))))
                decoded[start : start + len(part)] = torch.from_numpy(part.decode(partial(resize_and_crop, config)))
                done += len(part)
            parts.append(decoded)
        self.pictures, self.validation_pictures = parts

    def _fit_head(self) -> Generator[Preparing, None, bool]:
        """Fits the head to the base's features of every training picture, as it is and mirrored; False: out of time."""
        model = self._plain.eval()
        pictures = self.view.middle(self.pictures)
        cache = FeatureCache()
        path = cache.path(model, pictures)
        inputs = cache.read(path)
        if inputs is None:
            inputs = yield from self._features(model, pictures)
            if len(inputs) < 2 * len(pictures):
                return False
            cache.write(path, inputs)
        balanced = self.config.balance != "none"
        weights = self.class_weights if balanced else torch.ones(len(self.labels))
        l2 = l2_penalty(inputs.shape[1], len(pictures))  # a mirrored copy tells nothing new
        head = fit_head(inputs, self.targets.repeat(2), len(self.labels), weights=weights, l2=l2)
        model.fc.load_state_dict(head.state_dict())
        return True

    def _features(self, model: ResNet, pictures: Tensor) -> Generator[Preparing, None, Tensor]:
        """Features (2N, C), or the first of them where the time is over; the next piece of the run goes on there."""
        from safetensors.torch import load_file, save

        parts = [load_file(self.run.features)["features"]] if self.run.features.is_file() else []
        done, total = sum(map(len, parts)), 2 * len(pictures)
        rest = (pictures[done:], pictures[max(0, done - len(pictures)) :].flip(2))
        try:
            for part in itertools.chain(
                *(extract_features(model, view, self.view.mean, self.view.std) for view in rest if len(view))
            ):
                parts.append(part)
                done += len(part)
                yield Preparing("features", done, total)
                if (self.in_pieces and time.monotonic() > self.deadline) or self._is_asked_to_stop:
                    break
        finally:
            if 0 < done < total and self.accelerator.is_main_process:
                write_atomic(self.run.features, save({"features": torch.cat(parts)}))
        return torch.cat(parts)

    def _prepare(self, resumed: bool) -> None:
        """Average, optimiser and distribution, and the saved state into them."""
        config, model = self.config, self._plain
        rate = config.body_rate if config.base else 1.0
        head = list(model.fc.parameters())
        for part in self._frozen_parts:
            part.requires_grad_(False)
        body = [parameter for name, parameter in model.named_parameters() if not name.startswith("fc.")]
        groups = [{"params": body, "factor": rate}, {"params": head, "factor": 1.0}]
        decay = _need(config.weight_decay)
        optimizer: torch.optim.Optimizer
        if config.optimizer == "adamw":
            betas = (config.momentum, 0.999)
            optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, weight_decay=decay, fused=True)
        else:
            momentum, nesterov = config.momentum, _need(config.nesterov)
            optimizer = torch.optim.SGD(groups, 0.0, momentum, weight_decay=decay, nesterov=nesterov)
        if _need(config.ema):
            self.average = _average(model, _need(config.ema))
        if self.world > 1 and self.device.type == "cuda" and not config.frozen_norm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        # Only steps run in half precision, by `autocast`; the model itself, which is evaluated, is as it was.
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.forward = torch.compile(self.model, dynamic=False) if config.compile else self.model
        if resumed:
            self._restore()

    def _train_epoch(self) -> Iterator[Event]:
        order = self._order()
        self.model.train()
        for part in self._frozen_parts:
            part.eval()
        if self.config.frozen_norm:
            for module in self.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        last, counted = time.monotonic(), 0
        while self.step < self.steps:
            places = order[self.step * self.batch : (self.step + 1) * self.batch]
            rate = self._rate((self.epoch * self.steps + self.step) / (self.epochs * self.steps))
            self.loss_sum += self._train_step(places, rate)
            self.step, counted = self.step + 1, counted + self.batch
            if self.run.stop.exists() or self.run.end.exists() or time.monotonic() > self.deadline:
                self.accelerator.set_trigger()
            agreed = self.world == 1 or (self.epoch * self.steps + self.step) % 10 == 0  # processes ask each other
            stopping = agreed and self.accelerator.check_trigger()
            now = time.monotonic()
            if now - last < _TICK and self.step < self.steps and not stopping:
                continue
            speed, self.seconds = counted / (now - last), self.seconds + now - last
            last, counted, loss = now, 0, self.loss_sum / self.step
            self._check_loss(loss, self.epoch + 1)
            left = ((self.epochs - self.epoch) * self.steps - self.step) * self.batch / speed
            yield Progress(self.epoch + 1, self.step, self.steps, loss, rate, speed, left)
            if stopping or now - self.saved_at > self.config.checkpoint_seconds:
                self._save_state()
                yield Saved(self.epoch, self.step)
            if stopping:
                asked = self._mean_over_processes(float(self.run.stop.exists())) > 0  # so that all say the same
                self.time_is_up = not (asked or self.in_pieces)
                yield TimeUp(self.epoch, self.step) if self.time_is_up else Stopped(self.epoch, self.step)
                return

    def _order(self) -> Tensor:
        """The places of the training pictures, in the order of this epoch."""
        random = self._random(self.epoch)
        if self.config.balance == "sampling":
            chances = self.class_weights[self.targets].double()
            return torch.multinomial(chances, len(self.targets), replacement=True, generator=random)
        return torch.randperm(len(self.targets), generator=random)

    def _train_step(self, places: Tensor, rate: float) -> float:
        pictures, targets = self.pictures[places], F.one_hot(self.targets[places], len(self.labels)).float()
        pictures, targets = pictures.to(self.device), targets.to(self.device)  # as bytes; what follows is for its cores
        random = self._random(self.epoch, self.step)
        images, targets = self.view.draw(pictures, targets, random, self._size(self.epoch))
        share = slice(self.accelerator.process_index, None, self.world)
        images, targets = images[share], targets[share]
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        weight = self.class_weights.to(self.device) if self.config.balance == "loss" else None
        parts = list(zip(images.chunk(self.config.accumulate), targets.chunk(self.config.accumulate), strict=True))
        total = 0.0
        for number, (part, wanted) in enumerate(parts, 1):
            # Processes share their gradients once a step, with the last part.
            with self.accelerator.no_sync(self.model) if number < len(parts) else nullcontext():
                with self.accelerator.autocast():
                    logits = self.forward(part)
                loss = F.cross_entropy(logits.float(), wanted, weight, label_smoothing=self.config.label_smoothing)
                loss = loss * (len(part) / len(images))
                self.accelerator.backward(loss)
            total += float(loss.detach())
        if self.config.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self._plain)
        return total

    def _size(self, epoch: int) -> int:
        """Pixels of a side in an epoch: sizes 16 apart share the epochs, the last of them is the network's own.

        Small pictures teach the early epochs as much in a fraction of the time (progressive resizing, as in
        https://www.fast.ai/posts/2018-08-10-fastai-diu-imagenet.html).
        """
        last = self.model_config.image_size
        sizes = [*range(min(self.config.first_size or last, last), last, 16), last]
        return sizes[len(sizes) * epoch // self.epochs]

    def _end_epoch(self) -> Epoch:
        """Evaluates, keeps the model if it is better, and writes the history."""
        start, first = time.monotonic(), not self.step  # first: the fitted head, before any step
        partial = self.step < self.steps  # so is what the time did not suffice for
        if not partial:
            self.epoch += 1
        train_loss = None if first else self._mean_over_processes(self.loss_sum / self.step)
        loss, accuracy, better = None, None, False
        if partial or self.epoch >= self.epochs or self.epoch % self.config.evaluate_every == 0:
            loss, accuracy = self._evaluate()
            self._check_loss(loss, self.epoch)  # the epoch's last step may have spoilt what the steps before had
            better = self._is_better(loss, accuracy)
            self.worse = 0 if better else self.worse + 1
        if better:
            self.best = {"epoch": self.epoch, "accuracy": accuracy, "loss": loss}
            if self.accelerator.is_main_process:
                self._kept.save_pretrained(self.run.model)
        self.seconds += time.monotonic() - start
        rate = self._rate(self.epoch / max(1, self.epochs))
        event = Epoch(self.epoch, train_loss, loss, accuracy, better, rate, round(self.seconds, 1))
        if self.accelerator.is_main_process:
            self.run.append(event)
            if accuracy is not None:
                self._write_samples()
        if not partial:
            self.step, self.loss_sum = 0, 0.0
        return event

    def _check_loss(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss became {loss} in epoch {epoch}; the state before is kept. Start again with a learning_rate "
                f"below {self.config.learning_rate:g}."
            )

    def _is_better(self, loss: float, accuracy: float) -> bool:
        if not self.best or self.config.select == "last":
            return True
        return loss < self.best["loss"] if self.config.select == "loss" else accuracy > self.best["accuracy"]

    @property
    def _is_asked_to_stop(self) -> bool:
        """Before the first step; several processes, which need not see the file at one moment, stop only after it."""
        return self.world == 1 and self.run.stop.exists()

    @property
    def _is_trained(self) -> bool:
        out_of_patience = self.config.patience is not None and self.worse >= self.config.patience
        return self.epoch >= self.epochs or out_of_patience or self.time_is_up

    def _evaluate(self) -> tuple[float, float]:
        """Mean cross-entropy and accuracy of the kept weights on the validation pictures, in float32."""
        model, loss, right = self._kept.eval(), 0.0, 0
        with torch.inference_mode():
            for places in torch.arange(len(self.validation_targets)).split(_CHUNK):
                targets = self.validation_targets[places].to(self.device)
                logits = model(self.view.normalised(self.validation_pictures[places].to(self.device))).float()
                loss += float(F.cross_entropy(logits, targets, reduction="sum"))
                right += int((logits.argmax(1) == targets).sum())
        return loss / len(self.validation_targets), right / len(self.validation_targets)

    def _write_samples(self) -> None:
        """What the weights just evaluated make of a few held-out pictures, always the same ones."""
        count = len(self.validation_targets)
        places = torch.linspace(0, count - 1, min(_SAMPLES, count)).round().long()
        with torch.inference_mode():
            images = self.view.normalised(self.validation_pictures[places].to(self.device))
            best = self._kept.eval()(images).float().softmax(1).max(1)
        targets, labels = self.validation_targets[places].tolist(), self.labels
        rows = zip(places.tolist(), targets, best.indices.tolist(), best.values.tolist(), strict=True)
        samples = [Sample(place, labels[true], labels[found], score) for place, true, found, score in rows]
        write_atomic(self.run.samples, json.dumps([sample._asdict() for sample in samples]))

    def _mean_over_processes(self, value: float) -> float:
        return float(self.accelerator.reduce(torch.tensor(value, device=self.device), "mean"))

    @property
    def _plain(self) -> ResNet:
        return self.accelerator.unwrap_model(self.model)

    @property
    def _frozen_parts(self) -> list[nn.Module]:
        """Stem and first stages that stay as they are."""
        model, last = self._plain, len(self.model_config.depths) - 1
        if not (frozen := min(_need(self.config.frozen_stages), last)):
            return []
        return [model.conv1, model.bn1, *(model.layer1, model.layer2, model.layer3)[:frozen]]

    @property
    def _kept(self) -> ResNet:
        """The weights that are evaluated and shared."""
        return cast(ResNet, self.average.module) if self.average else self._plain

    def _rate(self, progress: float) -> float:
        """The learning rate at a share of the run."""
        highest, warmup = _need(self.config.learning_rate), _need(self.config.warmup)
        if progress < warmup:
            return highest * progress / warmup
        if self.config.schedule == "steps":
            return highest * 0.1 ** ((progress >= 0.5) + (progress >= 0.75))
        if self.config.schedule == "constant":
            return highest
        return highest * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))

    def _random(self, *place: int) -> torch.Generator:
        words = np.random.SeedSequence([self.config.seed, *place]).generate_state(2)
        return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))

    # -- the state on disk ---------------------------------------------------------------------------------------------

    def _save_state(self) -> None:
        from safetensors.torch import save

        self.saved_at = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        tensors = {f"model.{key}": value for key, value in self._plain.state_dict().items()}
        if self.average:
            tensors |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items() if value is not None}
        self.hardware = describe_hardware()
        position = {key: getattr(self, key) for key in _POSITION} | {"hardware": self.hardware}
        if self.accelerator.scaler is not None:
            position["scaler"] = self.accelerator.scaler.state_dict()
        tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        write_atomic(self.run.state, save(tensors, metadata={"position": json.dumps(position)}))

    def _read_state(self) -> None:
        """Takes up where the saved state stands; `_restore` the rest of it."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.run.state, "pt") as file:
                self.position = json.loads(file.metadata()["position"])
            for key in _POSITION:
                setattr(self, key, self.position[key])
            self.hardware = self.position.get("hardware", self.hardware)
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise TrainingError(f"The state {self.run.state} cannot be read: {error}; start a new run.") from None

    def _restore(self) -> None:
        from safetensors.torch import load_file

        tensors = load_file(self.run.state)

        def part(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self._plain.load_state_dict(part("model."))
        if self.average:
            self.average.load_state_dict(part("average."))
        state: defaultdict[int, dict[str, Tensor]] = defaultdict(dict)
        before = {f"{index}.momentum_buffer": value for index, value in part("momentum.").items()}  # of older runs
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for name, value in (part("optimizer.") or before).items():
            index, _, key = name.partition(".")
            # In memory as its weight is: a fused kernel goes through both side by side.
            state[int(index)][key] = torch.empty_like(weights[int(index)]).copy_(value) if value.ndim else value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": dict(state), "param_groups": groups})
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.position["scaler"])


class _View:
    """How a network's training pictures are decoded, changed and normalised."""

    def __init__(self, config: TrainConfig, model_config: ResNetConfig):
        self.config, self.size = config, model_config.image_size
        self.canvas = replace(model_config, image_size=model_config.resize_size, crop_pct=1.0)  # as they are decoded
        self.mean, self.std = torch.tensor(model_config.mean), torch.tensor(model_config.std)
        self.augmentation = config.augmentation or ("shift" if self.size <= 64 else "crop")

    def draw(self, pictures: Tensor, targets: Tensor, random: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
        """Normalised pictures (N, C, size, size) and targets (N, classes) for uint8 pictures (N, H, W, C)."""
        config = self.config
        if self.augmentation == "shift":
            pictures = shift_and_flip(pictures, random, size=self.size, margin=self.size // 8)
        elif self.augmentation == "none":
            pictures = self.middle(pictures)
        images = self.normalised(pictures)
        if self.augmentation == "crop":
            images = random_resized_crop(images, random, size=size)
        elif size < self.size:
            images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        if config.erasing:
            images = random_erasing(images, random, probability=config.erasing)
        return mixup_or_cutmix(images, targets, random, mixup=config.mixup, cutmix=config.cutmix)

    def middle(self, pictures: Tensor) -> Tensor:
        """The part (N, size, size, C) of decoded pictures (N, H, W, C) that evaluation sees."""
        margin = (pictures.shape[1] - self.size) // 2
        return pictures[:, margin : margin + self.size, margin : margin + self.size]

    def normalised(self, pictures: Tensor) -> Tensor:
        """uint8 (N, H, W, C) to floats (N, C, H, W), channels last in memory."""
        mean, std = self.mean.to(pictures.device), self.std.to(pictures.device)
        return ((pictures.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def preview_augmentation(
    config: TrainConfig, images: ImageDataset, *, token: str | bool | None = None
) -> "list[Image.Image]":
    """Pictures as the training of `config` would see them, in a random draw; raises `ImageError` for a bad one."""
    from PIL import Image

    from resnet_hub.images.transforms import resize_and_crop

    config = config.resolved()
    base = read_config(config.base, token=token) if config.base else ResNetConfig.from_name(config.architecture)
    _check_channels(config.base, base)
    view = _View(config, replace(base, **_asked(config)))
    pictures = torch.from_numpy(images.decode(partial(resize_and_crop, view.canvas)))
    targets = F.one_hot(torch.from_numpy(images.targets), len(images.labels)).float()
    random = torch.Generator().manual_seed(config.seed)
    drawn, _ = view.draw(pictures, targets, random, view.size)
    pixels = (drawn.permute(0, 2, 3, 1) * view.std + view.mean).mul(255).round().clamp(0, 255).byte()
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def _check_channels(base: str | None, config: ResNetConfig) -> None:
    if config.in_channels != 3:
        raise TrainingError(f"The base {base} takes {config.in_channels} channels, pictures have 3; choose another.")


def _asked(config: TrainConfig) -> dict[str, Any]:
    """What a run changes in the preprocessing of its network."""
    asked = {"image_size": config.image_size, "crop_pct": config.crop_pct}
    return {key: value for key, value in asked.items() if value is not None}


def _average(model: nn.Module, decay: float) -> torch.optim.swa_utils.AveragedModel:
    """An exponential average of the weights that forgets faster at first: a short run must not keep its start."""

    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + int(count)) / (10 + int(count)))
        if average[0].is_floating_point():
            torch._foreach_lerp_(list(average), list(current), weight)
        else:  # BatchNorm's counters
            torch._foreach_copy_(list(average), list(current))

    return torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def _has_bf16() -> bool:
    """Whether bfloat16 is faster than float32 here: GPUs and CPUs that multiply it in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()


def _need(value: T | None) -> T:
    """A field that `resolved` has filled."""
    assert value is not None
    return value

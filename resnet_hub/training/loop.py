"""The training loop: trains the run of one directory and yields events."""

import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_hub.atomic import write_atomic
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import ResNetHubError, TrainingError, disk_is_full, memory_is_full
from resnet_hub.training import events
from resnet_hub.training.config import Phase, ResolvedTrainConfig, TrainConfig
from resnet_hub.training.events import (
    Epoch,
    Event,
    Failed,
    Finished,
    Preparing,
    Progress,
    Saved,
    Started,
    Stopped,
    TimeUp,
)
from resnet_hub.training.finalize import describe_hardware, finalize_run, is_finalized
from resnet_hub.training.image_store import ImageStore, decode_images
from resnet_hub.training.initial_model import create_model, read_model_config
from resnet_hub.training.linear_probe import fit_linear_probe
from resnet_hub.training.optimizer import (
    average_weights,
    create_optimizer,
    frozen_modules,
    set_learning_rate,
    set_train_mode,
)
from resnet_hub.training.run_dir import RunDir
from resnet_hub.training.sampling import compute_class_weights, create_generator, shuffle_indices
from resnet_hub.training.schedule import image_size, learning_rate
from resnet_hub.training.split import RunImages, create_split, select_images
from resnet_hub.training.state import Best, Position, TrainingState, read_position
from resnet_hub.training.transforms import BatchTransform
from resnet_hub.training.validation import predict_samples, validate

_AGREE_STEPS = 10  # between two exchanges among several processes on whether to stop


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
        recorded = run.config
        data, base = config.data or recorded.data, config.base or recorded.base
        config = replace(recorded, run=config.run, data=data, base=base)
    resolved = config.resolved()
    try:
        run.stop.unlink(missing_ok=True)
        trainer = Trainer(resolved, run, phase, deadline, max_download)
        is_ready = yield from trainer.set_up()
    except OSError as error:
        raise TrainingError(error_reason(error, resolved)) from None
    if not is_ready:
        yield Stopped(0, 0)
        return
    try:
        yield from trainer.run_phase()
    except ResNetHubError as error:
        yield Failed(str(error))
    except torch._dynamo.exc.BackendCompilerFailed as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        yield Failed(f"torch.compile does not work here ({reason}); start again without compile.")
    except (RuntimeError, MemoryError, OSError) as error:
        yield Failed(error_reason(error, resolved))


def error_reason(error: Exception, config: TrainConfig) -> str:
    """Returns what the user can do about an error of the system; raises any other error again."""
    if disk_is_full(error):
        return f"The disk of {config.run} is full; free some space and resume, the last training state is kept."
    if memory_is_full(error):
        return (
            f"A batch of {config.batch_size} does not fit into memory; start again with a larger accumulate, or with a "
            "smaller batch_size."
        )
    if isinstance(error, OSError):
        return f"Cannot write the run {config.run}: {error}."
    raise error


class Trainer:
    """Trains one run in this process. `set_up` reads the data and creates the model, `run_phase` does the work."""

    def __init__(
        self,
        config: ResolvedTrainConfig,
        run: RunDir,
        phase: Phase = "all",
        deadline: float = math.inf,
        max_download: int | None = None,
    ):
        self.config, self.run, self.phase, self.deadline = config, run, phase, deadline
        self.max_download = max_download
        self.accelerator = _create_accelerator(config)
        self.device, self.num_processes = self.accelerator.device, self.accelerator.num_processes
        self.is_main: bool = self.accelerator.is_main_process
        self.is_in_phases = phase in ("prepare", "train")
        self.time_is_up = False
        self.position = Position()
        if config.base:
            read_model_config(config, run)  # fails before the dataset is read

    def set_up(self) -> Generator[Preparing, None, bool]:
        """Reads the dataset and creates the model; returns False if it was asked to stop before."""
        with self.accelerator.main_process_first():
            images = yield from self._select_images()
        if images is None:
            return False
        self.images, self.labels = images, images.train.labels
        self.targets = torch.from_numpy(images.train.targets)
        self.validation_targets = torch.from_numpy(images.validation.targets)
        self.class_weights = compute_class_weights(self.targets, len(self.labels))

        self.epochs = self.config.choose_epochs(len(self.targets))
        self.config = config = replace(self.config, epochs=self.epochs)
        self.batch_size = min(config.batch_size, len(self.targets)) // self.num_processes * self.num_processes
        if not self.batch_size:
            raise TrainingError(f"{len(self.targets)} images cannot be shared by {self.num_processes} processes.")
        self.steps = len(self.targets) // self.batch_size  # the remaining images of a shuffled epoch are not used

        torch.manual_seed(config.seed)  # here, since the caller may draw random numbers between two events
        model, self.keeps_head = create_model(config, self.run, self.labels)
        self.model = model.to(memory_format=torch.channels_last).to(self.device)
        self.model_config = model.config
        self.transform = BatchTransform(config, self.model_config)
        self.position.hardware = describe_hardware()
        self.saved_at = time.monotonic()
        return True

    def _select_images(self) -> Generator[Preparing, None, RunImages | None]:
        splits = load_dataset(self.config.data, **self.config.data_names, max_bytes=self.max_download)
        if splits.commit:
            self.config = replace(self.config, data_revision=splits.commit)  # a resumed run reads the same
        # A first start that failed may have left the split of other settings.
        is_new = self.is_main and not self.run.exists()
        if (is_new or not self.run.split.is_file()) and not (
            yield from create_split(splits, self.config, self.run, self.is_asked_to_stop)
        ):
            return None
        return select_images(splits, self.config, self.run)

    def run_phase(self) -> Iterator[Event]:
        """Does what is left of the phase; the last event is `Finished` or `Stopped`."""
        run, position = self.run, self.position
        if self.is_main and (not run.exists() or vars(run.config) != vars(self.config)):  # data or base have moved
            run.create(self.config)
        is_resumed = run.state.is_file()
        if is_resumed:
            self.position = position = read_position(run.state)
            position.hardware = position.hardware or describe_hardware()  # older states have none
        yield Started(
            str(run.folder),
            list(self.labels),
            len(self.targets),
            len(self.validation_targets),
            self.images.validation_name,
            self.model_config.num_parameters,
            position.epoch,
            self.epochs,
            str(self.device),
        )
        if self.phase == "evaluate" and position.best and not self.is_trained:
            self.time_is_up = True
            yield TimeUp(position.epoch, position.step)
        if not (is_resumed and self.is_trained) and not (yield from self._train(is_resumed)):
            return
        if self.is_in_phases:
            yield Stopped(position.epoch, position.step, trained=True)
            return
        if self.is_main:
            if not is_finalized(run):
                finalize_run(run, self.images.train, self.images.evaluation, hardware=position.hardware)
            run.images.unlink(missing_ok=True)
            run.end.unlink(missing_ok=True)
        best = position.best
        assert best is not None  # of a trained run
        yield Finished(str(run.model), best.epoch, best.accuracy, best.loss, round(position.seconds, 1))

    def _train(self, is_resumed: bool) -> Generator[Event, None, bool]:
        """Decodes the images, fits the head of a base, and trains; returns whether the run is trained now."""
        start, position = time.monotonic(), self.position
        is_first_start_from_base = bool(self.config.base) and not is_resumed
        store = yield from self._load_images()
        if store is None or self.phase == "prepare" or self.is_asked_to_stop():
            yield Stopped(position.epoch, position.step)
            return False
        self.store = store
        if is_first_start_from_base and not self.keeps_head and not (yield from self._fit_head()):
            yield Stopped(0, 0)
            return False
        position.seconds += time.monotonic() - start
        self._create_state(is_resumed)
        if self.is_main:
            self.run.evaluation.unlink(missing_ok=True)  # of a run that had ended early and is resumed
        try:
            yield from self._train_epochs(evaluates_first=is_first_start_from_base)
        except GeneratorExit:
            self._save_state()
            raise
        return self.is_trained

    def _load_images(self) -> Generator[Preparing, None, ImageStore | None]:
        if self.run.images.is_file():
            return ImageStore.load(self.run.images)
        store = yield from decode_images(
            self.images.train,
            self.images.validation,
            self.transform.decode_config,
            self.model_config,
            self.is_asked_to_stop,
        )
        if store and self.is_in_phases and self.is_main:
            store.save(self.run.images)
        return store

    def _fit_head(self) -> Generator[Preparing, None, bool]:
        def should_stop() -> bool:
            return (self.is_in_phases and time.monotonic() > self.deadline) or self.is_asked_to_stop()

        return fit_linear_probe(
            self.model.eval(),
            self.transform.center_crop(self.store.read_train(slice(None))),
            self.targets,
            self.class_weights if self.config.balance != "none" else torch.ones(len(self.labels)),
            self.transform,
            self.run.features if self.is_main else None,
            should_stop,
        )

    def _create_state(self, is_resumed: bool) -> None:
        config, model = self.config, self.model
        for module in frozen_modules(model, config.frozen_stages):
            module.requires_grad_(False)
        optimizer = create_optimizer(model, config)
        average = average_weights(model, config.ema) if config.ema else None
        prepared: nn.Module = model
        if self.num_processes > 1 and self.device.type == "cuda" and not config.frozen_norm:
            prepared = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.prepared, optimizer = self.accelerator.prepare(prepared, optimizer)
        # Only the steps run in half precision, by `autocast`; the model, which is evaluated, stays in float32.
        plain = self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False)
        self.frozen = frozen_modules(plain, config.frozen_stages)
        self.forward: Callable[[Tensor], Tensor] = (
            torch.compile(self.prepared, dynamic=False) if config.compile else self.prepared
        )
        self.state = TrainingState(plain, average, optimizer, self.accelerator.scaler, self.position)
        if is_resumed:
            self.state.load(self.run.state)

    # -- epochs and steps ----------------------------------------------------------------------------------------------

    def _train_epochs(self, *, evaluates_first: bool) -> Iterator[Event]:
        position = self.position
        if evaluates_first:  # the base with its fitted head
            yield self._end_epoch()
            self._save_state()
            self.run.features.unlink(missing_ok=True)
        while not self.is_trained:
            for event in self._train_epoch():
                yield event
                if isinstance(event, Stopped):
                    return
            if position.step < self.steps:  # out of time; the saved state resumes here
                break
            yield self._end_epoch()
            self._save_state()
            yield Saved(position.epoch, position.step)
        if not position.best:  # out of time before the first evaluation
            yield self._end_epoch()

    def _train_epoch(self) -> Iterator[Event]:
        config, position = self.config, self.position
        generator = create_generator(config.seed, position.epoch)
        order = shuffle_indices(self.targets, self.class_weights, config.balance, generator)
        set_train_mode(self.prepared, self.frozen, frozen_norm=config.frozen_norm)
        reported_at, images_since = time.monotonic(), 0
        while position.step < self.steps:
            indices = order[position.step * self.batch_size : (position.step + 1) * self.batch_size]
            rate = learning_rate(config, (position.epoch * self.steps + position.step) / (self.epochs * self.steps))
            position.loss_sum += self._train_step(indices, rate)
            position.step += 1
            images_since += self.batch_size
            is_stopping = self._should_stop_after_step()
            now = time.monotonic()
            if now - reported_at < events.PROGRESS_SECONDS and position.step < self.steps and not is_stopping:
                continue
            speed = images_since / (now - reported_at)
            position.seconds += now - reported_at
            reported_at, images_since, loss = now, 0, position.loss_sum / position.step
            self._check_loss(loss, position.epoch + 1)
            steps_left = (self.epochs - position.epoch) * self.steps - position.step
            seconds_left = steps_left * self.batch_size / speed
            yield Progress(position.epoch + 1, position.step, self.steps, loss, rate, speed, seconds_left)
            if is_stopping or now - self.saved_at > config.checkpoint_seconds:
                self._save_state()
                yield Saved(position.epoch, position.step)
            if is_stopping:
                was_asked = self._mean_over_processes(float(self.run.stop.exists())) > 0  # all processes decide alike
                self.time_is_up = not (was_asked or self.is_in_phases)
                yield (TimeUp if self.time_is_up else Stopped)(position.epoch, position.step)
                return

    def _should_stop_after_step(self) -> bool:
        if self.run.stop.exists() or self.run.end.exists() or time.monotonic() > self.deadline:
            self.accelerator.set_trigger()
        step = self.position.epoch * self.steps + self.position.step
        return (self.num_processes == 1 or step % _AGREE_STEPS == 0) and bool(self.accelerator.check_trigger())

    def _train_step(self, indices: Tensor, rate: float) -> float:
        """Trains on one batch and returns its loss."""
        config, position = self.config, self.position
        # The batch moves to the device as bytes; all processes transform the same batch and take their share of it.
        images = self.store.read_train(indices).to(self.device)
        targets = F.one_hot(self.targets[indices], len(self.labels)).float().to(self.device)
        generator = create_generator(config.seed, position.epoch, position.step)
        size = image_size(config.first_size, self.model_config.image_size, position.epoch, self.epochs)
        images, targets = self.transform(images, targets, generator, size)
        share = slice(self.accelerator.process_index, None, self.num_processes)
        images, targets = images[share], targets[share]
        set_learning_rate(self.state.optimizer, rate)
        class_weights = self.class_weights.to(self.device) if config.balance == "loss" else None
        parts = list(zip(images.chunk(config.accumulate), targets.chunk(config.accumulate), strict=True))
        total = 0.0
        for number, (part, part_targets) in enumerate(parts, 1):
            # Processes exchange their gradients once per step, with the last part.
            with self.accelerator.no_sync(self.prepared) if number < len(parts) else nullcontext():
                with self.accelerator.autocast():
                    logits = self.forward(part)
                loss = F.cross_entropy(
                    logits.float(), part_targets, class_weights, label_smoothing=config.label_smoothing
                )
                loss = loss * (len(part) / len(images))
                self.accelerator.backward(loss)
            total += float(loss.detach())
        if config.clip:
            self.accelerator.clip_grad_norm_(self.prepared.parameters(), config.clip)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        if self.state.average:
            self.state.average.update_parameters(self.state.model)
        return total

    def _end_epoch(self) -> Epoch:
        """Evaluates the epoch, saves the model if it is the best, and writes the history."""
        start, config, position = time.monotonic(), self.config, self.position
        is_partial = position.step < self.steps  # the fitted head, or an epoch that the time did not suffice for
        train_loss = self._mean_over_processes(position.loss_sum / position.step) if position.step else None
        if not is_partial:
            position.epoch += 1
        loss, accuracy, is_best = None, None, False
        if is_partial or position.epoch >= self.epochs or position.epoch % config.evaluate_every == 0:
            loss, accuracy = self._validate()
            self._check_loss(loss, position.epoch)  # the last step of the epoch may have spoilt the weights
            is_best = self._is_best(loss, accuracy)
            position.evaluations_since_best = 0 if is_best else position.evaluations_since_best + 1
            if is_best:
                position.best = Best(position.epoch, accuracy, loss)
                if self.is_main:
                    self.state.evaluated_model.save_pretrained(self.run.model)
        position.seconds += time.monotonic() - start
        rate = learning_rate(config, position.epoch / max(1, self.epochs))
        event = Epoch(position.epoch, train_loss, loss, accuracy, is_best, rate, round(position.seconds, 1))
        if self.is_main:
            self.run.append(event)
            if accuracy is not None:
                self._write_samples()
        if not is_partial:
            position.step, position.loss_sum = 0, 0.0
        return event

    def _check_loss(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss became {loss} in epoch {epoch}; the training state before is kept. Start again with a "
                f"learning_rate below {self.config.learning_rate:g}."
            )

    def _is_best(self, loss: float, accuracy: float) -> bool:
        best = self.position.best
        if not best or self.config.select == "last":
            return True
        return loss < best.loss if self.config.select == "loss" else accuracy > best.accuracy

    @property
    def is_trained(self) -> bool:
        position, patience = self.position, self.config.patience
        stops_early = patience is not None and position.evaluations_since_best >= patience
        return position.epoch >= self.epochs or stops_early or self.time_is_up

    def is_asked_to_stop(self) -> bool:
        """Whether to stop before the first step. Several processes may not see the file at once: they stop later."""
        return self.num_processes == 1 and self.run.stop.exists()

    def _validate(self) -> tuple[float, float]:
        return validate(self.state.evaluated_model, self.store, self.validation_targets, self.transform, self.device)

    def _write_samples(self) -> None:
        model, targets = self.state.evaluated_model, self.validation_targets
        samples = predict_samples(model, self.store, targets, self.labels, self.transform, self.device)
        write_atomic(self.run.samples, json.dumps([sample._asdict() for sample in samples]))

    def _save_state(self) -> None:
        self.saved_at = time.monotonic()
        if self.is_main:
            self.position.hardware = describe_hardware()
            self.state.save(self.run.state)

    def _mean_over_processes(self, value: float) -> float:
        return float(self.accelerator.reduce(torch.tensor(value, device=self.device), "mean"))


def _create_accelerator(config: ResolvedTrainConfig) -> Any:
    try:
        import matplotlib  # noqa: F401  # draws the plots at the end, where a run must not fail for lack of it
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError:
        raise TrainingError("Training needs accelerate and matplotlib: pip install 'resnet_hub[train]'.") from None
    AcceleratorState._reset_state()  # it refuses another precision than that of an earlier run in this process
    accelerator = Accelerator(mixed_precision=config.precision or ("bf16" if _has_bf16() else "no"))
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        raise TrainingError("fp16 needs a GPU; choose bf16 or no.")
    return accelerator


def _has_bf16() -> bool:
    """Whether bfloat16 is faster than float32 on this hardware, because it multiplies it directly."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported())

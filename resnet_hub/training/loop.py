"""The training loop: trains the run of one directory and yields events."""

import copy
import json
import math
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from resnet_hub.atomic import write_atomic
from resnet_hub.datasets.image_stream import open_stream
from resnet_hub.datasets.load import load_dataset
from resnet_hub.errors import DataError, ResNetHubError, TrainingError, disk_is_full, memory_is_full
from resnet_hub.training import events, schedule
from resnet_hub.training.accelerator import (
    agree_to_stop,
    create_accelerator,
    decide_once,
    evaluates_in_bf16,
    mean_over_processes,
    synchronize_batch_norm,
)
from resnet_hub.training.augmentation import BatchTransform
from resnet_hub.training.config import AUTO, Phase, ResolvedTrainConfig, TrainConfig
from resnet_hub.training.finalize import (
    create_interim_card,
    describe_hardware,
    describe_result,
    finalize_run,
    is_finalized,
)
from resnet_hub.training.initial_model import check_batch_norm, choose_base, create_model, read_model_config
from resnet_hub.training.linear_probe import MAX_FITTED, fit_linear_probe
from resnet_hub.training.loader import Batch, BatchSampler, Inputs, fill_cache, open_inputs
from resnet_hub.training.optimizer import create_optimizer, frozen_modules, set_train_mode
from resnet_hub.training.run_dir import RunDir
from resnet_hub.training.split import create_split, describe_report, record_unreadable, select_images
from resnet_hub.training.state import Best, Position, SavedState, TrainingState
from resnet_hub.training.stochastic_depth import add_stochastic_depth
from resnet_hub.training.stream_sampler import StreamSampler, count_epoch_images, find_skipped
from resnet_hub.training.tracking import Tracker
from resnet_hub.training.train_step import TrainStep
from resnet_hub.training.validation_set import ValidationSet

T = TypeVar("T")

_PLATEAU = 5  # evaluations without improvement, after which the schedule "plateau" divides the learning rate by 10


def train(
    config: TrainConfig,
    *,
    phase: Phase = "all",
    time_limit: float | None = None,
    max_steps: int | None = None,
    max_download: int | None = None,
    force_unlock: bool = False,
) -> Iterator[events.Event]:
    """Trains a model and yields events; resumes the run if its directory already holds one.

    The last event is `Finished`, `Stopped` (after a file `stop` appeared in the run directory) or `Failed`. Closing the
    generator saves the training state and stops.

    Args:
        config: The settings of the run.
        phase: The part of the run to do. "all" trains and evaluates. "prepare" decodes the images and keeps them in
            the run directory. "train" trains without the final evaluation, and ends with `Stopped`, whose `trained`
            says whether all epochs are done. "evaluate" evaluates the best model so far; if no epoch was evaluated yet,
            it trains one step first. A run done in phases ends with the same weights as an uninterrupted one.
        time_limit: Seconds of training in this call. In phase "all" the run then yields `TimeUp` and evaluates the best
            model so far, as it does after a file `end` appeared in the run directory. It can be resumed.
        max_steps: Steps of the run, counted from its start, after which it stops with its state saved, and without an
            evaluation of the epoch. A later call resumes it.
        max_download: Largest size in bytes of a dataset on the Hub; None: no limit.
        force_unlock: Train even if another process seems to train in the run directory.

    Yields:
        Events of `resnet_hub.training.events`, such as `Started`, `Progress` and `Epoch`.

    Raises:
        ResNetHubError: If the run cannot start, for example because of a wrong setting, an unreadable dataset, or
            another process that trains in the run directory.
    """
    # At once, since the plots at the end must not be what fails.
    missing = [name for name in ("accelerate", "matplotlib", "psutil", "torchvision") if not find_spec(name)]
    if missing:
        raise TrainingError(f"Training needs {', '.join(missing)}. Install it with: pip install 'resnet_hub[train]'")
    run = RunDir(config.run)
    run.check_location(config.data)
    with run.lock.hold(force=force_unlock):
        yield from _train_run(run, config, phase, Limits.create(phase, time_limit, max_steps), max_download)


class Limits(NamedTuple):
    """When a training stops early."""

    deadline: float = math.inf  # of `time.monotonic`
    steps: float = math.inf  # from the start of the run

    @classmethod
    def create(cls, phase: Phase, time_limit: float | None, max_steps: int | None) -> "Limits":
        if max_steps is not None and max_steps < 1:
            raise TrainingError(f"max_steps is {max_steps}; expected at least 1.")
        if phase == "evaluate" and max_steps is not None:
            raise TrainingError(
                "time_limit=0 evaluates the best model; max_steps stops without an evaluation. Set only one."
            )
        seconds = 0.0 if phase == "evaluate" else math.inf if time_limit is None else time_limit
        return cls(time.monotonic() + seconds, math.inf if max_steps is None else max_steps)

    def is_due(self, run: RunDir) -> bool:
        """Whether the run should stop or end now."""
        return run.stop.exists() or run.end.exists() or time.monotonic() > self.deadline


def _train_run(
    run: RunDir, config: TrainConfig, phase: Phase, limits: Limits, max_download: int | None
) -> Iterator[events.Event]:
    if run.exists():
        config = config.resume(run.config)
    resolved = config.recorded() if run.exists() else config.resolved()
    with ExitStack() as stack:
        try:
            run.stop.unlink(missing_ok=True)
            trainer = Trainer(resolved, run, phase, limits)
            stack.enter_context(closing(trainer.tracker))
            if not run.exists():
                trainer.tracker.start()  # may fail or ask for a login: before the check of the dataset, which is long
            is_ready = yield from trainer.set_up(max_download)
        except OSError as error:
            raise TrainingError(error_reason(error, resolved)) from None
        yield from _run_phase(trainer, is_ready=is_ready)


def _run_phase(trainer: "Trainer", *, is_ready: bool) -> Iterator[events.Event]:
    try:
        if is_ready:
            yield from trainer.run_phase()
        else:
            yield events.Stopped(0, 0)
    except ResNetHubError as error:
        yield events.Failed(str(error))
    except KeyboardInterrupt:
        raise  # here, since the next line would first import a module, for seconds
    except torch._dynamo.exc.BackendCompilerFailed as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        yield events.Failed(f"torch.compile does not work here ({reason}); start again without compile.")
    except (RuntimeError, MemoryError, OSError) as error:
        yield events.Failed(error_reason(error, trainer.config))


def error_reason(error: Exception, config: TrainConfig) -> str:
    """Returns the message for a full disk, full memory or an `OSError`, and what to do; re-raises any other error."""
    if disk_is_full(error):
        has_state = RunDir(config.run).state.is_file()
        advice = "resume, the last training state is kept" if has_state else "start again"
        return f"The disk of {config.run} is full; free some space and {advice}."
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

    def __init__(self, config: ResolvedTrainConfig, run: RunDir, phase: Phase = "all", limits: Limits | None = None):
        self.config, self.run, self.phase, self.limits = config, run, phase, limits or Limits()
        self.accelerator = create_accelerator(config, run)
        self.device, self.num_processes = self.accelerator.device, self.accelerator.num_processes
        self.is_main: bool = self.accelerator.is_main_process
        self.is_in_phases = phase in ("prepare", "train")
        self.time_is_up = False
        self.tracker = Tracker(self.accelerator, "none" if phase == "prepare" else config.log_to, run.folder)
        self.is_checked = False  # whether this call has checked the dataset
        self.base_note: str | None = None
        if config.base == AUTO:
            choice = decide_once(self.accelerator, choose_base)  # the Hub might not respond to each process
            self.base_note = choice.reason
            self.config = config = replace(config, base=str(choice.source))
        if config.base:
            base = read_model_config(config, run)  # fails before the dataset is read
            if not run.exists():
                self.config = config.choose_sizes(base.image_size)

    def set_up(self, max_download: int | None = None) -> Generator[events.Preparing, None, bool]:
        """Reads the dataset and creates the model; returns False if a stop was requested meanwhile."""
        config, run = self.config, self.run
        is_new = self.is_main and not run.exists()
        with self.accelerator.main_process_first():
            stream = open_stream(config.data, **config.data_names) if config.stream else None
            splits = stream.sample if stream else load_dataset(config.data, **config.data_names, max_bytes=max_download)
            if splits.commit:
                config = replace(config, data_revision=splits.commit)  # a resumed run reads the same
            sample_of = stream.describe() if stream else ""
            if is_new or not run.split.is_file():  # a new run may find the split of a start that failed
                record = yield from self._until_stopped(create_split(splits, config, run, sample_of=sample_of))
                if record is None:
                    return False
                self.is_checked = True
            self.images = select_images(splits, config, run)
        self.labels, self.targets = self.images.train.labels, torch.from_numpy(self.images.train.targets)
        skipped = find_skipped(stream, run.read_split()) if stream else []
        self.num_images = count_epoch_images(config, stream, len(skipped)) if stream else len(self.targets)
        self.epochs = config.choose_epochs(self.num_images)
        self.config = config = replace(config, epochs=self.epochs)

        torch.manual_seed(config.seed)  # here, since the caller may draw random numbers between two events
        model, self.keeps_head = create_model(config, run, self.labels, copies_base=is_new)
        self.model = model.to(memory_format=torch.channels_last).to(self.device)
        share = self.accelerator.process_index, self.num_processes
        self.transform = BatchTransform(config, model.config)
        sampler: BatchSampler | StreamSampler
        if stream:
            positions = run.stream / f"{share[0]}.jsonl"
            should_stop, crop_size = self._should_stop_waiting, self.transform.crop_size
            sampler = StreamSampler(config, stream, skipped, positions, crop_size, *share, should_stop)
        else:
            sampler = BatchSampler(config, self.targets, len(self.labels), self.transform.crop_size, *share)
        self.sampler = sampler
        self.steps, self.batch_size, self.class_weights = sampler.steps, sampler.batch_size, sampler.class_weights
        check_batch_norm(config, model.config, self.batch_size // self.num_processes)
        self.saved_at = time.monotonic()
        return True

    def run_phase(self) -> Iterator[events.Event]:
        """Does the remaining work of the phase; the last event is `Finished` or `Stopped`."""
        run, images = self.run, self.images
        if self.is_main and (not run.exists() or vars(run.config) != vars(self.config)):  # data or base have moved
            run.create(self.config)
        is_resumed = run.state.is_file()
        self.saved = SavedState(run.state) if is_resumed else None
        self.position = position = self.saved.position if self.saved else Position()
        position.hardware = position.hardware or describe_hardware()
        yield events.Started(
            run=str(run.folder),
            labels=list(self.labels),
            train_images=self.num_images,
            validation_images=len(images.validation),
            split=images.validation_name,
            parameters=self.model.config.num_parameters,
            epoch=position.epoch,
            epochs=self.epochs,
            device=str(self.device),
            base=self.config.base,
            base_note=self.base_note,
        )
        if self.is_checked:
            yield describe_report(run)
        if self.phase == "evaluate" and position.best and not self.is_trained:
            self.time_is_up = True
            yield events.TimeUp(position.epoch, position.step)
        if not (is_resumed and self.is_trained) and not (yield from self._train(is_resumed)):
            return
        if self.is_in_phases:
            yield events.Stopped(position.epoch, position.step, trained=True)
            return
        if self.is_main:
            if not is_finalized(run):
                finalize_run(run, images, hardware=position.hardware)
            for folder in (run.images, run.stream):
                shutil.rmtree(folder, ignore_errors=True)
            run.end.unlink(missing_ok=True)
        assert position.best is not None  # of a trained run
        yield describe_result(run, position.best, round(position.seconds, 1))

    def _train(self, is_resumed: bool) -> Generator[events.Event, None, bool]:
        """Decodes the images, fits the head of a base, and trains; returns whether the run is trained now."""
        start, position, run = time.monotonic(), self.position, self.run
        is_first_start_from_base = bool(self.config.base) and not is_resumed
        self.tracker.describe_run(self.config)
        self.inputs = open_inputs(
            self.images,
            self.config,
            self.model.config,
            run.images,
            keeps_on_disk=self.is_in_phases,  # each phase is a process of its own
            is_on_gpu=self.device.type == "cuda",
        )
        self.validation = ValidationSet(self.inputs, self.transform, self.accelerator)
        if self.phase == "prepare":
            yield from self._until_stopped(fill_cache(self.inputs))
        is_ready = self.phase != "prepare" and not self._should_stop_before_step()
        if is_ready and is_first_start_from_base and not self.keeps_head:
            head = yield from self._until_stopped(self._fit_head(), with_deadline=True)
            is_ready = head is not None
        if not is_ready:
            yield events.Stopped(position.epoch, position.step)
            return False
        position.seconds += time.monotonic() - start
        self._create_state(is_resumed)
        if self.is_main:
            run.evaluation.unlink(missing_ok=True)  # of a run that had ended early and is resumed
        try:
            training = closing(self._train_epochs(evaluates_first=is_first_start_from_base))
            with training as steps:
                for event in steps:
                    self.tracker.log(event, self._steps_done)
                    yield event
        except GeneratorExit:
            self._save_between_steps()
            raise
        if (checked := _record_unreadable(run, self.inputs, self.is_main)) and self.is_trained:
            yield checked
        return self.is_trained

    def _fit_head(self) -> Generator[events.Preparing, None, nn.Linear]:
        indices = np.arange(len(self.targets))
        if self.epochs and len(indices) > MAX_FITTED:  # the training that follows sees all images
            indices = np.sort(np.random.default_rng(self.config.seed).choice(indices, MAX_FITTED, replace=False))
        return fit_linear_probe(
            self.model.eval(),
            self.inputs.train,
            indices,
            self.class_weights if self.config.balance != "none" else torch.ones(len(self.labels)),
            self.transform,
            self.inputs.loader,
            self.run.features if self.is_main else None,
            in_bf16=evaluates_in_bf16(self.accelerator),
            mirrored=not self.epochs,
        )

    def _create_state(self, is_resumed: bool) -> None:
        config, model = self.config, self.model
        for module in frozen_modules(model, config.frozen_stages):
            module.requires_grad_(False)
        optimizer = create_optimizer(model, config)
        average = copy.deepcopy(model) if config.ema else None
        if not config.frozen_norm:
            synchronize_batch_norm(self.accelerator, model)
        if config.stochastic_depth:
            add_stochastic_depth(model, config.stochastic_depth)
        self.prepared, optimizer = self.accelerator.prepare(model, optimizer)
        # Only the steps run in half precision, by `autocast`; the model, which is evaluated, stays in float32.
        model = self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False)
        self.frozen = frozen_modules(model, config.frozen_stages)
        self.state = TrainingState(model, average, optimizer, self.accelerator.scaler, self.position)
        if self.saved:
            self.state.load(self.saved)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self.loss_sum = torch.tensor(self.position.loss_sum, dtype=dtype, device=self.device)
        self.train_step = TrainStep(
            config, self.accelerator, self.prepared, self.state, self.transform, self.class_weights
        )

    def _train_epochs(self, *, evaluates_first: bool) -> Generator[events.Event]:
        position = self.position
        if evaluates_first:  # the base with its fitted head
            yield self._end_epoch()
            self._save_state()
            self.run.features.unlink(missing_ok=True)
        if self._steps_done >= self.limits.steps:
            yield events.Stopped(position.epoch, position.step, is_at_limit=True)
            return
        batches = self.sampler.iterate(position.epoch, position.step)
        loading = self.inputs.loader.load(self.inputs.train, batches, self.transform.crop)
        with closing(batches), closing(loading):
            while not self.is_trained:
                is_stopped = yield from self._train_epoch(loading)
                if is_stopped:
                    return
                if position.step < self.steps:  # out of time; the saved state resumes here
                    break
                yield self._end_epoch()
                self._save_state()
                yield events.Saved(position.epoch, position.step)
        if not position.best:  # out of time before the first evaluation
            yield self._end_epoch()

    def _train_epoch(self, loading: Iterator[tuple[Batch, Tensor]]) -> Generator[events.Event, None, bool]:
        """Trains to the end of the epoch or of the time; returns whether the run was stopped."""
        config, position = self.config, self.position
        set_train_mode(self.prepared, self.frozen, frozen_norm=config.frozen_norm)
        reported_at, images_since = time.monotonic(), 0
        while position.step < self.steps:
            loaded = self._load(loading)
            if loaded:
                rate = self._learning_rate(self._steps_done / (self.epochs * self.steps))
                self.loss_sum += yield from self.train_step.run(*loaded, rate, self._steps_done)
                position.step += 1
                images_since += self.batch_size
            is_stopping, now = not loaded or self._should_stop_after_step(), time.monotonic()
            if now - reported_at < events.PROGRESS_SECONDS and position.step < self.steps and not is_stopping:
                continue
            speed = images_since / max(now - reported_at, 1e-3)
            position.seconds += now - reported_at
            position.loss_sum = float(self.loss_sum)  # the steps between two reports do not wait for the device
            reported_at, images_since, loss = now, 0, position.loss_sum / max(position.step, 1)
            _check_loss(loss, position.epoch + 1, config)
            if loaded:
                seconds_left = ((self.epochs - position.epoch) * self.steps - position.step) * self.batch_size / speed
                yield events.Progress(position.epoch + 1, position.step, self.steps, loss, rate, speed, seconds_left)
            if is_stopping or now - self.saved_at > config.checkpoint_seconds:
                self._save_state()
                yield events.Saved(position.epoch, position.step)
            if is_stopping and self._steps_done >= self.limits.steps:
                yield events.Stopped(position.epoch, position.step, is_at_limit=True)
                return True
            if is_stopping:
                # All processes decide alike.
                is_requested = mean_over_processes(self.accelerator, float(self.run.stop.exists())) > 0
                self.time_is_up = not (is_requested or self.is_in_phases)
                yield (events.TimeUp if self.time_is_up else events.Stopped)(position.epoch, position.step)
                return not self.time_is_up
        return False

    def _load(self, loading: Iterator[tuple[Batch, Tensor]]) -> tuple[Batch, Tensor] | None:
        """Returns a batch and its pixels, or None if the run should stop while it waits; saves it if loading fails."""
        try:
            return next(loading, None)
        except ResNetHubError as error:
            self._save_between_steps()
            if not self.config.stream:
                raise
            resume = f"`resnet-hub train --run {self.run.folder}` resumes the run from its last saved state."
            raise DataError(f"{error} {resume}") from None

    def _should_stop_after_step(self) -> bool:
        is_at_limit = self._steps_done >= self.limits.steps
        return is_at_limit or agree_to_stop(self.accelerator, self.limits.is_due(self.run), self._steps_done)

    @property
    def _steps_done(self) -> int:
        return self.position.epoch * self.steps + self.position.step

    def _end_epoch(self) -> events.Epoch:
        """Evaluates the epoch, saves the model if it is the best so far, and adds a line to the history."""
        start, config, position = time.monotonic(), self.config, self.position
        is_partial = position.step < self.steps  # only the head is fitted, or the time is up
        train_loss = mean_over_processes(self.accelerator, position.loss_sum / position.step) if position.step else None
        if not is_partial:
            position.epoch += 1
        loss, accuracy, is_best = None, None, False
        if is_partial or position.epoch >= self.epochs or position.epoch % config.evaluate_every == 0:
            model = self.state.evaluated_model
            loss, accuracy = self.validation.evaluate(model)
            _check_loss(loss, position.epoch, config)  # the last step may have made the weights infinite
            is_best = _is_best(loss, accuracy, position.best, config)
            position.evaluations_since_best = 0 if is_best else position.evaluations_since_best + 1
            if config.schedule == "plateau" and not is_best and position.evaluations_since_best % _PLATEAU == 0:
                position.rate_drops += 1
            position.best = Best(position.epoch, accuracy, loss) if is_best else position.best
            if self.is_main:
                self.run.lock.check()
                if is_best:
                    self.run.head.unlink(missing_ok=True)  # of the model before
                    model.save_pretrained(self.run.model, card=create_interim_card(config, self.run))
                samples = [sample._asdict() for sample in self.validation.predict_samples(model)]
                write_atomic(self.run.samples, json.dumps(samples))
        position.seconds += time.monotonic() - start
        rate = self._learning_rate(position.epoch / max(1, self.epochs))
        event = events.Epoch(position.epoch, train_loss, loss, accuracy, is_best, rate, round(position.seconds, 1))
        if self.is_main:
            self.run.append(event)
        if not is_partial:
            position.step, position.loss_sum = 0, 0.0
            self.loss_sum.zero_()
        return event

    def _learning_rate(self, progress: float) -> float:
        return float(schedule.learning_rate(self.config, progress) * 0.1**self.position.rate_drops)

    @property
    def is_trained(self) -> bool:
        position, patience = self.position, self.config.patience
        stops_early = patience is not None and position.evaluations_since_best >= patience
        return position.epoch >= self.epochs or stops_early or self.time_is_up

    def _until_stopped(
        self, preparation: Generator[events.Preparing, None, T], *, with_deadline: bool = False
    ) -> Generator[events.Preparing, None, T | None]:
        """Yields the events of `preparation` and returns its result, or None if the run was stopped before.

        `with_deadline` also stops it at the time limit, if the run is done in phases.
        """
        deadline = self.limits.deadline if with_deadline and self.is_in_phases else math.inf
        with closing(preparation):
            while True:
                try:
                    event = next(preparation)
                except StopIteration as end:
                    return cast(T, end.value)
                yield event
                if event.done < event.total and (self._should_stop_before_step() or time.monotonic() > deadline):
                    return None

    def _should_stop_before_step(self) -> bool:
        """Whether to stop before the first step. Several processes may not see the file at once: they stop later."""
        return self.num_processes == 1 and self.run.stop.exists()

    def _should_stop_waiting(self) -> bool:
        """Whether to stop while a stream is waited for. One of several processes cannot ask the others then."""
        is_due = self.num_processes == 1 and self._steps_done > 0 and self.limits.is_due(self.run)
        return is_due or self._should_stop_before_step()

    def _save_state(self) -> None:
        self.saved_at = time.monotonic()
        if self.is_main:
            self.run.lock.check()
            self.position.hardware, self.position.loss_sum = describe_hardware(), float(self.loss_sum)
            self.state.save(self.run.state)

    def _save_between_steps(self) -> None:
        with suppress(TrainingError):  # another process has taken over the run, or the loss is not finite
            _check_loss(float(self.loss_sum), self.position.epoch + 1, self.config)
            self._save_state()


def _record_unreadable(run: RunDir, inputs: Inputs, is_main: bool) -> events.Checked | None:
    """Records the images of all processes that could not be read."""
    from accelerate.utils import gather_object

    train, validation = (
        dict(gather_object(list(images.unreadable.items()))) for images in (inputs.train, inputs.validation)
    )
    return record_unreadable(run, train, validation) if is_main else None


def _check_loss(loss: float, epoch: int, config: TrainConfig) -> None:
    if not math.isfinite(loss):
        advice = f"Start again with a learning_rate below {config.learning_rate:g}."
        raise TrainingError(f"The loss became {loss} in epoch {epoch}. {advice}")


def _is_best(loss: float, accuracy: float, best: Best | None, config: TrainConfig) -> bool:
    if not best or config.select == "last":
        return True
    return loss < best.loss if config.select == "loss" else accuracy > best.accuracy

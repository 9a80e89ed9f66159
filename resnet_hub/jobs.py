"""Training as a Hugging Face Job: `resnet-hub train` runs there, and its log is read here as events.

A job cannot read files of this computer. So this package, and a local dataset and base, are first uploaded to a private
dataset, which the job mounts as `/input`. The job pushes the model to its repo. The token is a secret of the job: it
is not among its arguments and is never printed.
"""

import re
import secrets
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.checkpoints.default_model import preferred_model
from resnet_hub.checkpoints.load import find_weights_files, open_source
from resnet_hub.checkpoints.push import check_push_access, select_upload_files
from resnet_hub.datasets.export import export_dataset
from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.remote import HUB_PREFIX
from resnet_hub.errors import HubError, TrainingError
from resnet_hub.hub_client.errors import hub_errors, translate_errors
from resnet_hub.hub_client.retry import call_once, retry_call
from resnet_hub.hub_client.upload import find_or_create_repo, upload_large_files
from resnet_hub.included_models import find_default_model, find_included_model
from resnet_hub.package_files import list_package_files
from resnet_hub.requirements import HEIC, LIBRARY, TRAIN
from resnet_hub.training.config import (
    AUTO,
    DATASET_FIELDS,
    TrainConfig,
    command_line_options,
    is_hub_id,
    parse_duration,
)
from resnet_hub.training.events import Epoch, Event, Failed, Pushed, event_from_json
from resnet_hub.training.run_dir import RunDir

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd


DEPENDENCIES = (*LIBRARY, *TRAIN, *HEIC)  # of the command
FLAVORS = ("cpu-upgrade", "t4-small", "t4-medium", "l4x1", "a10g-small", "a10g-large", "a100-large", "h200")
LIMITS = ("30m", "1h", "2h", "4h", "8h")  # timeouts that the page offers
_MIN_TIMEOUT = 15 * 60  # seconds
_OVERHEAD = 8 * 60  # seconds to install torch, evaluate and push; a tenth of the timeout, if that is more
_POLL_SECONDS = 10.0  # between two checks for the file that ends the training
_INPUT, _RUN = "/input", "/tmp/run"  # folders in the job


class Job(NamedTuple):
    """A job on the Hub."""

    id: str
    owner: str
    url: str
    ending: str  # user/name/file of a dataset: if it appears, the job ends its training


def submit(
    config: TrainConfig,
    repo_id: str,
    *,
    flavor: str = "t4-small",
    timeout: str = "2h",
    private: bool = True,
    upload: bool = False,
    root: Path = Path(),
    token: str | None = None,
) -> Job:
    """Starts a job that trains a model and pushes it to `repo_id`; the run directory itself is not kept.

    Args:
        config: The settings of the run.
        repo_id: The model repo, created if missing.
        flavor: The hardware, one of `hf jobs hardware`.
        timeout: Time after which the Hub ends the job, such as 90m or 2h. The training stops some minutes before.
        private: Whether a new repo is private.
        upload: Whether a local dataset or base may be copied to the private dataset `repo_id`-input.
        root: Folder that relative paths start from.
        token: Token with write access to `repo_id`; default: the one of `hf auth login`.

    Raises:
        ResNetHubError: If the settings or the data are wrong, or the Hub denies access.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, Volume, get_token

    config.resolved().check_processes(_count_gpus(flavor))
    train_seconds = _training_time(timeout)
    token = token or get_token()
    if not token:
        raise HubError("There is no token on this computer. Log in with `hf auth login`.")
    check_push_access(repo_id, private=private, token=token)
    files = [CommitOperationAdd(name, path) for name, path in list_package_files("demo").items()]
    input_id = f"{repo_id}-input"
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pack = partial(_pack_dataset, scratch=scratch, **config.data_names)
        data = _resolve_source(config.data, root, upload, input_id, pack, files)
        if data != config.data:  # a ZIP of what the dataset fields select
            defaults: dict[str, Any] = dict.fromkeys(DATASET_FIELDS)
            config = replace(config, **defaults)
        base = _choose_base(config.base, flavor)
        base = base and _resolve_source(base, root, upload, input_id, _list_base_files, files)
        stack.enter_context(hub_errors(repo_id, token=token, writing=True))
        api = HfApi(token=token, library_name="resnet_hub")
        input_id = find_or_create_repo(api, input_id, repo_type="dataset", private=True)
        arguments = command_line_options(replace(config, data=data, base=base, run=_RUN))
        arguments += ["--stop-after", f"{train_seconds}s", "--json"]
        arguments += ["--push", repo_id, "--private" if private else "--no-private"]
        ending = f"{input_id}/end-{secrets.token_hex(4)}"
        arguments += ["--end-when", ending]
        if not retry_call(api.dataset_info, input_id).private:
            raise HubError(f"The dataset {input_id} exists and is public; make it private, or push to another name.")
        upload_large_files(api, input_id, files, repo_type="dataset")
        message = "Upload the input of a training job of resnet_hub"
        commit = retry_call(partial(api.create_commit, input_id), files, repo_type="dataset", commit_message=message)
        volume = Volume(type="dataset", source=input_id, mount_path=_INPUT, revision=commit.oid, read_only=True)
        stack.enter_context(warnings.catch_warnings(action="ignore", category=UserWarning))  # jobs are experimental
        job = call_once(
            api.run_uv_job,
            "python",
            script_args=[*_launch(flavor), "-m", "resnet_hub", "train", *arguments],
            dependencies=list(DEPENDENCIES),
            env={"PYTHONPATH": _INPUT, "PYTHONUNBUFFERED": "1"},
            secrets={"HF_TOKEN": token},
            flavor=flavor,
            timeout=int(parse_duration(timeout)),
            volumes=[volume],
            name=f"resnet_hub {repo_id}"[:60],
        )
    return Job(job.id, job.owner.name, job.url, ending)


def follow(job: Job, *, token: str | None = None) -> Iterator[Event | str]:
    """Yields the events of a job's training, and other lines of its log as text, until the job ends.

    If it ends before its model is pushed, the last event is `Failed`.
    """
    from huggingface_hub import HfApi

    last: Event | None = None
    with translate_errors(f"The job {job.id}", action="followed"):
        api = HfApi(token=token, library_name="resnet_hub")
        for line in api.fetch_job_logs(job_id=job.id, namespace=job.owner, follow=True):
            event = event_from_json(line)
            last = event or last
            yield event or line
        status = retry_call(api.inspect_job, job_id=job.id, namespace=job.owner).status
    if status.stage != "COMPLETED" and not isinstance(last, Failed):
        reason = f" ({status.message})" if status.message else ""
        yield Failed(f"The job ended as {str(status.stage).lower()}{reason}; its log is at {job.url}.")
    elif not isinstance(last, Failed | Pushed):
        yield Failed(f"The job ended without a model; its log is at {job.url}.")


def end(job: Job, *, token: str | None = None) -> None:
    """Asks the job to end its training, and to evaluate and push its best model; takes a minute or two."""
    from huggingface_hub import CommitOperationAdd, HfApi

    repo_id, _, name = job.ending.rpartition("/")
    with hub_errors(repo_id, token=token, writing=True):
        files = [CommitOperationAdd(name, f"{job.url}\n".encode())]
        commit = partial(HfApi(token=token, library_name="resnet_hub").create_commit, repo_id)
        retry_call(commit, files, repo_type="dataset", commit_message="End the training")


def await_end(run: RunDir, ending: str) -> None:
    """Starts a thread that ends the training of `run` when the file `ending` (user/name/file) appears in its dataset.

    `end` creates that file. Errors of the Hub are ignored. Raises `TrainingError` for a wrong name.
    """
    from huggingface_hub import HfApi

    repo_id, _, name = ending.rpartition("/")
    if not is_hub_id(repo_id) or not name:
        raise TrainingError(f"{ending!r} is not a file of a dataset on the Hub; write user/name/file.")

    def watch() -> None:
        exists = False
        while not exists:
            time.sleep(_POLL_SECONDS)
            with suppress(HubError), hub_errors(repo_id):
                exists = call_once(HfApi(library_name="resnet_hub").file_exists, repo_id, name, repo_type="dataset")
        run.end.touch()

    threading.Thread(target=watch, daemon=True).start()


def cancel(job: Job, *, token: str | None = None) -> None:
    """Ends the job at once, without a model."""
    from huggingface_hub import HfApi

    with translate_errors(f"The job {job.id}", action="canceled"):
        retry_call(HfApi(token=token, library_name="resnet_hub").cancel_job, job_id=job.id, namespace=job.owner)


def record(run: RunDir, events: Iterator[Event | str]) -> Iterator[Event | str]:
    """Yields the same events, and writes the epochs among them to the history of a local run."""
    run.folder.mkdir(parents=True, exist_ok=True)
    for event in events:
        if isinstance(event, Epoch):
            run.append(event)
        yield event


def _launch(flavor: str) -> list[str]:
    """Returns the arguments of Python that start a process for each GPU of a flavor such as l40sx4; none for one."""
    if (count := _count_gpus(flavor)) == 1:
        return []
    words = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count), "--num_machines", "1"]
    return [*words, "--mixed_precision", "no", "--dynamo_backend", "no"]  # as the run sets them itself


def _count_gpus(flavor: str) -> int:
    """Returns the number at the end of a flavor such as l40sx4, else 1."""
    number = re.search(r"x(\d+)$", flavor)
    return int(number[1]) if number else 1


def _training_time(timeout: str) -> int:
    """Returns the seconds that a job with `timeout` has for training."""
    limit = parse_duration(timeout)
    if limit < _MIN_TIMEOUT:
        raise TrainingError(f"A job of {timeout} has no time to train; give it {_MIN_TIMEOUT // 60}m or more.")
    return round(limit - max(_OVERHEAD, limit / 10))


def _choose_base(base: str | None, flavor: str) -> str | None:
    """Returns the base, with "auto" replaced by the preferred one for that hardware: a job reaches the Hub."""
    if base != AUTO:
        return str(find_included_model(base) or base) if base else None
    return preferred_model("base", on_gpu=not flavor.startswith("cpu")) or str(find_default_model())


def _resolve_source(
    source: str, root: Path, upload: bool, input_id: str, pack: Any, files: "list[CommitOperationAdd]"
) -> str:
    """Returns how the job names a dataset or base: by its id on the Hub, or by its path in `/input` if uploaded."""
    from huggingface_hub import CommitOperationAdd

    path = root / Path(source).expanduser()
    if source.startswith(HUB_PREFIX) or (is_hub_id(source) and not path.exists()):
        return source
    if not path.exists():
        raise TrainingError(f"There is no folder or file {source}, nor is it a name on the Hub (user/name).")
    if not upload:
        raise TrainingError(
            f"A job cannot read {source} on this computer; copy it with --upload to {input_id}, a private dataset of "
            "yours, or name one on the Hub."
        )
    name, packed = pack(path)
    files += [CommitOperationAdd(inside, file) for inside, file in packed.items()]
    return f"{_INPUT}/{name}"


def _pack_dataset(path: Path, scratch: Path, **names: Any) -> tuple[str, dict[str, Path]]:
    """Returns the name and files to upload of a dataset: one ZIP of what the arguments of `load_dataset` select."""
    splits = load_dataset(path, **names)
    if path.suffix.lower() != ".zip":
        path = export_dataset(splits, scratch / f"{path.resolve().name}.zip")
    return path.name, {path.name: path}


def _list_base_files(path: Path) -> tuple[str, dict[str, Path]]:
    """Returns the name and files to upload of a checkpoint folder: those that a push uploads."""
    name = f"base/{path.resolve().name}"
    files = select_upload_files(path).files
    files |= {file: path / file for file in find_weights_files(open_source(path))}  # which may have other names
    return name, {f"{name}/{inside}": file for inside, file in files.items()}

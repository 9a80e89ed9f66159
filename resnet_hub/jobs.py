"""Training on a machine of Hugging Face: the terminal's own command runs in a Job, whose log is read here as events.

A job reads what is on the Hub and nothing of this computer. So this package, and a data set and base that lie here, go
into a private data set first, which the job finds in its folder `/input`; the model goes from the job to its repo. The
token is a secret of the job, in neither its arguments nor its environment, and nothing prints it."""

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

from resnet_hub.checkpoints.folder import CARD_FILE, CONFIG_FILE, INDEX_FILE, PROCESSOR_FILE
from resnet_hub.checkpoints.push import check_push_access
from resnet_hub.datasets.export import export_dataset
from resnet_hub.datasets.load import load_dataset
from resnet_hub.datasets.remote import HUB_PREFIX
from resnet_hub.errors import HubError, TrainingError
from resnet_hub.hub_client.errors import hub_errors
from resnet_hub.hub_client.retry import call_once, retry_call
from resnet_hub.training.config import DATASET_FIELDS, TrainConfig, command_line_options, is_hub_id, parse_duration
from resnet_hub.training.events import Event, Failed, Pushed, event_from_json
from resnet_hub.training.run_dir import RunDir

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd


# What the command needs in the job: the library and its extra `train`, as pyproject.toml has them.
DEPENDENCIES = (
    *(
        "torch>=2.8",
        "safetensors>=0.5",
        "huggingface_hub>=2.4,<3",
        "pyyaml>=6",
        "jinja2>=3.1",
        "numpy>=2",
        "pillow>=11.3,<13",
    ),
    *("tqdm>=4.66", "pillow-heif>=1.0", "torchvision>=0.23", "datasets>=5.0,<6", "accelerate>=1.10,<2"),
)
FLAVORS = ("cpu-upgrade", "t4-small", "t4-medium", "l4x1", "a10g-small", "a10g-large", "a100-large", "h200")
LIMITS = ("30m", "1h", "2h", "4h", "8h")  # of time, to choose from; any other may be written
_LEAST = 15 * 60  # seconds of a job that has time to train
_REST = 8 * 60  # of them, or a tenth of more, are for what is before and after: to install torch, to measure, to push
_EVERY = 10.0  # seconds between two looks for what ends it
_INPUT, _RUN = "/input", "/tmp/run"  # folders of the job


class Job(NamedTuple):
    """A job on the Hub; whoever may see it finds it at `url`."""

    id: str
    owner: str
    url: str
    ending: str  # file of its data set that it waits for, to end its training


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
    """Starts a job that trains as `config` says and pushes the model to `repo_id`; of its run nothing else is kept.

    A data set or base on this computer, whose relative paths are below `root`, is copied to the private data set
    `repo_id`-input with `upload`, and refused without. `timeout` ends the job, such as `90m` or `2h`; some minutes
    before it stops training, and pushes what it has. Raises `ResNetHubError` for settings or data that cannot be, and
    `HubError` where the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, Volume, get_token

    config.resolved()
    stop_after = _training_time(timeout)
    token = token or get_token()
    if not token:
        raise HubError("There is no token on this computer. Log in with `hf auth login`.")
    check_push_access(repo_id, private=private, token=token)
    package = Path(__file__).parent
    files = [
        CommitOperationAdd(f"resnet_hub/{path.relative_to(package).as_posix()}", path) for path in _source(package)
    ]
    input_id = f"{repo_id}-input"
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pack = partial(_data_files, scratch=scratch, **config.data_names)
        data = _brought(config.data, root, upload, input_id, pack, files)
        if data != config.data:  # a ZIP of what they name
            nameless: dict[str, Any] = dict.fromkeys(DATASET_FIELDS)
            config = replace(config, **nameless)
        base = config.base and _brought(config.base, root, upload, input_id, _base_files, files)
        words = command_line_options(replace(config, data=data, base=base, run=_RUN))
        words += ["--stop-after", f"{stop_after}s", "--json"]
        words += ["--push", repo_id, "--private" if private else "--no-private"]
        ending = f"{input_id}/end-{secrets.token_hex(4)}"
        words += ["--end-when", ending]
        stack.enter_context(hub_errors(repo_id, token=token, writing=True))
        api = HfApi(token=token, library_name="resnet_hub")
        retry_call(api.create_repo, input_id, repo_type="dataset", private=True, exist_ok=True)
        if not retry_call(api.dataset_info, input_id).private:
            raise HubError(f"The data set {input_id} exists and is public; make it private, or push to another name.")
        for file in [file for file in files if not file.path_in_repo.endswith(".py")]:  # singly, here: see `ask`
            retry_call(api.preupload_lfs_files, input_id, [file], repo_type="dataset", free_memory=False)
        about = "What a job of resnet_hub is to train on"
        commit = retry_call(partial(api.create_commit, input_id), files, repo_type="dataset", commit_message=about)
        volume = Volume(type="dataset", source=input_id, mount_path=_INPUT, revision=commit.oid, read_only=True)
        stack.enter_context(warnings.catch_warnings(action="ignore", category=UserWarning))  # jobs are experimental
        job = call_once(
            api.run_uv_job,
            "python",
            script_args=["-m", "resnet_hub", "train", *words],
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
    """What the job says, until it ends: the events of its training, and other lines of its log as they are.

    A job that ends before its model is pushed is `Failed`, with where to look.
    """
    from huggingface_hub import HfApi

    last: Event | None = None
    with hub_errors(job.id, token=token):
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
    """Asks the job to end its training, and to measure and push what it has; it does so within a minute or two."""
    from huggingface_hub import CommitOperationAdd, HfApi

    repo_id, _, name = job.ending.rpartition("/")
    with hub_errors(repo_id, token=token, writing=True):
        files = [CommitOperationAdd(name, f"{job.url}\n".encode())]
        commit = partial(HfApi(token=token, library_name="resnet_hub").create_commit, repo_id)
        retry_call(commit, files, repo_type="dataset", commit_message="End the training")


def await_end(run: RunDir, ending: str) -> None:
    """Ends the training of `run` once the file `ending` (user/name/file) is in that data set on the Hub, as `end` asks.

    It is looked for in a thread, for as long as the process is there. A Hub out of reach is asked again. Raises
    `TrainingError` for what cannot be such a file.
    """
    from huggingface_hub import HfApi

    repo_id, _, name = ending.rpartition("/")
    if not is_hub_id(repo_id) or not name:
        raise TrainingError(f"{ending!r} is no file of a data set on the Hub; write user/name/file.")

    def watch() -> None:
        there = False
        while not there:
            time.sleep(_EVERY)
            with suppress(HubError), hub_errors(repo_id):
                there = call_once(HfApi(library_name="resnet_hub").file_exists, repo_id, name, repo_type="dataset")
        run.end.touch()

    threading.Thread(target=watch, daemon=True).start()


def cancel(job: Job, *, token: str | None = None) -> None:
    """Ends the job at once; what it had reached is lost."""
    from huggingface_hub import HfApi

    with hub_errors(job.id, token=token, writing=True):
        retry_call(HfApi(token=token, library_name="resnet_hub").cancel_job, job_id=job.id, namespace=job.owner)


def record(run: RunDir, events: Iterator[Event | str]) -> Iterator[Event | str]:
    """The same events, with the epochs among them written to the history of a run here."""
    from resnet_hub.training.events import Epoch

    run.folder.mkdir(parents=True, exist_ok=True)
    for event in events:
        if isinstance(event, Epoch):
            run.append(event)
        yield event


def _training_time(timeout: str) -> int:
    """Seconds for the training of a job that is ended after `timeout`."""
    limit = parse_duration(timeout)
    if limit < _LEAST:
        raise TrainingError(f"A job of {timeout} has no time to train; give it {_LEAST // 60}m or more.")
    return round(limit - max(_REST, limit / 10))


def _source(package: Path) -> list[Path]:
    """The files of this package that a job needs: all but the page and, in a wheel, the shelf."""
    files = (path for path in package.rglob("*") if path.is_file())
    return sorted(path for path in files if not {"demo", "weights", "__pycache__"} & {*path.relative_to(package).parts})


def _brought(source: str, root: Path, upload: bool, input_id: str, pack: Any, files: "list[CommitOperationAdd]") -> str:
    """The name of a data set or base in the job: as it is on the Hub, or below `/input` where it is taken there."""
    from huggingface_hub import CommitOperationAdd

    path = root / Path(source).expanduser()
    if source.startswith(HUB_PREFIX) or (is_hub_id(source) and not path.exists()):
        return source
    if not path.exists():
        raise TrainingError(f"There is no folder or file {source}, nor is it a name on the Hub (user/name).")
    if not upload:
        raise TrainingError(
            f"A job cannot read {source} on this computer; allow with --upload that it is copied to {input_id}, a "
            "private data set of yours, or name one on the Hub."
        )
    name, packed = pack(path)
    files += [CommitOperationAdd(inside, file) for inside, file in packed.items()]
    return f"{_INPUT}/{name}"


def _data_files(path: Path, scratch: Path, **names: Any) -> tuple[str, dict[str, Path]]:
    """One ZIP, whatever the data set is, of what the names of `load` say."""
    splits = load_dataset(path, **names)
    if path.suffix.lower() != ".zip":
        path = export_dataset(splits, scratch / f"{path.resolve().name}.zip")
    return path.name, {path.name: path}


def _base_files(path: Path) -> tuple[str, dict[str, Path]]:
    """All that opens the checkpoint in the folder `path`, in whichever layout."""
    name = f"base/{path.resolve().name}"
    known = [path / file for file in (CONFIG_FILE, PROCESSOR_FILE, INDEX_FILE, CARD_FILE) if (path / file).is_file()]
    return name, {f"{name}/{file.name}": file for file in [*known, *sorted(path.glob("*.safetensors"))]}

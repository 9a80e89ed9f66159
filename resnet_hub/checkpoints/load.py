"""Reads checkpoints of folders and Hub repos. Pickles are never opened."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.checkpoints.folder import (
    CALIBRATION_FILE,
    CARD_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    PROCESSOR_FILE,
    WEIGHTS_FILE,
    check_head,
    list_some,
    storage_dtype,
)
from resnet_hub.checkpoints.source import CheckpointSource, missing_file_message
from resnet_hub.config import ResNetConfig
from resnet_hub.convert.config_json import parse_config
from resnet_hub.errors import (
    CheckpointError,
    ConfigError,
    memory_errors,
)
from resnet_hub.hub_client.errors import first_line

if TYPE_CHECKING:
    from torch import Tensor


_MAX_CALIBRATION = 2**20  # bytes; of 1,202 layers it has 250,000
_MAX_INDEX_BYTES, _MAX_PARTS = 16 * 2**20, 1000


class Checkpoint(NamedTuple):
    """What a checkpoint folder holds."""

    config: ResNetConfig
    weights: "dict[str, Tensor]"  # torchvision's key names, on the CPU, in the dtype of the file
    card: str | None
    calibration: bytes | None = None  # of int8, as the file has it

    @property
    def dtype(self) -> str:
        """Of the weights in the file: "float32", or the lowest precision where they are mixed."""
        return storage_dtype(self.weights)


def load_checkpoint(source: str | Path, *, weights: str | None = None, **hub: Any) -> Checkpoint:
    """The checkpoint in a folder, or in the Hub repo `user/name`; of a repo, all files are of one commit.

    `weights` names the file, where there are several. `hub` takes `subfolder`, `revision` (branch, tag, commit),
    `token`, `cache_dir` and `local_files_only`. The config is read first: what does not open here costs no download.
    Without a connection the cached copy is used. Raises `CheckpointError` for a folder or repo that is incomplete or
    disagrees with itself, `ConfigError` for a config that describes no network, `HubError` where the Hub refuses or a
    file comes damaged.
    """
    files = CheckpointSource(source, **hub)
    config = _read_config(files)
    names = _weight_files(files, weights)
    files.check_size(names, config)
    folder = files.get(*names, CARD_FILE, CALIBRATION_FILE)
    tensors = _read_weights(folder, names, source)
    check_head(config, tensors, source)
    return Checkpoint(config, tensors, _read_card(folder), _read_calibration(folder))


def read_config(source: str | Path, **hub: Any) -> ResNetConfig:
    """The config alone, a few kilobytes; arguments and errors as in `load_checkpoint`."""
    return _read_config(CheckpointSource(source, **hub))


def read_card(source: str | Path, **hub: Any) -> str | None:
    """The model card alone, if there is one; arguments and errors as in `load_checkpoint`."""
    return _read_card(CheckpointSource(source, **hub).get(CARD_FILE))


def count_parameters_by_dtype(source: str | Path, *, weights: str | None = None, **hub: Any) -> dict[str, int]:
    """How many numbers the weights hold, by safetensors' name of their kind ("F32", "F16", ...), read off the header.

    Needs no torch and, of a Hub repo, no download; arguments and errors as in `load_checkpoint`.
    """
    from safetensors import SafetensorError, safe_open

    files = CheckpointSource(source, **hub)
    counts: Counter[str] = Counter()
    for name in _weight_files(files, weights):
        if files.here:
            try:
                with safe_open(files.here / name, "np") as file:
                    for key in file.keys():  # noqa: SIM118, it is no mapping
                        part = file.get_slice(key)
                        counts[part.get_dtype()] += math.prod(part.get_shape())
            except (SafetensorError, OSError, ValueError) as error:
                raise CheckpointError(
                    f"{name} of {source} is damaged ({first_line(error)}); fetch or save it again."
                ) from None
        else:
            counts.update(files.header(name).parameter_count)
    return dict(counts)


def _weight_files(files: CheckpointSource, wanted: str | None) -> list[str]:
    """The file with the weights, or the parts of it; raises `CheckpointError` where there is none, or a choice."""
    names = files.names
    if wanted is not None:
        if wanted not in names or not wanted.endswith(".safetensors"):
            raise CheckpointError(f"{files.source} has no weights {wanted}; it has {list_some(names) or 'nothing'}.")
        return [wanted]
    if WEIGHTS_FILE in names:
        return [WEIGHTS_FILE]
    if INDEX_FILE in names:
        return _parts(files.get(INDEX_FILE) / INDEX_FILE, names, files.source)
    found = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if len(found) > 1:
        raise CheckpointError(f'{files.source} has several files of weights: name one, as weights="{found[0]}".')
    if not found:
        raise files.absent(WEIGHTS_FILE)
    return found


def _parts(index: Path, names: list[str], source: str | Path) -> list[str]:
    """The files that an index of weights in parts names: files beside it, whatever it says."""
    try:
        with index.open("rb") as file:
            table = json.loads(file.read(_MAX_INDEX_BYTES))["weight_map"]
        parts = sorted(set(table.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{INDEX_FILE} of {source} is damaged; fetch or save it again.") from None
    for part in parts:
        if not isinstance(part, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", part):
            raise CheckpointError(
                f"{INDEX_FILE} of {source} names {part!r:.80}, which is no file of weights beside it."
            )
        if part not in names:
            raise CheckpointError(f"{source} has no {part}, which its {INDEX_FILE} names; fetch or save it again.")
    if not 0 < len(parts) <= _MAX_PARTS:
        raise CheckpointError(f"{INDEX_FILE} of {source} names {len(parts)} files; expected 1 to {_MAX_PARTS}.")
    return parts


def require_file(folder: Path, name: str, source: str | Path) -> Path:
    if not (folder / name).is_file():
        raise CheckpointError(missing_file_message(name, sorted(entry.name for entry in folder.iterdir()), source))
    return folder / name


def _read_config(files: CheckpointSource) -> ResNetConfig:
    if CONFIG_FILE not in files.names:
        raise files.absent(CONFIG_FILE)
    folder = files.get(CONFIG_FILE, PROCESSOR_FILE)
    processor = folder / PROCESSOR_FILE
    try:
        content = processor.read_bytes() if processor.is_file() else None
        return parse_config((folder / CONFIG_FILE).read_bytes(), content)
    except ConfigError as error:
        raise ConfigError(f"{files.source}: {error}") from None


def _read_card(folder: Path) -> str | None:
    card = folder / CARD_FILE
    return card.read_bytes().decode(errors="replace").removeprefix("\ufeff") if card.is_file() else None


def _read_calibration(folder: Path) -> bytes | None:
    file = folder / CALIBRATION_FILE
    return file.read_bytes() if file.is_file() and file.stat().st_size <= _MAX_CALIBRATION else None


def _read_weights(folder: Path, names: list[str], source: str | Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from resnet_hub.convert.state_dict import canonical_key

    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            with memory_errors(f"{name} of {source}"):
                part = load_file(require_file(folder, name, source))
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{name} of {source} is damaged ({first_line(error)}); fetch or save it again."
            ) from None
        for key, tensor in part.items():
            if (ours := canonical_key(key)) in weights:
                raise CheckpointError(f"The weights of {source} have {ours[:80]} twice, the second time in {name}.")
            weights[ours] = tensor
    return weights

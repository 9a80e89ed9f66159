"""Read checkpoints from folders and Hub repos. Pickles are never opened."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.checkpoints.files import HubFiles, LocalFiles, damaged_error, open_source
from resnet_hub.checkpoints.folder import (
    CALIBRATION_FILE,
    CARD_FILE,
    CONFIG_FILE,
    INDEX_FILE,
    PROCESSOR_FILE,
    WEIGHTS_FILE,
    check_head,
    storage_dtype,
)
from resnet_hub.config import ResNetConfig
from resnet_hub.convert.config_json import parse_config
from resnet_hub.convert.state_dict import rename_key
from resnet_hub.errors import CheckpointError, ConfigError, list_untrusted, memory_errors, one_line

if TYPE_CHECKING:
    from torch import Tensor


_MAX_CALIBRATION_BYTES = 2**20  # 1,202 layers need 250,000
_MAX_INDEX_BYTES, _MAX_SHARDS = 16 * 2**20, 1000


class Checkpoint(NamedTuple):
    """The content of a checkpoint folder."""

    config: ResNetConfig
    weights: "dict[str, Tensor]"  # torchvision's keys, on the CPU, in the dtype of the file
    card: str | None
    calibration: bytes | None = None  # the content of `onnx/int8.json`

    @property
    def dtype(self) -> str:
        """The dtype that the weights are stored as: the narrowest if they are mixed."""
        return storage_dtype(self.weights)


def load_checkpoint(source: str | Path, *, weights: str | None = None, **hub: Any) -> Checkpoint:
    """Load the checkpoint of a folder or of the Hub repo `user/name`, whose files are all of one commit.

    The config is read first, so that an unsupported model costs no download. Without a connection the cached copy is
    used.

    Args:
        source: The folder or repo.
        weights: Name of the weights file, if there are several.
        hub: `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only`: see `open_source`.

    Raises:
        CheckpointError: A file is missing or damaged, or config and weights disagree.
        ConfigError: The config is invalid, or describes a network that is not supported.
        HubError: The Hub refuses or cannot be reached, or a file arrives damaged.
    """
    files = open_source(source, **hub)
    config = _read_config(files)
    names = _find_weights_files(files, weights)
    files.check_size(names, config)
    folder = files.fetch(*names, CARD_FILE, CALIBRATION_FILE)
    tensors = _read_weights(folder, names, source)
    check_head(config, tensors, source)
    return Checkpoint(config, tensors, _read_card(folder), _read_calibration(folder))


def read_config(source: str | Path, **hub: Any) -> ResNetConfig:
    """Load the config alone, a few kilobytes; arguments and errors as in `load_checkpoint`."""
    return _read_config(open_source(source, **hub))


def read_card(source: str | Path, **hub: Any) -> str | None:
    """Load the model card alone, None where there is none; arguments and errors as in `load_checkpoint`."""
    return _read_card(open_source(source, **hub).fetch(CARD_FILE))


def count_parameters_by_dtype(source: str | Path, *, weights: str | None = None, **hub: Any) -> dict[str, int]:
    """Count the values of the weights by their safetensors dtype ("F32", "F16", ...), from the headers of the files.

    Needs no torch, and no download of the weights; arguments and errors as in `load_checkpoint`.
    """
    files = open_source(source, **hub)
    counts: Counter[str] = Counter()
    for name in _find_weights_files(files, weights):
        counts.update(files.count_parameters(name))
    return dict(counts)


def _find_weights_files(files: LocalFiles | HubFiles, requested: str | None) -> list[str]:
    """The weights file, or its shards; raises `CheckpointError` if there is none, or more than one to choose from."""
    names = files.names
    if requested is not None:
        if requested not in names or not requested.endswith(".safetensors"):
            present = list_untrusted(names) or "no files"
            raise CheckpointError(f"{files.source} has no weights {requested}. It has {present}.")
        return [requested]
    if WEIGHTS_FILE in names:
        return [WEIGHTS_FILE]
    if INDEX_FILE in names:
        return _read_shard_names(files.fetch(INDEX_FILE) / INDEX_FILE, names, files.source)
    candidates = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if len(candidates) > 1:
        raise CheckpointError(
            f'{files.source} has several weights files. Choose one, such as weights="{candidates[0]}".'
        )
    if not candidates:
        files.require(WEIGHTS_FILE)
    return candidates


def _read_shard_names(index: Path, names: list[str], source: str | Path) -> list[str]:
    """The weights files that an index lists; only files beside it are accepted."""
    try:
        with index.open("rb") as file:
            weight_map = json.loads(file.read(_MAX_INDEX_BYTES))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{INDEX_FILE} of {source} is damaged. Fetch or save it again.") from None
    for shard in shards:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", shard):
            raise CheckpointError(
                f"{INDEX_FILE} of {source} names {shard!r:.80}, which is not a weights file beside it."
            )
        if shard not in names:
            raise CheckpointError(f"{source} has no {shard}, which its {INDEX_FILE} names. Fetch or save it again.")
    if not 0 < len(shards) <= _MAX_SHARDS:
        raise CheckpointError(f"{INDEX_FILE} of {source} names {len(shards)} files; expected 1 to {_MAX_SHARDS}.")
    return shards


def _read_config(files: LocalFiles | HubFiles) -> ResNetConfig:
    files.require(CONFIG_FILE)
    folder = files.fetch(CONFIG_FILE, PROCESSOR_FILE)
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
    return file.read_bytes() if file.is_file() and file.stat().st_size <= _MAX_CALIBRATION_BYTES else None


def _read_weights(folder: Path, names: list[str], source: str | Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for name in names:
        try:
            with memory_errors(f"{name} of {source}"):
                shard = load_file(folder / name)
        except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise damaged_error(name, source, error) from None
        for key, tensor in shard.items():
            if (our_key := rename_key(key)) in weights:
                duplicate = one_line(our_key, 80)
                raise CheckpointError(f"The weights of {source} have {duplicate} twice, the second time in {name}.")
            weights[our_key] = tensor
    return weights

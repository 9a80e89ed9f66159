"""Files of weights that other programs have saved, read without running any code of theirs, and the tensors in them.

The content of a file decides how it is read, not its name. Pickles are read with torch's restricted unpickler
(`weights_only=True`). Formats that cannot be read are named in the error.

Training scripts store the weights under a name, beside optimizer states and settings, and their wrappers give the keys
prefixes. Averaged weights are preferred to raw ones. Nothing of the network, and no other tensor beside it, is left out
silently.
"""

import errno
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_hub.convert.config_json import find_unsupported_feature
from resnet_hub.errors import CheckpointError, list_untrusted, one_line

if TYPE_CHECKING:
    from torch import Tensor


_ZIP, _HEAD_BYTES, _PICKLE_BYTES = b"PK\x03\x04", 512, 2**24
# Pattern of the first bytes -> what the file is, and what to do with it
_FORMATS = {
    rb"\s*$": "is empty. Fetch it again.",
    rb"version https://git-lfs": "is a Git LFS pointer and not the weights themselves. Fetch them with `git lfs pull`.",
    rb"GGUF|ggml|ggjt|lmgg": "is a GGUF file, a format for language models. Convert its original weights instead.",
    rb"\x89HDF\r\n\x1a\n": "is an HDF5 file, as Keras writes. Only weights of PyTorch can be converted.",
    rb"\x93NUMPY": "is a NumPy array. Only weights of PyTorch can be converted.",
    rb"\x08\x01\x12.{1,5}?\n": "is a SavedModel of TensorFlow. Only weights of PyTorch can be converted.",
    rb"\x08[\x01-\x14][\x12\x22\x28\x32\x3a\x42]": "is an ONNX graph. Convert the weights that it was exported from.",
    rb".{4}TFL3": "is a TensorFlow Lite model. Only weights of PyTorch can be converted.",
    rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf": "is compressed. Unpack it first.",
    rb"\s*<(?:!DOCTYPE|!doctype|html|HTML|\?xml)": "is a web page. Fetch the weights by their direct link.",
    rb"\s*[\[{]\s*[\"\]}]": "is a JSON file. Name the weights, such as model.safetensors.",
}
# Name inside a ZIP -> the same
_ARCHIVES = {
    r"(.*/)?constants\.pkl|(.*/)?code/.*\.py": "is a TorchScript program, which holds code. Save the state dict of the "
    "model instead: torch.save(model.state_dict(), FILE).",
    r"(.*/)?(archive_format|serialized_exported_program\.json|models/.*\.json)": "is a program of torch.export. Save "
    "the state dict of the model instead: torch.save(model.state_dict(), FILE).",
    r"model\.weights\.h5": "is a Keras model. Only weights of PyTorch can be converted.",
    r".*\.npy": "is an archive of NumPy arrays. Only weights of PyTorch can be converted.",
}
_CONTAINERS = (  # dictionaries with attributes
    *("easydict.EasyDict", "addict.addict.Dict", "yacs.config.CfgNode", "fvcore.common.config.CfgNode"),
    *("detectron2.config.config.CfgNode", "mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict"),
    *("pytorch_lightning.utilities.parsing.AttributeDict", "lightning.pytorch.utilities.parsing.AttributeDict"),
    *("lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict"),
    *("ml_collections.config_dict.config_dict.ConfigDict", "timm.utils.agc.AttrDict", "munch.Munch"),
)
_VALUES = (  # settings, paths, numbers and times that training scripts store beside the weights
    *("typing.Any", "uuid.UUID", "fractions.Fraction"),
    *("decimal.Decimal", "torch.torch_version.TorchVersion"),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("list", "dict", "tuple", "set", "frozenset", "int", "float", "bool", "str", "bytes", "object")
    ),
    *("numpy.dtype", "numpy.ndarray", "numpy.bool_", "numpy.float32", "numpy.float64", "numpy.int64", "numpy.str_"),
    *(f"numpy.dtypes.{name}DType" for name in ("Float32", "Float64", "Int32", "Int64", "Bool", "Str", "Object")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig"),
    *(f"omegaconf.base.{name}" for name in ("Metadata", "ContainerMetadata", "Box", "Container", "SCMode")),
    *(f"omegaconf.nodes.{name}Node" for name in ("Any", "String", "Integer", "Float", "Boolean", "Path", "Enum")),
    "mmengine.logging.history_buffer.HistoryBuffer",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",  # as the key of its state, in old versions
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
)


class HarmlessValue:
    """Takes the place of a harmless object in a pickle, so that no code of its type runs; its content is dropped."""

    def __new__(cls, *_: Any, **__: Any) -> "HarmlessValue":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class StoredSettings(dict[Any, Any]):
    """Takes the place of `argparse.Namespace` and the like: the attributes as a dictionary."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


def _create_dict(*_: Any) -> dict[Any, Any]:
    """Takes the place of `defaultdict`."""
    return {}


def _create_list(*_: Any) -> list[Any]:
    """Takes the place of `deque`."""
    return []


def read_state_dict(path: str | Path) -> Any:
    """Read a weights file: safetensors, else a pickle of PyTorch, without running its code.

    Objects of a few harmless types are replaced: `argparse.Namespace` by its attributes, values by a `HarmlessValue`.

    Raises:
        CheckpointError: The file is missing or damaged, has a format that is not supported, or is a pickle that needs
            to run code.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder. Name the weights file in it.")
        with path.open("rb") as file:  # so that the message does not depend on the library that reads the file
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from None
    if description := _describe_format(path, head):
        raise CheckpointError(f"{path} {description}")
    try:
        if re.match(rb".{6}\0\0\{", head, re.DOTALL):
            from safetensors.torch import load_file

            return load_file(path)
        return _load_pickle(path)
    except Exception as error:  # damaged or hostile bytes can fail anywhere in the parsers
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a wrong offset in the file
            raise CheckpointError(f"Cannot read {path}: {error.strerror or error}.") from None
        raise CheckpointError(f"{path} {_describe_failure(path, str(error))}") from None


def _load_pickle(path: Path) -> Any:
    import torch

    harmless: list[Any] = [(HarmlessValue, name) for name in _VALUES]
    harmless += [(OrderedDict, name) for name in _CONTAINERS]
    harmless += [(StoredSettings, name) for name in ("argparse.Namespace", "types.SimpleNamespace")]
    harmless += [(_create_dict, "collections.defaultdict"), (_create_list, "collections.deque")]
    with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(harmless):
        warnings.simplefilter("ignore")  # about old formats; failures are raised
        return torch.load(file, map_location="cpu", weights_only=True)


def _describe_format(path: Path, head: bytes) -> str | None:
    """The format of a file without PyTorch weights, and what to do; None if it may hold weights."""
    if description := next((text for pattern, text in _FORMATS.items() if re.match(pattern, head, re.DOTALL)), None):
        return description
    if not head.startswith(_ZIP):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return None  # damaged
    for pattern, description in _ARCHIVES.items():
        if any(re.fullmatch(pattern, name) for name in names):
            return description
    if not any(name.endswith("data.pkl") for name in names):
        return "is a ZIP archive and not a weights file. Unpack it first."
    return None


def _describe_failure(path: Path, error: str) -> str:
    """Why a pickle was not opened, and what to do."""
    if function := re.search(r"GLOBAL ([\w.]+)", error):
        if b"torch.nn.modules" in _read_pickle(path):
            return (
                f"is a pickle of a whole model that would run {function[1]}. It was not opened, and nothing was run. "
                "Save its state dict instead: torch.save(model.state_dict(), FILE)."
            )
        return (
            f"is a pickle that would run {function[1]}. It was not opened, and nothing was run. Ask its author for the "
            "state dict alone, best as safetensors."
        )
    if re.search(r"Unsupported operand (14[0-9]|150)\b", error):  # opcodes of protocol 4
        return (
            "is a pickle that `torch.save` did not write. Nothing of it was run. Ask its author for the state dict, "
            "saved with torch.save or as safetensors."
        )
    return (
        "is damaged, or is not a weights file that can be read safely. Nothing of it was run. Fetch it again, or ask "
        "its author for safetensors."
    )


def _read_pickle(path: Path) -> bytes:
    """The first bytes of the pickle in a file; empty if they cannot be read."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(name) as file:
                    return file.read(_PICKLE_BYTES)
        with path.open("rb") as file:
            return file.read(_PICKLE_BYTES)
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile, NotImplementedError):
        return b""


MAX_LISTED_KEYS = 8  # keys that a message lists
_MAX_DEPTH, _MAX_MAPPINGS = 5, 1000  # of nested mappings that are searched
_PREFIX = re.compile(r"(?:(?:module|_orig_mod|timm_model)\.)+")  # of DataParallel, torch.compile, transformers
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_RENAMED = {"linear": "fc", "shortcut": "downsample"}  # names in the CIFAR repositories -> ours
_TRANSFORMERS = re.compile(
    r"(?:resnet\.)?(?:embedder\.embedder|encoder\.stages\.(\d{1,4})\.layers\.(\d{1,4})\.(?:shortcut|layer\.(\d)))"
    r"\.(convolution|normalization)(\..+)"
)
_STEM = re.compile(r"((?:.*\.)?)(?:conv1(?:\.0)?\.weight|embedder\.embedder\.convolution\.weight)")
_FIRST_BLOCK = ("layer1.0.conv1.weight", "encoder.stages.0.layers.0.layer.0.convolution.weight")
_OWN = re.compile(r"(?:conv|bn|layer|maxpool)\d*(?:\.|$)|fc\.(?:weight|bias)$")  # keys that belong to a network of ours
_HEADS = ("fc", "linear", "classifier", "head", "last_linear", "cls", "logits")  # names of a last layer
_AVERAGED = re.compile(r"(?:^|[^a-z])(?:ema|swa|avg|average|averaged|polyak|shadow)(?:[^a-z]|$)")
_COUNTER = "n_averaged"  # of torch.optim.swa_utils.AveragedModel
_OTHER_COUNTERS = {"steps", "num_updates", "decay", "n"}  # of the averages of MMEngine, Lightning and diffusion models
_RAW_BESIDE_AVERAGE = "current_model_state"  # where Lightning's WeightAveraging moves the raw weights


class StateDict(NamedTuple):
    """The tensors of a network under our keys, and the notes on what was chosen and dropped."""

    source: object
    tensors: "dict[str, Tensor]"
    notes: list[tuple[str, str]]  # topic and sentence

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}


class _Network(NamedTuple):
    """The place of tensors that look like a ResNet: all keys of a mapping that begin with a prefix."""

    path: tuple[str, ...]  # of the mapping
    prefix: str = ""
    is_averaged: bool = False

    @property
    def name(self) -> str:
        return one_line(".".join((*self.path, self.prefix)).strip("."), 80) or "the file itself"


def unwrap_state_dict(content: Any, source: object, *, choice: str | None = None, ignore: bool = False) -> StateDict:
    """Find the tensors of one network, and give them our keys.

    Args:
        content: The result of `read_state_dict`.
        source: Its name in messages.
        choice: "ema" or "raw" for averaged or raw weights, or the name of a network in the file or words of it
            ("teacher"). By default averaged weights are preferred.
        ignore: Leave out other tensors beside the network, such as those of a metric-learning or detection head.

    Raises:
        CheckpointError: The content has several networks, or other tensors beside the network.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{source} holds a {type(content).__name__}; expected a state dict: names with tensors.")
    check_settings(content, source)
    notes: list[tuple[str, str]] = []
    mappings = dict(islice(_walk(content), _MAX_MAPPINGS))
    networks = [network for path, mapping in mappings.items() for network in _find_networks(path, mapping)]
    networks = _mark_averaged(networks, mappings)
    network = _choose(networks, choice, source, notes)
    has_network = network is not None
    network = network or _Network(max(mappings, key=lambda path: len(_select_tensors(mappings[path]))))
    if network.path:
        notes.append(("wrapper", f"the weights are under {one_line('.'.join(network.path), 80)!r}"))

    separate = _list_separate_weights(mappings, network.path, networks) if has_network else {}
    outer_names = {name for name, _ in separate}
    ignored = [key for key in _list_ignored(mappings, network, networks) if key not in outer_names]
    prefixes = {other.prefix for other in networks if other.path == network.path}
    own: dict[str, Tensor] = {}
    unused = {f"{name}.{key}".rstrip("."): tensor for (name, key), tensor in separate.items()}
    renamed: set[str] = set()
    for key, tensor in _select_tensors(mappings[network.path]).items():
        plain_key = _WRAPPED.sub("", key)
        owner = max((prefix for prefix in prefixes if plain_key.startswith(prefix)), key=len, default=network.prefix)
        our_key = rename_key(plain_key.removeprefix(owner))
        is_other = owner != network.prefix and (_OWN.match(our_key) or not network.prefix.startswith(owner))
        if _is_counter(plain_key) or is_other:
            continue  # of an average, or of another network
        if has_network and not (plain_key.startswith(network.prefix) and _OWN.match(our_key)):
            if _is_other_counter(plain_key, tensor):
                ignored.append(plain_key)
            else:
                unused[plain_key] = tensor
            continue
        if our_key in own:
            raise CheckpointError(f"{source} has {one_line(our_key, 80)} twice, once under another name.")
        own[our_key] = tensor
        renamed |= _describe_renaming(key, plain_key.removeprefix(network.prefix))
    if has_network and "fc.weight" not in own:
        _take_head(own, unused, network.prefix, notes)
    _check_unused(unused, source, notes, ignore)
    if renamed:
        notes.append(("renamed", list_untrusted(sorted(renamed), MAX_LISTED_KEYS)))
    if ignored:
        notes.append(("ignored", f"{list_untrusted(ignored, MAX_LISTED_KEYS)}: not weights"))
    return StateDict(source, own, notes)


def check_settings(content: Mapping[Any, Any], source: object) -> None:
    """Raise `CheckpointError` where stored settings describe a network that is not supported but has the same keys."""
    for _, mapping in islice(_walk(content), _MAX_MAPPINGS):
        for key, value in mapping.items():
            if feature := find_unsupported_feature(key, value):
                setting = one_line(f"{key}={value}", 80)
                raise CheckpointError(f"{source} says {setting}: its network has {feature}, which is not supported.")


def rename_key(key: str) -> str:
    """Our key for a tensor of transformers, the CIFAR repositories or a wrapper; other keys are returned unchanged."""
    key = _PREFIX.sub("", key, count=1) if _PREFIX.match(key) else key
    if match := _TRANSFORMERS.fullmatch(key):
        stage, block, number, layer, suffix = match.groups()
        parent = f"layer{int(stage) + 1}.{block}." if stage else ""
        if stage and number is None:
            return f"{parent}downsample.{0 if layer == 'convolution' else 1}{suffix}"
        return f"{parent}{'conv' if layer == 'convolution' else 'bn'}{int(number or 0) + 1}{suffix}"
    if key.startswith("classifier.1."):  # of transformers
        return "fc" + key.removeprefix("classifier.1")
    return ".".join(_RENAMED.get(name, name) for name in key.split("."))


def _walk(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """The content and all mappings in it, each once with its path; the outer ones first."""
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    seen = {id(content)}  # a pickle can hold a mapping many times, even in itself
    for _ in range(_MAX_DEPTH + 1):
        yield from level
        inner = [((*path, key), value) for path, mapping in level for key, value in mapping.items()]
        level = []
        for path, value in inner:
            if isinstance(path[-1], str) and isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                level.append((path, value))


def _select_tensors(mapping: Mapping[Any, Any]) -> "dict[str, Tensor]":
    from torch import Tensor

    return {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _find_networks(path: tuple[str, ...], mapping: Mapping[Any, Any]) -> list[_Network]:
    keys = {_WRAPPED.sub("", key): None for key in _select_tensors(mapping)}
    prefixes = dict.fromkeys(match[1] for key in keys if (match := _STEM.fullmatch(key)))
    return [_Network(path, prefix) for prefix in prefixes if any(prefix + first in keys for first in _FIRST_BLOCK)]


def _mark_averaged(networks: list[_Network], mappings: Mapping[tuple[str, ...], Mapping[Any, Any]]) -> list[_Network]:
    """The networks, each with whether it is an average: by its name, or by the counter beside it."""

    def is_averaged(network: _Network) -> bool:
        counters = [key.removesuffix(_COUNTER) for key in _select_tensors(mappings[network.path]) if _is_counter(key)]
        if any(network.prefix.startswith(prefix) for prefix in counters):
            return True
        if network.path and (*network.path[:-1], _RAW_BESIDE_AVERAGE) in mappings:
            return network.path[-1] != _RAW_BESIDE_AVERAGE
        words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", network.name)
        return bool(_AVERAGED.search(words.lower()))

    return [network._replace(is_averaged=is_averaged(network)) for network in networks]


def _choose(
    networks: list[_Network], choice: str | None, source: object, notes: list[tuple[str, str]]
) -> _Network | None:
    """The network to convert; None if there is none."""
    averaged, raw = ([network for network in networks if network.is_averaged is flag] for flag in (True, False))
    is_named = choice not in (None, "raw", "ema")
    if is_named:
        chosen = [network for network in networks if f".{choice}." in f".{network.name}."]
        chosen = [network for network in chosen if network.name == choice] or chosen
    else:
        chosen = (averaged or raw) if choice is None else averaged if choice == "ema" else raw
    if networks and not chosen and not is_named:
        present, absent = ("averaged", "raw") if choice == "raw" else ("raw", "averaged")
        raise CheckpointError(f"{source} has no {absent} weights, only {present} ones. Leave out --weights {choice}.")
    if networks and len(chosen) != 1:
        names = [network.name for network in chosen or networks]
        cause = "holds several networks" if chosen else f"has no network {one_line(str(choice), 80)!r} but these"
        raise CheckpointError(
            f"{source} {cause}: {list_untrusted(names, MAX_LISTED_KEYS)}. Choose one, such as --weights {names[0]}."
        )
    if is_named:
        notes.extend(("weights", f"{network.name}, as requested") for network in chosen)
    elif averaged and choice != "raw":
        others = f"; for the raw ones: --weights raw ({raw[0].name})" if raw else ""
        notes.append(("weights", f"averaged ({averaged[0].name}){', as requested' if choice else ''}{others}"))
    elif averaged:
        notes.append(("weights", f"raw ({raw[0].name}), as requested"))
    return chosen[0] if chosen else None


def _list_ignored(
    mappings: Mapping[tuple[str, ...], Mapping[Any, Any]], network: _Network, networks: list[_Network]
) -> list[object]:
    """The keys beside the path of the network that hold no other network, and those beside its tensors without one."""
    ignored: list[object] = []
    for depth, name in enumerate(network.path):
        path = network.path[:depth]
        others = {other.path[depth] for other in networks if other.path[:depth] == path and len(other.path) > depth}
        ignored += [key for key in mappings[path] if key != name and key not in others]
    mapping = mappings[network.path]
    tensors = _select_tensors(mapping)
    return ignored + [key for key in mapping if key not in tensors or _is_counter(key)]


def _describe_renaming(key: str, inner_key: str) -> set[str]:
    """The changes of a key, for a note; `inner_key` is the key without the prefix."""
    match = _PREFIX.match(inner_key)
    inner_key = inner_key[match.end() :] if match else inner_key
    changes = {f"{name} to {_RENAMED[name]}" for name in inner_key.split(".") if name in _RENAMED}
    if _TRANSFORMERS.search(inner_key):
        changes.add("those of transformers to ours")
    if not key.endswith(inner_key):  # some modules were compiled alone
        return changes | {f"{match[0]} removed" for match in _WRAPPED.finditer(key)}
    return changes | {f"{prefix} removed" for prefix in (key.removesuffix(inner_key),) if prefix}


def _list_separate_weights(
    mappings: Mapping[tuple[str, ...], Mapping[Any, Any]], path: tuple[str, ...], networks: list[_Network]
) -> "dict[tuple[str, str], Tensor]":
    """The weights beside the mapping of a network, such as those of a head, by their mapping's name and their key.

    Counters, random states and the like are none: weights have two dimensions or more, and so has one of their mapping.
    """
    if not path:
        return {}
    outer = mappings[path[:-1]]
    groups = {name: _select_tensors(mappings.get((*path[:-1], name), {})) for name in outer if isinstance(name, str)}
    groups = {name: group for name, group in groups.items() if not any(n.path == (*path[:-1], name) for n in networks)}
    weights = {
        (name, key): tensor for name, group in groups.items() if _has_matrix(group) for key, tensor in group.items()
    }
    return weights | {(key, ""): tensor for key, tensor in _select_tensors(outer).items() if _has_matrix({key: tensor})}


def _has_matrix(tensors: "Mapping[str, Tensor]") -> bool:
    return any(tensor.ndim > 1 and tensor.is_floating_point() for tensor in tensors.values())


def _take_head(
    own: "dict[str, Tensor]", unused: "dict[str, Tensor]", prefix: str, notes: list[tuple[str, str]]
) -> None:
    """Move the weight and bias of the head to `own`, if there is a single one of one linear layer, under any name."""
    groups: dict[str, dict[str, Tensor]] = {}
    parents = [prefix[: match.end()] for match in re.finditer(r"\.", prefix)][::-1]
    for key, tensor in unused.items():
        parent = next((parent for parent in parents if key.startswith(parent)), "")
        name = key.removeprefix(parent).partition(".")[0]
        if name in _HEADS:
            groups.setdefault(f"{parent}{name}", {})[key] = tensor
    linear = []
    for group in groups.values():
        weight = next((key for key in group if key.endswith(".weight")), "")
        bias = f"{weight.removesuffix('weight')}bias"
        if group.keys() == {weight, bias} and (group[weight].ndim, group[bias].ndim) == (2, 1):
            linear.append((weight, bias))
    if len(linear) == 1:
        [(weight, bias)] = linear
        own["fc.weight"], own["fc.bias"] = unused.pop(weight), unused.pop(bias)
        notes.append(("head", f"taken from {one_line(weight.removesuffix('.weight'), 80)}, its linear layer"))


def _check_unused(unused: Mapping[str, Any], source: object, notes: list[tuple[str, str]], ignore: bool) -> None:
    """Raise `CheckpointError` for tensors beside the network, or note that they are left out."""
    if not unused:
        return
    names = (
        f"{len(unused)} {'tensors' if len(unused) > 1 else 'tensor'} ({list_untrusted(list(unused), MAX_LISTED_KEYS)})"
    )
    if not ignore:
        has_head = any({"fc", "linear"} & {*key.split(".")} for key in unused)
        reason = " Of heads, one linear layer is supported." if has_head else ""
        raise CheckpointError(
            f"{source} has {names} beside the network, which would be lost.{reason} To leave them out: --ignore."
        )
    notes.append(("left out", f"{names}, as requested: they do not belong to the network"))


def _is_counter(key: object) -> bool:
    return isinstance(key, str) and key.split(".")[-1] == _COUNTER


def _is_other_counter(key: str, tensor: "Tensor") -> bool:
    """Whether a tensor beside the network counts the steps of an average, or is its decay."""
    return key.split(".")[-1] in _OTHER_COUNTERS and tensor.numel() == 1

"""Read weights files of other libraries without running their code.

The content of a file decides how it is read, not its name. Pickles are read with torch's restricted unpickler
(`weights_only=True`). Formats that cannot be read are named in the error."""

import errno
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from resnet_hub.errors import CheckpointError

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
    """What a file is that holds no weights of PyTorch, and what to do; None if it may hold some."""
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

"""The web page as a Hugging Face Space: its files, and how they are uploaded. Works from a clone and from a wheel.

A Space is made of this package, the checkpoint folders that ship with it, `app.py`, `requirements.txt` and a README.md
whose front matter configures it. Everything is the same on any hardware, so that a Space can be duplicated to another.
"""

from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_hub.checkpoints.default_model import BASE_ON_CPU, BASE_ON_GPU, PREDICT_MODEL
from resnet_hub.checkpoints.push import check_creation, select_upload_files
from resnet_hub.checkpoints.save import CONFIG_FILE, WEIGHTS_FILE
from resnet_hub.errors import CheckpointError, HubError, list_untrusted, one_line
from resnet_hub.hub_client.errors import hub_errors, is_token_error
from resnet_hub.hub_client.listing import RepoListing, read_listing
from resnet_hub.hub_client.repo_name import is_repo_name
from resnet_hub.hub_client.retry import call_once, retry_call
from resnet_hub.hub_client.upload import upload_large_files
from resnet_hub.included_models import INCLUDED_FOLDER
from resnet_hub.package_files import list_package_files
from resnet_hub.requirements import GRADIO_VERSION, HEIC, LIBRARY, ONNX, PAGE, TRAIN
from resnet_hub.version import __version__

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import SpaceInfo

HARDWARE = ("cpu-basic", "zero-a10g", "t4-small")  # the Hub has more: `hf spaces hardware` lists them
APP_FILE, CARD_FILE, REQUIREMENTS_FILE, LICENSE_FILE = "app.py", "README.md", "requirements.txt", "LICENSE"
SHELF_FOLDER = "weights"
# ZeroGPU has builds of torch up to this version, and fails to build a Space whose range holds none of them.
_ZERO_GPU_TORCH = "<2.14"
_ZERO_GPU = ("spaces>=0.51",)  # does nothing on other hardware
_APP = Path(__file__).with_name("demo") / APP_FILE  # as app.py of a clone
_MARKER = "resnet_hub/version.py"  # a Space with this file was made from this package
_NEW_SPACE = {".gitattributes", CARD_FILE}  # what the Hub puts into a new Space

_CARD = f"""
# resnet_hub

Label a photo with a ResNet, see which pixels support the label, train a model on your own photos, and share it on
the Hugging Face Hub.

*Duplicate this Space* copies the page to your account. It needs no secrets: visitors sign in with their own account to
push a model.

Made by `resnet-hub deploy` of resnet_hub {__version__}. The model cards in `{SHELF_FOLDER}` name the licenses of the
weights.
"""


def build_front_matter(hardware: str = HARDWARE[0]) -> dict[str, Any]:
    """Return the configuration of the Space, which is the front matter of its README.md.

    Args:
        hardware: What the Hub suggests to those who duplicate the Space.
    """
    models = list(dict.fromkeys((PREDICT_MODEL, BASE_ON_CPU, BASE_ON_GPU)))
    return {
        "title": "resnet_hub",
        "emoji": "🌷",
        "colorFrom": "indigo",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": GRADIO_VERSION,
        "python_version": "3.12",  # one of the two that ZeroGPU has
        "app_file": APP_FILE,
        "license": "apache-2.0",
        "short_description": "Label a photo, train your own ResNet, share it",
        "tags": ["resnet", "image-classification", "safetensors", "timm"],
        "models": models,
        "hf_oauth": True,
        "hf_oauth_scopes": ["contribute-repos"],
        "suggested_hardware": hardware,
        "preload_from_hub": [f"{model} {CONFIG_FILE},{WEIGHTS_FILE},{CARD_FILE}" for model in models],
    }


# Of a Space that is updated, these keep the values that its owner may have changed.
_OWNERS_KEYS = {"title", "emoji", "colorFrom", "colorTo", "license", "short_description", "tags", "models"}


def build_requirements() -> str:
    """Return the content of the Space's requirements.txt."""
    library = (f"{line},{_ZERO_GPU_TORCH}" if line.startswith("torch>") else line for line in LIBRARY)
    return "\n".join([*library, *PAGE, *HEIC, *TRAIN, *ONNX, *_ZERO_GPU, ""])


def build_space(hardware: str = HARDWARE[0]) -> dict[str, bytes | Path]:
    """Collect the files of the Space.

    Args:
        hardware: As in `build_front_matter`.

    Returns:
        For each path in the Space, its content or the file of this computer that has it.

    Raises:
        CheckpointError: This installation has no checkpoint folders.
    """
    checkpoints = sorted(path.parent for path in INCLUDED_FOLDER.glob(f"[!.]*/{CONFIG_FILE}"))
    if not checkpoints:
        raise CheckpointError(
            f"There is no checkpoint folder in {INCLUDED_FOLDER}. Install the package again, or clone it."
        )
    files: dict[str, bytes | Path] = {
        CARD_FILE: _compose_card(build_front_matter(hardware), _CARD),
        APP_FILE: _APP,
        REQUIREMENTS_FILE: build_requirements().encode(),
        **list_package_files(),
    }
    if license_file := _find_license():
        files[LICENSE_FILE] = license_file
    for folder in checkpoints:
        own_files = select_upload_files(folder).files
        files |= {f"{SHELF_FOLDER}/{folder.name}/{name}": path for name, path in own_files.items()}
    return files


def deploy(
    repo_id: str, *, hardware: str | None = None, private: bool | None = None, token: str | bool | None = None
) -> str:
    """Create a Space from this package, or update one, in one commit.

    Of a Space that exists, files of this package and of its checkpoints are replaced or deleted; all others stay, and
    so do the text, the title and the colors of its README.md.

    Args:
        repo_id: The Space, as user/name.
        hardware: The hardware to request, such as those of `HARDWARE`; by default that of the Space, or cpu-basic.
        private: Whether a new Space is private; an existing public one is then refused.
        token: A token of the Hub; None for the one that is logged in.

    Returns:
        The URL of the Space.

    Raises:
        HubError: The token cannot write to the Space, the hardware is not available to its owner, the Space has another
            SDK or other content, or the Hub cannot be reached. Nothing was uploaded.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, errors, get_token

    check_name(repo_id)
    with hub_errors(repo_id, token=token, writing=True):
        if token is False or not (isinstance(token, str) or get_token()):
            raise errors.LocalTokenNotFoundError
        api = HfApi(token=token, library_name="resnet_hub")
        space = _find_space(api, repo_id)
        if space is None:
            check_creation(api, repo_id)
            _create(api, repo_id, hardware or HARDWARE[0], private)
            space = retry_call(api.space_info, repo_id)
        else:
            check_name(repo_id := space.id)  # of a renamed Space the present one
            _check_space(api, repo_id, space, private)
            if hardware and hardware != _get_hardware(space):
                _request_hardware(api, repo_id, hardware)
        listing = read_listing(repo_id, space)
        files = build_space(hardware or _get_hardware(space) or HARDWARE[0])
        if _MARKER in listing.sizes and CARD_FILE in listing.sizes:
            files[CARD_FILE] = _merge_cards(api, repo_id, listing, hardware)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        upload_large_files(api, repo_id, additions, repo_type="space")
        call_once(
            partial(api.create_commit, repo_id),
            [*additions, *(CommitOperationDelete(name) for name in _list_stale(listing, files))],
            repo_type="space",
            commit_message=f"Deploy resnet_hub {__version__}",
            parent_commit=listing.commit,  # a commit at the same time is detected, not overwritten
        )
    return f"{constants.ENDPOINT}/spaces/{repo_id}"


def check_name(name: str) -> None:
    """Raise `HubError` unless `name` is one that a Space can have, with its owner."""
    if not is_repo_name(name):
        raise HubError(f"{one_line(name)!r} is not the name of a Space. Write user/name.")


def _find_space(api: "HfApi", repo_id: str) -> "SpaceInfo | None":
    from huggingface_hub import errors

    try:
        return retry_call(api.space_info, repo_id)
    except errors.RepositoryNotFoundError as error:
        if is_token_error(error.response):
            raise
        return None


def _check_space(api: "HfApi", repo_id: str, space: "SpaceInfo", private: bool | None) -> None:
    """Raise `HubError` unless the Space may be written to and holds nothing but an older version of this page."""
    from huggingface_hub import errors

    try:
        retry_call(api.auth_check, repo_id, repo_type="space", write=True)
    except errors.HfHubHTTPError as error:
        if error.response.status_code != 403:
            raise
        raise HubError(f"The token cannot write to the Space {repo_id}. Use one that can, or another name.") from None
    if space.sdk not in (None, "gradio"):
        raise HubError(f"{repo_id} is a Space with the SDK {one_line(space.sdk)}, not gradio. Deploy to another name.")
    names = read_listing(repo_id, space).sizes.keys()
    if _MARKER not in names and (others := sorted(names - _NEW_SPACE)):
        raise HubError(
            f"The Space {repo_id} has files of another app: {list_untrusted(others)}. Deploy to another name, or "
            "delete them first."
        )
    if private and space.private is not True:
        raise HubError(
            f"The Space {repo_id} exists and is public. Make it private in its settings, or leave out --private."
        )


def _create(api: "HfApi", repo_id: str, hardware: str, private: bool | None) -> None:
    from huggingface_hub import errors

    settings: dict[str, Any] = {"repo_type": "space", "space_sdk": "gradio", "space_hardware": hardware}
    try:
        retry_call(api.create_repo, repo_id, private=private, **settings)
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (400, 402, 403):
            raise
        raise _hardware_error(f"The Space {repo_id} cannot be created on", hardware, error) from None


def _request_hardware(api: "HfApi", repo_id: str, hardware: Any) -> None:
    from huggingface_hub import errors

    try:
        retry_call(api.request_space_hardware, repo_id, hardware)
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (400, 402, 403):
            raise
        raise _hardware_error(f"The Space {repo_id} cannot have", hardware, error) from None


def _hardware_error(failure: str, hardware: str, error: Any) -> HubError:
    reason = one_line(error.server_message or error)
    return HubError(f"{failure} {hardware}: {reason}. Nothing was uploaded; choose another --hardware.")


def _get_hardware(space: "SpaceInfo") -> str | None:
    """Return the hardware that was last requested for a Space, if the Hub reports it."""
    runtime = space.runtime
    return (runtime.requested_hardware or runtime.hardware) if runtime else None


def _list_stale(listing: RepoListing, files: dict[str, bytes | Path]) -> list[str]:
    """Return the files of the Space that an older version of this package or of its checkpoints had."""
    ours = ["resnet_hub/", *{f"{name.rpartition('/')[0]}/" for name in files if name.startswith(f"{SHELF_FOLDER}/")}]
    return sorted(name for name in listing.sizes.keys() - files.keys() if name.startswith(tuple(ours)))


def _merge_cards(api: "HfApi", repo_id: str, listing: RepoListing, hardware: str | None) -> bytes:
    """Return the README.md of a Space with the configuration of this version, and what its owner wrote."""
    from huggingface_hub import RepoCard

    download = partial(api.hf_hub_download, repo_id, CARD_FILE, repo_type="space", revision=listing.commit)
    text = Path(retry_call(download)).read_bytes().decode(errors="replace")
    card: Any = RepoCard(text, ignore_metadata_errors=True)
    old, new = card.data.to_dict(), build_front_matter(hardware or HARDWARE[0])
    kept = {key: old[key] for key in _OWNERS_KEYS & old.keys()}
    if not hardware and "suggested_hardware" in old:
        kept["suggested_hardware"] = old["suggested_hardware"]
    return _compose_card(old | new | kept, card.text)


def _compose_card(front_matter: dict[str, Any], text: str) -> bytes:
    from huggingface_hub.utils import yaml_dump

    header = yaml_dump(front_matter, sort_keys=False)
    return f"---\n{header}---\n{text}".encode()


def _find_license() -> Path | None:
    """Return the license of this package: beside it in a clone, among its metadata where it is installed."""
    if (path := Path(__file__).parents[1] / LICENSE_FILE).is_file():
        return path
    try:
        files = metadata.files("resnet_hub") or ()
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == LICENSE_FILE), None)

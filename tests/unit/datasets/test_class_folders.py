"""The rules of class folders, applied to paths: the examples of the module, and properties of any paths."""

from pathlib import PurePosixPath

import pytest
from helpers.fuzz import cases
from hypothesis import given
from hypothesis import strategies as st

from resnet_hub.datasets.class_folders import Folder, find_empty_folders, infer_classes

EXAMPLES = {
    "photos/cat/1.png photos/dog/1.png photos/cover.png": ["train cat", "train dog", None],
    "train/cat/1.png val/cat/1.png sample/cat/1.png": ["train cat", "validation cat", None],
    "bus/1.png train/1.png": ["train bus", "train train"],
    "train/cat/1.png train/dog/1.png": ["train cat", "train dog"],
    "cat/1.png cat/more/2.png dog/1.png": ["train cat", "train cat", "train dog"],
    "cat/images/1.png dog/images/1.png": ["train cat", "train dog"],
    "one/cat/1.png two/cat/1.png two/dog/1.png": ["train cat", "train cat", "train dog"],
    "raw/cat/1.png new/train/cat/1.png new/val/cat/1.png": [None, "train cat", "validation cat"],
    "train/1.png test1/1.png": [None, None],
    "images/1.png masks/1.png": [None, None],
    "images_001/1.png images_002/1.png": [None, None],
    "train/cat/1.png train/dog/1.png val/images/1.png": ["train cat", "train dog", None],
}


@pytest.mark.parametrize("paths", EXAMPLES)
def test_examples(paths: str) -> None:
    folders = [PurePosixPath(path).parts[:-1] for path in paths.split()]
    classes, merged = infer_classes(set(folders))
    assert [" ".join(classes[folder]) if folder in classes else None for folder in folders] == EXAMPLES[paths]
    assert merged == ({"cat": ["one/cat", "two/cat"]} if paths.startswith("one") else {})


NAMES = st.sampled_from(["cat", "dog", "train", "val", "images", "a%2Fb"])


@cases(200)
@given(st.sets(st.lists(NAMES, max_size=4).map(tuple)), st.lists(NAMES, max_size=2).map(tuple))
def test_a_wrapper_changes_nothing(folders: set[Folder], wrapper: Folder) -> None:
    """Two folders below it make `wrapper` one; a lone folder would be the class itself."""
    folders |= {("x", "train"), ("y", "val")}
    classes, _ = infer_classes(folders)
    wrapped, _ = infer_classes({(*wrapper, *folder) for folder in folders})
    assert wrapped == {(*wrapper, *folder): value for folder, value in classes.items()}


def test_empty_folders() -> None:
    folders = [".", "cat", "dog", "dog/more", "bird", "bird/small", ".git", ".git/objects", "cat/extra"]
    assert find_empty_folders(folders, {("cat",), ("dog", "more")}) == ["bird", "cat/extra"]

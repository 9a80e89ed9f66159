"""Finds duplicate and near-duplicate images by fingerprints of 1 KB each, in time linear in the number of images."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from resnet_hub.datasets.dataset import ImageDataset, ImageRef
from resnet_hub.images.load import load_image

_SIDE = 32  # pixels of the thumbnail that the hash is computed from; half as many are compared
_HASH_BITS = 8  # of 64 that may differ; candidates share one of four bands of 16 bits, as nearly all such pairs do
_NEIGHBORS = 64  # candidates compared with each image in each band: thousands of equal hashes stay linear
_MEAN_DIFFERENCE = 8.0  # of 255, between thumbnails; JPEG at quality 30 or half the size change them by less
_CHUNK = 2048  # pairs compared at a time, 3 MB
_MAX_CACHED = 5_000  # fingerprints: a training would hold all of its report


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that look the same: copies of one file, or one image saved again, resized or photographed twice."""

    images: tuple[ImageRef, ...]
    files: tuple[int, ...]  # a number for each image; equal numbers mean identical bytes

    @property
    def is_exact(self) -> bool:
        """Whether all images are copies of one file."""
        return len(set(self.files)) == 1

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "DuplicateGroup":
        images = row["images" if "images" in row else "pictures"]  # the key in version 0.1
        return cls(tuple(ImageRef(*image) for image in images), tuple(row["files"]))

    @property
    def splits(self) -> set[str]:
        return {image.split for image in self.images}

    @property
    def labels(self) -> set[str]:
        return {image.label for image in self.images}


class Fingerprint(NamedTuple):
    """The sizes of an image, and what identifies it and its copies."""

    digest: bytes  # of the file
    bytes: int
    width: int  # pixels, upright
    height: int
    hash: int  # difference hash, 64 bits
    thumbnail: np.ndarray  # uint8 (_SIDE / 2, _SIDE / 2, 3)


_cache: dict[bytes, Fingerprint] = {}  # by digest: the page reports on the same images twice


def compute_fingerprint(images: ImageDataset, index: int) -> Fingerprint:
    """Decode an image and compute its fingerprint. Raises `ImageError`."""
    content = images.read(index)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    if cached := _cache.get(digest):
        return cached
    image = load_image(content, name=images.name(index).rpartition("/")[2])
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    gray = np.asarray(small.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits(gray[:, 1:] > gray[:, :-1])  # dHash: is a pixel brighter than its left neighbor
    thumbnail = np.asarray(small.resize((_SIDE // 2, _SIDE // 2), Image.Resampling.BOX))
    if len(_cache) >= _MAX_CACHED:
        _cache.clear()
    fingerprint = Fingerprint(digest, len(content), *image.size, int.from_bytes(bits.tobytes()), thumbnail)
    _cache[digest] = fingerprint
    return fingerprint


def find_duplicates(fingerprints: Sequence[Fingerprint]) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Yield the groups of images that look the same, ordered by their first image.

    Yields:
        The indices of a group, and as many file numbers: equal numbers mean identical bytes.
    """
    parent = list(range(len(fingerprints)))  # a union-find forest

    def find_root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first: dict[bytes, int] = {}
    identical = [first.setdefault(image.digest, index) for index, image in enumerate(fingerprints)]
    for one, other in [*enumerate(identical), *_find_similar(fingerprints, sorted(first.values()))]:
        one, other = sorted((find_root(one), find_root(other)))
        parent[other] = one
    groups = defaultdict(list)
    for index in range(len(fingerprints)):
        groups[find_root(index)].append(index)
    for group in groups.values():
        if len(group) > 1:
            number_of = {index: number for number, index in enumerate(group)}
            yield group, tuple(number_of[identical[index]] for index in group)


def _find_similar(fingerprints: Sequence[Fingerprint], indices: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of `indices` whose hashes and thumbnails hardly differ."""
    if len(indices) < 2:
        return
    hashes = np.array([fingerprints[index].hash for index in indices], np.uint64)
    thumbnails = np.stack([fingerprints[index].thumbnail for index in indices])
    for shift in range(0, 64, 16):
        band = (hashes >> np.uint64(shift)) & np.uint64(0xFFFF)
        order = np.lexsort((hashes, band))
        for step in range(1, min(_NEIGHBORS, len(indices) - 1) + 1):
            one, other = order[:-step], order[step:]
            is_candidate = band[one] == band[other]
            if not is_candidate.any():
                break
            is_candidate &= np.bitwise_count(hashes[one] ^ hashes[other]) <= _HASH_BITS
            pairs = np.stack([one[is_candidate], other[is_candidate]], 1)
            for chunk in np.split(pairs, range(_CHUNK, len(pairs), _CHUNK)):
                pixels, others = (thumbnails[chunk[:, side]].astype(np.int16) for side in (0, 1))
                difference = np.abs(pixels - others).mean((1, 2, 3))
                yield from ((indices[a], indices[b]) for a, b in chunk[difference <= _MEAN_DIFFERENCE])

"""Decodes the file names of a ZIP, whose encoding it often does not state, and of folders and tars.

In this order: UTF-8 where an entry says so, the Unicode Path field of Info-ZIP, and else one encoding for all other
names of the ZIP: UTF-8 if all are valid, or the encoding of a system in which they look most like words.
"""

import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

_UTF8_FLAG = 0x800
_UNICODE_PATH = 0x7075  # ID of the extra field
_DISTINCT_HANGUL = 8  # distinct characters that hardly all lie in the rows of Hangul if they are hanzi


def decode_names(entries: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Return the name of each entry with forward slashes: Windows tools write backslashes."""
    names = [_decode_stated(entry) for entry in entries]
    raw_names = [_get_raw(entry) for entry, name in zip(entries, names, strict=True) if name is None]
    encoding = choose_encoding(raw_names) if raw_names else ""
    unstated = iter(raw_names)
    decoded = [name if name is not None else next(unstated).decode(encoding, "replace") for name in names]
    return [name.split("\0")[0].replace("\\", "/") for name in decoded]


def choose_encoding(names: Sequence[bytes]) -> str:
    """Choose the encoding in which all names are valid and look most like words; cp437, the ZIP standard's, if none."""
    best, encoding = 0.0, "cp437"
    content = b"/".join(names)
    if _is_valid(content, "utf-8"):
        return "utf-8"
    for candidate, is_common in _ENCODINGS.items():
        if _is_valid(content, candidate) and (score := _score(content.decode(candidate), is_common)) > best:
            best, encoding = score, candidate
    return encoding


def decode_surrogates(names: Sequence[str]) -> list[str]:
    """Decode names in which surrogates stand for bytes that are not UTF-8, all of them in one encoding."""
    raw_names = [name.encode(errors="surrogateescape") for name in names if not _is_encodable(name)]
    encoding = choose_encoding(raw_names) if raw_names else ""
    raw = iter(raw_names)
    return [name if _is_encodable(name) else next(raw).decode(encoding, "replace") for name in names]


def _is_encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeError:
        return False
    return True


def _decode_stated(entry: zipfile.ZipInfo) -> str | None:
    """Return the name if the entry states its encoding."""
    if entry.flag_bits & _UTF8_FLAG:
        return entry.orig_filename
    extra = entry.extra
    while len(extra) >= 4:
        field, size = struct.unpack_from("<HH", extra)
        value, extra = extra[4 : 4 + size], extra[4 + size :]
        if field == _UNICODE_PATH and len(value) > 5 and value[0] == 1:
            is_current = struct.unpack_from("<I", value, 1)[0] == zlib.crc32(_get_raw(entry))  # of the plain name
            if is_current and _is_valid(value[5:], "utf-8"):
                return value[5:].decode()
    return None


def _get_raw(entry: zipfile.ZipInfo) -> bytes:
    return entry.orig_filename.encode("cp437", "replace")  # zipfile has decoded it so


def _is_valid(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeError:
        return False
    return True


def _score(text: str, is_common: Callable[[str], bool]) -> float:
    """Return the fraction of the characters beyond ASCII that are common and, if not Latin, stand alone."""
    good = total = 0
    for before, character, after in zip(" " + text, text, text[1:] + " ", strict=False):
        if character > "\x7f":
            total += 1
            is_in_latin_word = any(other.isascii() and other.isalpha() for other in (before, after))
            good += is_common(character) and (_is_latin(character) or not is_in_latin_word)
    if is_common is _is_hanzi and len(set(text)) > _DISTINCT_HANGUL and _is_valid(text.encode("gb2312"), "euc_kr"):
        hangul = [character for character in text.encode("gb2312").decode("euc_kr") if character > "\x7f"]
        if all("\uac00" <= character <= "\ud7a3" for character in hangul) and len(set(hangul)) >= _DISTINCT_HANGUL:
            return 0
    return good / total if total else 0


def _is_latin(character: str) -> bool:
    return "À" <= character <= "ÿ" and character not in "×÷"


def _is_cyrillic(character: str) -> bool:
    return "А" <= character <= "я" or character in "ёЁ"


def _is_hangul(character: str) -> bool:
    return "\uac00" <= character <= "\ud7a3"


def _is_hanzi(character: str) -> bool:
    return 0xB0 <= character.encode("gb2312")[0] <= 0xD7  # level 1, the frequent ones


def _is_traditional(character: str) -> bool:
    return 0xA4 <= character.encode("big5")[0] <= 0xC6


def _is_japanese(character: str) -> bool:
    lead, *trail = character.encode("cp932")
    return bool(trail) and (lead in (0x82, 0x83) or 0x88 <= lead <= 0x98)


_ENCODINGS = {  # in the order of preference
    "gb2312": _is_hanzi,
    "cp932": _is_japanese,
    "euc_kr": _is_hangul,
    "big5": _is_traditional,
    "cp866": _is_cyrillic,
    "cp1251": _is_cyrillic,
    "cp437": _is_latin,
    "cp1252": _is_latin,
}

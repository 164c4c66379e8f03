"""Zip files from strangers: checked before a byte is unpacked, stored under names of our own.

The walls: no links, no paths out, no encryption, no archive inside an archive, no overlapping entries (CVE-2024-0450),
at most 100,000 entries, 20 GB or half the free disk declared, and 200 times the packed size for each entry of more than
256 MB. A wall that speaks against the whole file refuses it; one that speaks against an entry leaves out that entry and
says so.
"""

import contextlib
import os
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 20
_EOCD, _ZIP64_LOCATOR, _ZIP64_EOCD, _ENTRY = b"PK\5\6", b"PK\6\7", b"PK\6\6", b"PK\1\2"
_UTF_8 = 0x800
"""The flag of an entry whose name is UTF-8."""
_FOREIGN = (
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


class ArchiveRefused(ValueError):
    """An archive that is not opened. Its text is one sentence for people, without any name out of the archive."""


@dataclass(frozen=True)
class Limits:
    """What an archive may ask for."""

    entries: int = 100_000
    total_bytes: int = 20 * 10**9
    ratio: float = 200.0
    ratio_from_bytes: int = 1 << 28  # smaller entries, as masks, may be packed as tightly as they like
    directory_bytes: int = 64 << 20


@dataclass(frozen=True)
class Unpacked:
    """A file that came out: where it lies, and the name it had (text only, with forward slashes)."""

    path: Path
    name: str
    bytes: int


@dataclass(frozen=True)
class LeftOut:
    """An entry that stayed inside, and why."""

    name: str
    bytes: int
    reason: str


def foreign_archive(head: bytes) -> str | None:
    """The kind of an archive that we do not open (tar, 7z, rar...), told from a file's first 512 bytes; else None."""
    for magic, kind in _FOREIGN:
        if head.startswith(magic):
            return kind
    return "tar" if head[257:262] == b"ustar" else None


def is_zip(head: bytes) -> bool:
    """Whether a file's first bytes are those of a zip (npz files are zips too)."""
    return head[:4] in (b"PK\3\4", _EOCD)


def listing(path: Path, limits: Limits | None = None) -> list[zipfile.ZipInfo]:
    """The entries of a zip, folders left out, after the walls that concern the file as a whole.

    Raises:
        ArchiveRefused: not a zip, damaged, too many entries, too much declared, entries that share bytes.
    """
    limits = limits or Limits()
    _check_directory(path, limits)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError, UnicodeError):
        raise ArchiveRefused("The zip file is damaged: its table of contents cannot be read. Pack it again.") from None
    _check_overlap(infos, path.stat().st_size)
    files = [info for info in infos if not info.is_dir()]
    if not files:
        raise ArchiveRefused("The zip file is empty: there is nothing to import.")
    declared = sum(info.file_size for info in files)
    if declared > limits.total_bytes:
        raise ArchiveRefused(
            f"The zip file would unpack to {declared / 1e9:.1f} GB; at most {limits.total_bytes / 1e9:.0f} GB are "
            "allowed. Import it in parts, or as a folder."
        )
    return files


def unpack(
    path: Path, into: Path, limits: Limits | None = None, wanted: Callable[[str], bool] | None = None
) -> tuple[list[Unpacked], list[LeftOut]]:
    """Unpacks a zip into the folder `into` under generated names; with `wanted`, only the entries whose name it takes.

    Returns: the files that came out, and the entries left out with their reasons.
    Raises:
        ArchiveRefused: see `listing`; also when the declared size exceeds half of the free disk.
    """
    limits = limits or Limits()
    infos = listing(path, limits)
    entries = [each for each in zip(infos, entry_names(infos), strict=True) if wanted is None or wanted(each[1])]
    declared = sum(info.file_size for info, _ in entries)
    free = shutil.disk_usage(into).free
    if declared > free / 2:
        raise ArchiveRefused(
            f"The zip file would unpack to {declared / 1e9:.1f} GB, but only half of the free disk ("
            f"{free / 1e9:.1f} GB) may be used. Make room, or import in parts."
        )
    out: list[Unpacked] = []
    left: list[LeftOut] = []
    seen: set[str] = set()
    with zipfile.ZipFile(path) as archive:
        for number, (info, name) in enumerate(entries):
            reason = _objection(info, limits)
            if not reason and name in seen:
                reason = "a second entry of the same name"
            if reason:
                left.append(LeftOut(name, info.file_size, reason))
                continue
            seen.add(name)
            target = into / f"{number:06d}.bin"
            reason = _extract(archive, info, target)
            if reason:
                target.unlink(missing_ok=True)
                left.append(LeftOut(name, info.file_size, reason))
            else:
                out.append(Unpacked(target, name, info.file_size))
    return out, left


def plain_name(name: str) -> str:
    """A name as text to match and show: forward slashes, composed letters (as `composed`), no control or direction
    characters, no leading './'."""
    return composed(_plain(name))


def _plain(name: str) -> str:
    name = name.replace("\\", "/")
    name = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    while name.startswith("./"):
        name = name[2:]
    return name


def composed(name: str) -> str:
    """A name with its umlauts and accents as one character each (Unicode form NFC), as most programs write them; macOS
    writes the letter and its dots as two."""
    return unicodedata.normalize("NFC", name)


def entry_names(infos: Sequence[zipfile.ZipInfo]) -> list[str]:
    """The names of all entries, as `plain_name`; letters stay as they are where another entry has the composed name."""
    names = [_plain(_text(info)) for info in infos]
    there = set(names)
    return [name if composed(name) in there else composed(name) for name in names]


def _text(info: zipfile.ZipInfo) -> str:
    """The name of an entry. Where it is not marked as UTF-8 but can be read as such, it is: some programs forget the
    mark, and hardly any name in the old code page happens to be good UTF-8."""
    if not info.flag_bits & _UTF_8:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode("cp437").decode("utf-8")
    return info.filename


def _objection(info: zipfile.ZipInfo, limits: Limits) -> str:
    name = info.filename.replace("\\", "/")
    kind = info.external_attr >> 16
    if stat.S_ISLNK(kind):
        return "a link: only real files are unpacked"
    if stat.S_IFMT(kind) and not stat.S_ISREG(kind):
        return "no ordinary file"
    if name.startswith("/") or ".." in name.split("/") or (len(name) > 1 and name[1] == ":"):
        return "its name points outside the archive"
    if info.flag_bits & 0x1:
        return "encrypted: unpack it with its password first, then import the folder"
    if info.file_size > max(limits.ratio_from_bytes, limits.ratio * max(1, info.compress_size)):
        return f"packed more than {limits.ratio:.0f} times: this is how zip bombs look"
    return ""


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> str:
    written = 0
    try:
        with (
            archive.open(info) as packed,
            open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out,
        ):
            while chunk := packed.read(_CHUNK):
                if not written and _nested(chunk, info.filename):
                    return "an archive inside the archive: unpack it first"
                written += len(chunk)
                if written > info.file_size:
                    return "it holds more than it declares"
                out.write(chunk)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error):
        return "damaged inside the archive"
    except OSError as error:
        if error.errno in _FULL:
            raise
        return "damaged inside the archive"  # bz2 and lzma say so with OSError
    return "" if written == info.file_size else "damaged inside the archive"


_FULL = {28, 122}  # ENOSPC, EDQUOT


def _nested(head: bytes, name: str) -> bool:
    if foreign_archive(head[:512]):
        return True
    return is_zip(head) and not name.lower().endswith(".npz")


def _check_directory(path: Path, limits: Limits) -> None:
    """Counts the entries by hand before zipfile builds an object for each, and compares with what the file says."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
        if kind := foreign_archive(head):
            raise ArchiveRefused(f"This is a {kind} archive: only zip is opened. Unpack it and import the folder.")
        if head.startswith(b"\x1f\x8b"):
            raise ArchiveRefused("This is a gzip file: only zip is opened. Unpack it and import the folder.")
        tail_at = max(0, size - 65_557)
        file.seek(tail_at)
        tail = file.read()
        at = tail.rfind(_EOCD)
        if at < 0 or len(tail) - at < 22:
            raise ArchiveRefused("This is not a complete zip file: its table of contents is missing. Upload it again.")
        count, directory, offset = struct.unpack("<HLL", tail[at + 10 : at + 20])
        end = tail_at + at
        if at >= 20 and tail[at - 20 : at - 16] == _ZIP64_LOCATOR:
            (record,) = struct.unpack("<Q", tail[at - 12 : at - 4])
            file.seek(min(record, size))
            found = file.read(56)
            if len(found) < 56 or found[:4] != _ZIP64_EOCD:
                raise ArchiveRefused("The zip file's table of contents contradicts itself. Pack it again.")
            count, directory, offset = struct.unpack("<QQQ", found[32:56])
            end = record
        if count > limits.entries:
            raise ArchiveRefused(
                f"The zip file holds {count:,} entries; at most {limits.entries:,} are allowed. Import it in parts."
            )
        if directory > min(limits.directory_bytes, size) or directory > end:
            raise ArchiveRefused("The zip file's table of contents contradicts itself. Pack it again.")
        file.seek(end - directory)
        if _entries(file.read(directory)) != count:
            raise ArchiveRefused("The zip file's table of contents contradicts itself. Pack it again.")


def _entries(directory: bytes) -> int:
    at = count = 0
    while directory[at : at + 4] == _ENTRY and at + 46 <= len(directory):
        name, extra, comment = struct.unpack("<HHH", directory[at + 28 : at + 34])
        at += 46 + name + extra + comment
        count += 1
    return count if at == len(directory) else -1


def _check_overlap(infos: list[zipfile.ZipInfo], size: int) -> None:
    """Entries that share bytes let a small file declare a huge one; each needs at least header, name and data."""
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        if info.header_offset < end:
            raise ArchiveRefused("Entries of the zip file share the same bytes: this is how zip bombs are made.")
        end = info.header_offset + 30 + info.compress_size
    if end > size:
        raise ArchiveRefused("The zip file is cut short: entries lie behind its end. Upload it again.")

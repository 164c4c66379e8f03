"""The files of a source: found on disk, in an upload ticket or in a zip; what is plainly no scan is left aside.

Nothing is decoded here. Every file found ends in `Gathered`: as found, or left aside with a reason.
"""

import json
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from builder.archives import ArchiveRefused, composed, entry_names, foreign_archive, is_zip, listing, plain_name, unpack

SUFFIXES = frozenset(
    ".bmp .csv .dcm .dicom .gif .ima .jpeg .jpg .json .md .nhdr .nii .nii.gz .npy .npz .nrrd .pdf .png .tif .tiff .txt "  # noqa: SIM905
    ".xml .yaml .yml .zip".split()
)
"""File endings that may be written down; any other could be somebody's name."""

MAX_FILES = 1_000_000
_SYSTEM = {"thumbs.db", "desktop.ini", "ehthumbs.db", ".ds_store", "icon\r"}
_DOCUMENTS = frozenset(
    ".bib .cfg .doc .docx .dump .htm .html .ini .ipynb .json .jsonl .log .md .names .pdf .py .rst .rtf .sh .toml .tsv "  # noqa: SIM905
    ".txt .xls .xlsx .xml .yaml .yml".split()
)
_LABELS = frozenset((".json", ".names", ".txt", ".xml", ".yaml", ".yml"))
_PAPERS = ("license", "licence", "readme", "source.txt", "copying", "citation", "changelog", "notice")


class SourceRefused(ValueError):
    """A source that cannot be imported as asked. Its text is one clear sentence without personal data."""


@dataclass(frozen=True)
class Found:
    """A file of the source: where it lies, its relative name (forward slashes), its size."""

    path: Path
    name: str
    bytes: int

    @property
    def suffix(self) -> str:
        """A known ending in small letters, else "other", or "" without one."""
        return known_suffix(self.name)


@dataclass(frozen=True)
class Left:
    """A file left aside: status "skipped" (no scan) or "refused" (should have been one), and why."""

    name: str
    bytes: int
    status: str
    reason: str


@dataclass
class Gathered:
    """The files of a source before anybody asks what they mean; `texts` may tell labels, or nothing of use."""

    found: list[Found] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    texts: list[Found] = field(default_factory=list)


def known_suffix(name: str) -> str:
    """The ending of a name if it is one of `SUFFIXES`, "other" for any other, "" for none."""
    lower = PurePosixPath(name).name.lower()
    if lower.endswith(".nii.gz"):
        return ".nii.gz"
    suffix = PurePosixPath(lower).suffix
    return suffix if suffix in SUFFIXES or not suffix else "other"


def gather(root: Path, scratch: Path | None, only_labels: bool = False) -> Gathered:
    """Every file below `root`; zips are unpacked into `scratch` (or only listed where that is None).

    Args:
        only_labels: unpack of a zip only what may tell labels, tables and texts, and list the rest.

    Raises:
        SourceRefused: nothing there, not readable, too many files, or a zip given as the root that is refused.
    """
    root = Path(root)
    if not root.exists():
        raise SourceRefused("There is no file or folder at this path: check its spelling.")
    gathered = Gathered()
    try:
        for path, name in _walk(root):
            _sort_in(path, name, gathered, scratch, path == root, only_labels)
            if len(gathered.found) + len(gathered.left) + len(gathered.texts) > MAX_FILES:
                raise SourceRefused(f"The source holds more than {MAX_FILES:,} files: import it in parts.")
    except PermissionError:
        raise SourceRefused("This folder may not be read: give the program the right to read it.") from None
    if not gathered.found and not gathered.left and not gathered.texts:
        raise SourceRefused("The folder is empty: there is nothing to import.")
    return gathered


def _walk(root: Path) -> Iterable[tuple[Path, str]]:
    if not root.is_dir():
        yield root, composed(root.name)
        return
    names = root / "names.jsonl"
    if root.parent.name == "uploads" and names.is_file():
        yield from _uploads(root, names)
        return
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders.sort()
        for name in [n for n in folders if os.path.islink(os.path.join(folder, n))]:
            folders.remove(name)
            files.append(name)
        for name in sorted(files):
            path = Path(folder) / name
            yield path, _name_below(root, path)


def _name_below(root: Path, path: Path) -> str:
    """The relative name with composed letters; as it stands where another file has that one."""
    raw = path.relative_to(root).as_posix()
    name = composed(raw)
    if name == raw or not os.path.lexists(root / name):
        return name
    return name if os.path.samestat(os.lstat(root / name), os.lstat(path)) else raw


def _raise(error: OSError) -> None:
    raise error


def _uploads(root: Path, names: Path) -> Iterable[tuple[Path, str]]:
    """The files of an upload ticket lie under generated names; names.jsonl tells what the browser called them."""
    for line in names.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            told = json.loads(line)
            stored, name = str(told["file"]), plain_name(str(told["name"]))
        except (ValueError, KeyError, TypeError):
            continue  # a line cut off while it was written: that file never arrived
        if re.fullmatch(r"[0-9]+\.bin", stored) and (root / stored).is_file():
            yield root / stored, "/".join(p for p in name.split("/") if p not in ("", ".", "..")) or stored


def _sort_in(path: Path, name: str, gathered: Gathered, scratch: Path | None, alone: bool, only_labels: bool) -> None:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        gathered.left.append(Left(name, 0, "skipped", "a link: put the file itself here"))
        return
    if not stat.S_ISREG(status.st_mode):
        gathered.left.append(Left(name, 0, "skipped", "no ordinary file"))
        return
    if may_tell_labels(name):
        gathered.texts.append(Found(path, name, status.st_size))
        return
    if reason := no_scan(name):
        gathered.left.append(Left(name, status.st_size, "skipped", reason))
        return
    if name.lower().endswith(".csv"):
        gathered.found.append(
            Found(path, name, status.st_size)
        )  # perhaps the label table, which is told in other words
        return
    if not status.st_size:
        gathered.left.append(Left(name, 0, "refused", "the file is empty"))
        return
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        reason = f"it could not be read ({os.strerror(error.errno or 0)})"
        gathered.left.append(Left(name, status.st_size, "refused", reason))
        return
    if kind := foreign_archive(head):
        gathered.left.append(
            Left(name, status.st_size, "refused", f"a {kind} archive: only zip is opened; unpack it first")
        )
        return
    if is_zip(head) and not name.lower().endswith(".npz"):
        _open_zip(path, name, status.st_size, gathered, scratch, alone, only_labels)
        return
    gathered.found.append(Found(path, name, status.st_size))


def _open_zip(
    path: Path, name: str, size: int, gathered: Gathered, scratch: Path | None, alone: bool, only_labels: bool
) -> None:
    inside = "" if alone else f"{name}/"
    try:
        if scratch is None or only_labels:
            infos = listing(path)
            for info, member in zip(infos, entry_names(infos), strict=True):
                if only_labels and _tells_labels(member):
                    continue  # unpacked below
                if may_tell_labels(member):
                    gathered.texts.append(Found(path, inside + member, info.file_size))
                elif not no_scan(member):
                    gathered.found.append(Found(path, inside + member, info.file_size))
        if scratch is None:
            return
        into = scratch / f"zip-{len(gathered.found)}-{len(gathered.left)}"
        into.mkdir(parents=True, mode=0o700)
        out, left = unpack(path, into, wanted=_tells_labels if only_labels else None)
    except ArchiveRefused as error:
        if alone:
            raise SourceRefused(str(error)) from None
        gathered.left.append(Left(name, size, "refused", str(error)))
        return
    for file in out:
        reason = no_scan(file.name)
        if may_tell_labels(file.name):
            gathered.texts.append(Found(file.path, inside + file.name, file.bytes))
        elif reason:
            file.path.unlink()
            gathered.left.append(Left(inside + file.name, file.bytes, "skipped", reason))
        elif not file.bytes:
            gathered.left.append(Left(inside + file.name, 0, "refused", "the file is empty"))
        else:
            gathered.found.append(Found(file.path, inside + file.name, file.bytes))
    gathered.left.extend(Left(inside + entry.name, entry.bytes, "refused", entry.reason) for entry in left)


def may_tell_labels(name: str) -> bool:
    """Whether a file is a text of a kind that may tell labels: XML, JSON, YAML, txt; no paper and no system file."""
    lower = PurePosixPath(name).name.lower()
    is_label = PurePosixPath(lower).suffix in _LABELS and not lower.startswith(_PAPERS)
    return is_label and no_scan(name) in ("", _DOCUMENT)


def _tells_labels(name: str) -> bool:
    """Whether a file is a table, or a text that may tell labels."""
    return may_tell_labels(name) or (name.lower().endswith(".csv") and not no_scan(name))


def head_of(found: Found, size: int) -> bytes:
    """The first bytes of a file, also of one that still lies in a zip; b"" where they cannot be read."""
    try:
        with open(found.path, "rb") as file:
            head = file.read(size)
        if not is_zip(head[:4]) or PurePosixPath(found.name).suffix.lower() in (".zip", ".npz"):
            return head
        with zipfile.ZipFile(found.path) as archive:
            infos = archive.infolist()
            for info, name in zip(infos, entry_names(infos), strict=True):
                if found.name.endswith(name) and (found.name == name or found.name[: -len(name)].endswith("/")):
                    with archive.open(info) as member:
                        return member.read(size)
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zlib.error, zipfile.BadZipFile):
        return b""
    return b""


_DOCUMENT = "a text or document, no scan"


def no_scan(name: str) -> str:
    """Why a file is neither a scan nor a table by its name alone, or "" when it may be one."""
    parts = PurePosixPath(name).parts
    lower = parts[-1].lower()
    if "__MACOSX" in parts or lower in _SYSTEM or lower.startswith("._"):
        return "a file of the operating system"
    if any(part.startswith(".") for part in parts):
        return "a hidden file"
    if lower == "dicomdir":
        return "a DICOM directory: the images it lists are read themselves"
    if lower.startswith(_PAPERS) or PurePosixPath(lower).suffix in _DOCUMENTS:
        return _DOCUMENT
    return ""

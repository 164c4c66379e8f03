"""Archives that speak DICOMweb (PS3.18): what may be asked of them, their series, and results back to them.

An archive is reached under a name only. Which names there are, and where they lie, an administrator writes into
`dicomweb.json` in the data folder, or into the file that SCANLOOM_DICOMWEB names::

    {"archives": [{"name": "pacs", "title": "The department's archive", "url": "http://127.0.0.1:8042/dicom-web",
                   "user": "scanloom", "password": "...", "store": true}]}

`store` allows results to be sent there. Python's own HTTP client is enough for the four requests that are needed, and
streams a series to the disk, which a client library would hold in memory; it follows no redirect and uses no proxy, so
nothing is asked of any other place than the listed one.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

__all__ = ["Archive", "ArchiveError", "BadQuestion", "Series", "archive", "archives", "fetch", "search", "store"]

VARIABLE = "SCANLOOM_DICOMWEB"
_FILE = "dicomweb.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_UID = re.compile(r"[0-9][0-9.]{0,63}")
_BLOCK_BYTES = 1 << 20
_MOST_JSON_BYTES = 16 << 20
_MOST_STUDIES = 20
_QUIET_S = 30.0

MOST_BYTES = 4 << 30
MOST_FILES = 20_000
SPARE_BYTES = 1 << 30
"""What a fetched series may have, and what is kept free of the disk."""


class ArchiveError(ValueError):
    """An archive that cannot be asked, or a question that it cannot be asked. Its text is one sentence for people."""


class BadQuestion(ArchiveError):
    """What is asked is at fault, not the archive."""


@dataclass(frozen=True)
class Archive:
    """One archive of the administrator's list; `store`: results may be sent there."""

    name: str
    title: str
    url: str
    user: str = ""
    password: str = ""
    store: bool = False


@dataclass(frozen=True)
class Series:
    """A series of an archive: its identities there, kind of scan, body part, number of images, and day of the study."""

    study: str
    series: str
    modality: str
    images: int
    body_part: str
    date: str


# ---- the administrator's list ---------------------------------------------------------------------------------------


def archives(home: Path, environment: Mapping[str, str] | None = None) -> tuple[Archive, ...]:
    """The archives of the list, () where there is none.

    Raises:
        ArchiveError: a list that is not as it should be, or that lets others read a password.
    """
    told = (os.environ if environment is None else environment).get(VARIABLE, "")
    path = Path(told) if told else home / _FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if told:
            raise ArchiveError(f"{VARIABLE} names a file that is not there: {told}.") from None
        return ()
    except (OSError, UnicodeDecodeError):
        raise ArchiveError(f"The list of archives {path.name} cannot be read.") from None
    try:
        found = tuple(_entry(entry) for entry in json.loads(text)["archives"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(
            f'The list of archives {path.name} must be JSON like {{"archives": [{{"name", "title", "url"}}]}}.'
        ) from None
    if len({entry.name for entry in found}) < len(found):
        raise ArchiveError(f"Two archives in {path.name} have one name.")
    if any(entry.password for entry in found) and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ArchiveError(f"{path.name} holds a password that others may read: set its mode to 600.")
    return found


def _entry(told: Mapping[str, Any]) -> Archive:
    unknown = set(told) - {"name", "title", "url", "user", "password", "store"}
    name, url = told["name"], told["url"]
    if unknown or not isinstance(name, str) or not _NAME.fullmatch(name):
        wrong = f"holds {', '.join(sorted(unknown))}" if unknown else f"is called {name!r}"
        raise ArchiveError(
            f"An archive {wrong}: it has a name of small letters, digits, - and _, a title, url, user, password, store."
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ArchiveError(f"The url of archive {name} must begin with http:// or https:// and hold no password.")
    if not isinstance(told.get("store", False), bool):
        raise ArchiveError(f"`store` of archive {name} is true or false.")
    words = [str(told.get(key, "")) for key in ("title", "user", "password")]
    return Archive(name, words[0] or name, url.rstrip("/"), words[1], words[2], bool(told.get("store", False)))


def archive(home: Path, name: str) -> Archive:
    """The archive of that name; ArchiveError where the list has none."""
    known = {entry.name: entry for entry in archives(home)}
    if name not in known:
        listed = f"there is {', '.join(known)}" if known else "none is listed in dicomweb.json"
        raise BadQuestion(f"There is no archive {name[:32]!r} here: {listed}.")
    return known[name]


# ---- what is asked --------------------------------------------------------------------------------------------------


def search(
    where: Archive, *, patient: str = "", accession: str = "", study: str = "", modality: str = "", date: str = ""
) -> list[Series]:
    """The series that match (QIDO-RS); of at most 20 studies, in the order of the archive.

    Args:
        patient: the patient's number there. date: YYYYMMDD, or YYYYMMDD-YYYYMMDD.
    Raises:
        ArchiveError: nothing to look for, or the archive does not answer as it should.
    """
    asked = {"PatientID": patient, "AccessionNumber": accession, "StudyInstanceUID": study, "StudyDate": date}
    filled = {key: value.strip() for key, value in asked.items() if value.strip()}
    if not filled:
        raise BadQuestion("Say what to look for: a patient's number, an accession number, a study or a date.")
    if any("*" in value or "?" in value or len(value) > 64 for value in filled.values()):
        raise BadQuestion("What is looked for is told whole, without * and ?, in at most 64 characters.")
    if study:
        _checked(study)
    query = urlencode({**filled, "limit": _MOST_STUDIES})
    found: list[Series] = []
    for entry in _listed(where, f"/studies?{query}")[:_MOST_STUDIES]:
        uid = _value(entry, "0020000D")
        for told in _listed(where, f"/studies/{_checked(uid)}/series?includefield=00180015"):
            kind = _value(told, "00080060")
            if modality and kind != modality:
                continue
            number = _value(told, "00201209")
            found.append(
                Series(
                    uid,
                    _checked(_value(told, "0020000E")),
                    kind,
                    int(number) if number.isdigit() else 0,
                    _value(told, "00180015"),
                    _value(entry, "00080020"),
                )
            )
    return found


def fetch(where: Archive, study: str, series: str, folder: Path) -> list[Path]:
    """The files of a series (WADO-RS), streamed into `folder` as 00001.dcm, 00002.dcm, ...

    Raises:
        ArchiveError: no such series, more than what is taken, a full disk, or an answer that is none.
    """
    path = f"/studies/{_checked(study)}/series/{_checked(series)}"
    wanted = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    with _answered(where, path, {"Accept": wanted}) as (answer, headers):
        boundary = headers.get_param("boundary") if headers.get_content_type() == "multipart/related" else None
        if not isinstance(boundary, str) or not boundary:
            raise ArchiveError(f"The archive {where.name} sent something else than the images of a series.")
        found = _parts(answer, boundary.encode(), folder)
    if not found:
        raise ArchiveError(f"The archive {where.name} has no images of this series.")
    return found


def store(where: Archive, files: Sequence[Path]) -> list[str]:
    """Sends DICOM files back (STOW-RS); their identities (SOP instance UIDs) as the archive confirms them.

    Raises:
        ArchiveError: an archive that takes nothing, or that refused one of them.
    """
    if not where.store:
        raise BadQuestion(f'The archive {where.name} takes no results: its entry in the list has no "store": true.')
    boundary = secrets.token_hex(16)
    parts = [
        f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + path.read_bytes() + b"\r\n"
        for path in files
    ]
    body = b"".join(parts) + f"--{boundary}--\r\n".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    headers = {"Accept": "application/dicom+json", "Content-Type": kind}
    with _answered(where, "/studies", headers, body) as (answer, _):
        told = _json(where, answer)
    entry = told[0] if isinstance(told, list) and told else told
    if not isinstance(entry, dict) or _sequence(entry, "00081198"):
        raise ArchiveError(f"The archive {where.name} refused a result.")
    stored = [_value(item, "00081155") for item in _sequence(entry, "00081199")]
    if len(stored) != len(files):
        raise ArchiveError(f"The archive {where.name} confirmed {len(stored)} of {len(files)} results.")
    return stored


# ---- HTTP -----------------------------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *told: Any) -> None:
        """An archive that sends us elsewhere is told as an error: only the listed place is asked."""
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


@contextmanager
def _answered(
    where: Archive, path: str, headers: Mapping[str, str], body: bytes | None = None
) -> Iterator[tuple[IO[bytes], HTTPMessage]]:
    """An answer of the archive, to be read; what goes wrong is told in a sentence without any value of a scan."""
    request = urllib.request.Request(where.url + path, body, dict(headers))
    if where.user:
        given = base64.b64encode(f"{where.user}:{where.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {given}")
    try:
        with _OPENER.open(request, timeout=_QUIET_S) as answer:
            yield answer, answer.headers
    except urllib.error.HTTPError as error:
        error.close()
        why = {401: "asks for another user or password", 403: "does not allow it", 404: "does not know it"}
        said = why.get(error.code, f"answered with HTTP status {error.code}")
        raise ArchiveError(f"The archive {where.name} {said}.") from None
    except (OSError, HTTPException) as error:
        if isinstance(error, OSError) and error.filename:  # of our own disk
            raise
        why_not = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise ArchiveError(f"The archive {where.name} cannot be reached ({why_not}).") from None


def _listed(where: Archive, path: str) -> list[Mapping[str, Any]]:
    """An answer of QIDO-RS: a list of data sets in DICOM's JSON."""
    with _answered(where, path, {"Accept": "application/dicom+json"}) as (answer, _):
        if getattr(answer, "status", 200) == 204:
            return []
        told = _json(where, answer)
    if not isinstance(told, list) or not all(isinstance(entry, dict) for entry in told):
        raise ArchiveError(f"The archive {where.name} answered something that is no list.")
    return told


def _json(where: Archive, answer: IO[bytes]) -> Any:
    text = answer.read(_MOST_JSON_BYTES + 1)
    if len(text) > _MOST_JSON_BYTES:
        raise ArchiveError(f"The archive {where.name} answered too much; look for less.")
    try:
        return json.loads(text) if text else []
    except ValueError:
        raise ArchiveError(f"The archive {where.name} answered something that is no JSON.") from None


def _value(entry: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute in DICOM's JSON as text; "" where there is none."""
    values = (entry.get(tag) or {}).get("Value") or [""]
    return str(values[0])[:64]


def _sequence(entry: Mapping[str, Any], tag: str) -> list[Mapping[str, Any]]:
    return list((entry.get(tag) or {}).get("Value") or [])


def _checked(uid: str) -> str:
    """A DICOM identity, safe in a path."""
    if not _UID.fullmatch(uid):
        raise BadQuestion("The identity of a study or series is digits and points, at most 64.")
    return quote(uid)


def _parts(stream: IO[bytes], boundary: bytes, folder: Path) -> list[Path]:
    """The bodies of a multipart answer (RFC 2046, 5.1) as files; one block is held in memory."""
    mark = b"\r\n--" + boundary
    held, num_bytes, ended = bytearray(b"\r\n"), 0, False  # the first mark may stand at the very beginning
    found: list[Path] = []

    def more() -> bool:
        nonlocal num_bytes, ended
        block = stream.read(_BLOCK_BYTES)
        held.extend(block)
        num_bytes += len(block)
        if num_bytes > MOST_BYTES:
            raise ArchiveError(f"The series has more than {MOST_BYTES >> 20:,} MiB, which is not taken.")
        ended = not block
        return not ended

    def until(sign: bytes, file: IO[bytes] | None) -> bool:
        """Takes what lies before `sign`, and the sign itself, out of what is held; False where it never comes."""
        while True:
            at = held.find(sign)
            sure = at if at >= 0 else max(0, len(held) - len(sign) + 1)
            if file is not None:
                file.write(held[:sure])
            del held[: sure + (len(sign) if at >= 0 else 0)]
            if at >= 0 or not more():
                return at >= 0

    if not until(mark, None):
        return found
    while True:
        while len(held) < 2 and more():
            pass
        if held[:2] == b"--":
            return found
        if not until(b"\r\n\r\n", None):
            break
        if len(found) >= MOST_FILES:
            raise ArchiveError(f"The series has more than {MOST_FILES:,} images, which is not taken.")
        if shutil.disk_usage(folder).free < SPARE_BYTES:
            raise ArchiveError(f"The disk is nearly full; {SPARE_BYTES >> 20:,} MiB are kept free.")
        path = folder / f"{len(found) + 1:05d}.dcm"
        with path.open("xb") as file:
            whole = until(mark, file)
        if not whole:
            break
        found.append(path)
    raise ArchiveError("The answer of the archive broke off.")

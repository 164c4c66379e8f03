"""Zip files from strangers (cases 71 to 85 of the bad-input corpus): what is refused, left out, unpacked."""

import io
import os
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from builder.archives import ArchiveRefused, Limits, listing, plain_name, unpack
from builder.volumes import _SMALL_BYTES


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def _zip(path: Path, entries: dict[str, bytes] | list[tuple[str, bytes]], packed: bool = True) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, data)
    return path


def _all_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def test_files_come_out_under_names_of_our_own(tmp_path, into):
    archive = _zip(tmp_path / "a.zip", {"one/ZZPHI.png": b"1" * 5000, "two.png": b"22"})
    out, left = unpack(archive, into)
    assert not left
    assert {file.name: file.path.read_bytes() for file in out} == {"one/ZZPHI.png": b"1" * 5000, "two.png": b"22"}
    assert all(file.path.parent == into and file.path.name[:6].isdigit() for file in out)
    assert all(stat.S_IMODE(file.path.stat().st_mode) == 0o600 for file in out)


@pytest.mark.parametrize(
    "name", ["../out.png", "a/../../out.png", "/etc/out.png", "C:\\out.png", "..\\out.png", "\\\\server\\out.png"]
)
def test_a_name_that_points_outside_is_left_out(tmp_path, into, name):
    out, left = unpack(_zip(tmp_path / "a.zip", {name: b"x", "good.png": b"y"}), into)
    assert [file.name for file in out] == ["good.png"]
    assert [entry.reason for entry in left] == ["its name points outside the archive"]
    assert len(_all_below(tmp_path)) == 2  # the archive and the good file


def test_a_link_is_left_out(tmp_path, into):
    info = zipfile.ZipInfo("link.png")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
        archive.writestr("good.png", b"y")
    out, left = unpack(tmp_path / "a.zip", into)
    assert [file.name for file in out] == ["good.png"]
    assert left[0].reason.startswith("a link")
    assert not any(path.is_symlink() for path in into.iterdir())


def test_entries_that_share_bytes_are_refused(tmp_path, into):
    archive = _zip(tmp_path / "a.zip", {"a.png": b"a" * 1000})
    raw = bytearray(archive.read_bytes())
    at = raw.rfind(b"PK\5\6")
    count, size, begin = struct.unpack("<HLL", raw[at + 10 : at + 20])
    entry = bytes(raw[begin : begin + size])
    twin = entry.replace(b"a.png", b"b.png")
    end = bytearray(raw[at:])
    struct.pack_into("<HHLL", end, 8, 2, 2, 2 * size, begin)
    archive.write_bytes(bytes(raw[:begin]) + entry + twin + bytes(end))
    with pytest.raises(ArchiveRefused, match="share the same bytes"):
        unpack(archive, into)
    assert not _all_below(into)


def test_a_size_that_lies_is_found(tmp_path, into):
    archive = _zip(tmp_path / "a.zip", {"a.png": b"a" * 50_000, "b.png": b"b"})
    raw = archive.read_bytes()
    for real in (struct.pack("<L", 50_000),):
        raw = raw.replace(real, struct.pack("<L", 100))
    archive.write_bytes(raw)
    out, left = unpack(archive, into)
    assert [file.name for file in out] == ["b.png"]
    assert left[0].reason in ("damaged inside the archive", "it holds more than it declares")
    assert len(_all_below(into)) == 1


def test_too_many_entries_are_refused_before_they_are_listed(tmp_path):
    archive = _zip(tmp_path / "a.zip", [(f"{n}.png", b"") for n in range(300)])
    with pytest.raises(ArchiveRefused, match="300 entries; at most 200"):
        listing(archive, Limits(entries=200))


def test_two_hundred_thousand_entries_are_refused_quickly(tmp_path):
    path = tmp_path / "a.zip"
    name = b"a.png"
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name
    central = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0) + name
    directory = central * 200_000
    zip64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 200_000, 200_000, len(directory), len(local))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(local) + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(local + directory + zip64 + locator + end)
    with pytest.raises(ArchiveRefused, match="200,000 entries"):
        listing(path)


@pytest.mark.parametrize("count", [0, 1, 500, 65_000])
def test_a_forged_count_is_refused(tmp_path, count):
    archive = _zip(tmp_path / "a.zip", {"a.png": b"a", "b.png": b"b"})
    raw = bytearray(archive.read_bytes())
    at = raw.rfind(b"PK\5\6")
    struct.pack_into("<HH", raw, at + 8, count, count)
    archive.write_bytes(bytes(raw))
    with pytest.raises(ArchiveRefused, match="contradicts itself"):
        listing(archive)


def test_an_archive_inside_an_archive_stays_packed(tmp_path, into):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("deep.png", b"x")
    out, left = unpack(_zip(tmp_path / "a.zip", {"nest.zip": inner.getvalue(), "nest.png": inner.getvalue()}), into)
    assert not out
    assert {entry.reason for entry in left} == {"an archive inside the archive: unpack it first"}
    assert not _all_below(into)


def test_an_encrypted_entry_is_left_out_with_a_hint(tmp_path, into):
    archive = _zip(tmp_path / "a.zip", {"a.png": b"a" * 100, "b.png": b"b"}, packed=False)
    raw = bytearray(archive.read_bytes())
    raw[6] |= 1
    central = raw.find(b"PK\1\2")
    raw[central + 8] |= 1
    archive.write_bytes(bytes(raw))
    out, left = unpack(archive, into)
    assert [file.name for file in out] == ["b.png"]
    assert "encrypted" in left[0].reason


def test_an_entry_packed_like_a_bomb_is_left_out(tmp_path, into):
    archive = _zip(tmp_path / "a.zip", {"bomb.png": bytes(5 << 20), "b.png": b"b"})
    out, left = unpack(archive, into, Limits(ratio_from_bytes=1 << 20))
    assert [file.name for file in out] == ["b.png"]
    assert "200 times" in left[0].reason
    assert sum(path.stat().st_size for path in _all_below(into)) == 1


def test_a_mask_may_be_packed_as_tightly_as_it_likes(tmp_path, into):
    (mask,), left = unpack(_zip(tmp_path / "a.zip", {"mask.nii": bytes(5 << 20)}), into)
    assert not left and mask.bytes == 5 << 20 and Limits().ratio_from_bytes == _SMALL_BYTES


def test_more_than_the_limit_in_all_is_refused(tmp_path, into):
    archive = _zip(tmp_path / "a.zip", {f"{n}.png": os.urandom(1000) for n in range(20)})
    with pytest.raises(ArchiveRefused, match="unpack to"):
        unpack(archive, into, Limits(total_bytes=10_000))


def test_more_than_half_of_the_free_disk_is_refused(tmp_path, into, monkeypatch):
    archive = _zip(tmp_path / "a.zip", {"a.png": os.urandom(3000)})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10_000, 5_000, 5_000))
    with pytest.raises(ArchiveRefused, match="half of the free disk"):
        unpack(archive, into)
    assert not _all_below(into)


@pytest.mark.parametrize(
    "name",
    ["line\nbreak.png", "bidi\u202egnp.png", "<img src=x onerror=1>.png", "a" * 300 + ".png", "CON.png", "dot.png."],
)
def test_a_strange_name_is_only_text(tmp_path, into, name):
    out, left = unpack(_zip(tmp_path / "a.zip", {name: b"x"}), into)
    assert not left and len(out) == 1
    assert out[0].path.name == "000000.bin"
    assert "\n" not in out[0].name and "\u202e" not in out[0].name


def test_names_equal_but_for_case_or_unicode_form_both_come_out_and_true_doubles_do_not(tmp_path, into):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = _zip(
            tmp_path / "a.zip",
            [("A.png", b"1"), ("a.png", b"2"), ("\u00e9.png", b"3"), ("e\u0301.png", b"4"), ("a.png", b"5")],
        )
    out, left = unpack(archive, into)
    assert [file.path.read_bytes() for file in out] == [b"1", b"2", b"3", b"4"]
    assert [entry.reason for entry in left] == ["a second entry of the same name"]


def test_an_empty_zip_is_refused(tmp_path, into):
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(ArchiveRefused, match="empty"):
        unpack(tmp_path / "a.zip", into)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "7z"),
        (b"Rar!\x1a\x07\x01\x00" + bytes(600), "rar"),
        (bytes(257) + b"ustar\x0000" + bytes(600), "tar"),
        (b"\x1f\x8b\x08" + bytes(600), "gzip"),
    ],
)
def test_other_archives_are_refused_with_a_hint(tmp_path, into, head, kind):
    (tmp_path / "a.zip").write_bytes(head)
    with pytest.raises(ArchiveRefused, match=kind) as refused:
        unpack(tmp_path / "a.zip", into)
    assert "Unpack it" in str(refused.value)


@pytest.mark.parametrize("cut", [10, 200, 900])
def test_a_zip_cut_short_is_refused(tmp_path, into, cut):
    archive = _zip(tmp_path / "a.zip", {"a.png": os.urandom(1000)})
    archive.write_bytes(archive.read_bytes()[:-cut])
    with pytest.raises(ArchiveRefused):
        unpack(archive, into)


def test_flipped_bytes_never_give_wrong_content_or_an_unexpected_error(tmp_path, into):
    data = os.urandom(400)
    good = _zip(tmp_path / "a.zip", {"a.png": data, "b.png": data[::-1]}).read_bytes()
    for position in range(0, len(good), 3):
        raw = bytearray(good)
        raw[position] ^= 0x41
        (tmp_path / "b.zip").write_bytes(bytes(raw))
        folder = into / str(position)
        folder.mkdir()
        try:
            out, _ = unpack(tmp_path / "b.zip", folder)
        except ArchiveRefused:
            continue
        assert all(file.path.read_bytes() in (data, data[::-1]) for file in out)


def test_plain_names_have_forward_slashes_and_no_control_characters():
    assert plain_name(".\\a\\b\x00\n.png") == "a/b.png"


def test_names_in_utf_8_are_read_as_such_whether_they_are_marked_or_not(tmp_path, into):
    archive = _zip(tmp_path / "a.zip", {"a\u0308.png": b"1", "XX.png": b"22", "Y.png": b"333"})
    raw = archive.read_bytes().replace(b"XX.png", "ö.png".encode()).replace(b"Y.png", "ü.png".encode("cp437"))
    archive.write_bytes(raw)
    out, left = unpack(archive, into)
    assert not left and [file.name for file in out] == ["ä.png", "ö.png", "ü.png"]

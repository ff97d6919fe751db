"""The tar index against `tarfile` itself: what is read is read the same, what is damaged is refused."""

import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotlip.data import tar_index
from lotlip.data.shards import ShardReader, read_member, write_tar
from lotlip.data.tar_index import BLOCK, Member, index_tar, index_with_tarfile, map_file
from lotlip.errors import DataError
from lotlip.records import sha256_file

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)
relaxed = settings(
    deadline=None, max_examples=200, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def slow(path: Path) -> list[tuple[str, bytes]] | None:
    """Names and contents by `tarfile` alone; None where it gives up or stops before the end's mark."""
    try:
        with tarfile.open(path, "r:") as tar:
            found = [(info.name, tar.extractfile(info).read()) for info in tar if info.isfile()]  # type: ignore[union-attr]
            end = tar.offset
    except (tarfile.TarError, ValueError, OverflowError):
        return None
    return found if path.read_bytes()[end : end + BLOCK] == bytes(BLOCK) else None


def ours(path: Path, sha256: str | None = None) -> list[tuple[str, bytes]] | None:
    data = map_file(path)
    try:
        return [(one.name, read_member(data, path, one)) for one in index_tar(data, path, sha256)]
    except DataError:
        return None


def read_fast(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Member]:
    """The index, where `tarfile` may not help."""
    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "index_with_tarfile", None)
        return index_tar(map_file(path), path)


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)
names |= st.builds(
    lambda name, depth: f"{'x' * 90}/" * depth + name, st.sampled_from(["a", "ü", "a/"]), st.integers(0, 4)
)
records = st.sampled_from(
    [{"comment": "by hand"}, {"path": "all/alike"}, {"size": "1"}, {"LIBARCHIVE.a": "b\n9 d=e\n"}]
)


@st.composite
def members(draw: st.DrawFn) -> bytes:
    """A member of any kind, with fields at their limits, and what may come before it: long names and pax headers."""
    info = tarfile.TarInfo(draw(names))
    info.type = draw(st.sampled_from(KINDS))
    data = b"x" * draw(st.sampled_from([0, 1, 511, 512, 513, 3000])) if info.isreg() else b""
    info.size = len(data)
    info.mtime = draw(st.sampled_from([0, 1.5, 2**33 - 1, 2**33, 2**40]))
    info.uid = draw(st.sampled_from([0, 1000, 2**21, 2**31]))
    info.uname = draw(st.sampled_from(["", "root", "jürgen"]))
    before = draw(st.lists(st.sampled_from(["long name", "long link", "pax", "global"]), max_size=2))
    written = b""
    for kind in before if draw(st.integers(0, 3)) == 0 else ():
        if kind in ("pax", "global"):
            kind_byte = tarfile.XHDTYPE if kind == "pax" else tarfile.XGLTYPE
            written += tarfile.TarInfo._create_pax_generic_header(draw(records), kind_byte, "utf-8")  # type: ignore[attr-defined]
        else:
            kind_byte = tarfile.GNUTYPE_LONGNAME if kind == "long name" else tarfile.GNUTYPE_LONGLINK
            written += tarfile.TarInfo._create_gnu_long_header("told/name", kind_byte, "utf-8", "strict")  # type: ignore[attr-defined]
    for form in draw(st.permutations(FORMATS)):
        try:
            return written + info.tobuf(form, "utf-8") + data + bytes(-len(data) % BLOCK)
        except (ValueError, UnicodeError):  # the format cannot hold it
            continue
    return b""


tars = st.builds(lambda found: b"".join(found) + bytes(2 * BLOCK), st.lists(members(), max_size=5))


@relaxed
@given(content=tars)
def test_every_tar_is_read_as_tarfile_reads_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(content)
    assert ours(path) == ours(path, sha256_file(path)) == slow(path)


def test_headers_with_nothing_to_tell_of_and_records_beyond_their_size(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE):
        header = tarfile.TarInfo._create_pax_generic_header({"comment": "c"}, kind, "utf-8")  # type: ignore[attr-defined]
        (tmp_path / "t.tar").write_bytes(header + bytes(2 * BLOCK))
        assert ours(tmp_path / "t.tar") is slow(tmp_path / "t.tar") is None
        hidden = bytearray(header + tarfile.TarInfo("a.jpg").tobuf() + bytes(2 * BLOCK))
        hidden[BLOCK + 13 : BLOCK + 26] = b"13 path=b.jpg"  # after `13 comment=c\n` comes what `tarfile` still reads
        (tmp_path / "t.tar").write_bytes(hidden)
        assert ours(tmp_path / "t.tar") == slow(tmp_path / "t.tar")


@relaxed
@given(content=tars, seed=st.integers(0, 2**32), is_mended=st.booleans())
def test_changed_headers_are_read_as_tarfile_reads_them_or_refused(
    content: bytes, seed: int, is_mended: bool, tmp_path: Path
) -> None:
    """Bytes of a header are replaced, with its checksum made to fit again half of the time."""
    draw, changed = random.Random(seed), bytearray(content)
    headers = [at for at in range(0, len(content), BLOCK) if content[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return
    at = draw.choice(headers)
    for _ in range(draw.randint(1, 3)):
        changed[at + draw.choice([0, 99, 100, 107, 108, 124, 135, 136, 148, 155, 156, 329, 345, 500])] = draw.choice(
            b"\0 0178/aSxgLK-_\x80\xff"
        )
    if is_mended:
        changed[at + 148 : at + 156] = b" " * 8
        changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + BLOCK])
    path = tmp_path / "t.tar"
    path.write_bytes(changed)
    assert ours(path) == slow(path)


def files_to_pack(folder: Path) -> list[str]:
    folder.mkdir()
    for i in range(3):
        (folder / f"k{i}.jpg").write_bytes(random.Random(i).randbytes(40_000))
        (folder / f"k{i}.txt").write_text("a dog", encoding="utf-8")
    (folder / f"{'long' * 40}.txt").write_text("a long name", encoding="utf-8")
    (folder / "schön.txt").write_text("no ASCII", encoding="utf-8")
    (folder / "inner").mkdir()
    (folder / "inner" / "a.jpg").write_bytes(b"inner")
    (folder / "link.jpg").symlink_to("k0.jpg")
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_what_gnu_tar_packs_is_read_without_tarfile(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = files_to_pack(tmp_path / "in")
    if form in ("ustar", "v7"):
        packed = [name for name in packed if not name.startswith("long")]
    command = ["tar", f"--format={form}", "-cf", tmp_path / "t.tar", "-C", tmp_path / "in", *packed]
    subprocess.run(command, check=True)
    found = ours(tmp_path / "t.tar")
    assert found == slow(tmp_path / "t.tar")
    assert dict(found or [])["inner/a.jpg"] == b"inner"
    read_fast(tmp_path / "t.tar", monkeypatch)


@pytest.mark.skipif(shutil.which("bsdtar") is None, reason="needs bsdtar")
@pytest.mark.parametrize("form", ["pax", "ustar", "gnutar", "v7"])
def test_what_bsdtar_packs_is_read_without_tarfile(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = [name for name in files_to_pack(tmp_path / "in") if form == "pax" or not name.startswith(("long", "sch"))]
    subprocess.run(["bsdtar", "--format", form, "-cf", tmp_path / "t.tar", "-C", tmp_path / "in", *packed], check=True)
    assert ours(tmp_path / "t.tar") == slow(tmp_path / "t.tar")
    if form != "v7":  # its directories are files whose name ends with a slash
        read_fast(tmp_path / "t.tar", monkeypatch)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sparse_files_have_their_holes(form: str, tmp_path: Path) -> None:
    with (tmp_path / "k.jpg").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"after a hole")
    (tmp_path / "k.txt").write_text("a dog", encoding="utf-8")
    options = [f"--format={form}", "--sparse", "--hole-detection=raw"]
    subprocess.run(["tar", *options, "-cf", tmp_path / "t.tar", "-C", tmp_path, "k.jpg", "k.txt"], check=True)
    assert (tmp_path / "t.tar").stat().st_size < 1 << 19
    with ShardReader(tmp_path / "t.tar") as reader:
        assert reader.image("k") == bytes(1 << 20) + b"after a hole"
        assert reader.caption("k") == "a dog"


def test_webdatasets_own_times_and_our_zeros_are_read_without_tarfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import webdataset

    samples = [{"__key__": f"k{i}", "jpg": bytes([i]) * 700, "txt": b"a dog"} for i in range(3)]
    write_tar(tmp_path / "ours.tar", samples)
    with webdataset.TarWriter(str(tmp_path / "theirs.tar")) as writer:
        for sample in samples:
            writer.write(sample)
    for name in ("ours.tar", "theirs.tar"):
        found = read_fast(tmp_path / name, monkeypatch)
        assert found == index_with_tarfile(map_file(tmp_path / name), tmp_path / name)
        assert [one.name for one in found] == [f"k{i}.{end}" for i in range(3) for end in ("jpg", "txt")]

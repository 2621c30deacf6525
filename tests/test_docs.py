"""The documents are true: their Python runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from real_data import require_data

from evokern import _cpu, set_threads
from evokern.__main__ import COMMANDS, main

sys.path.insert(0, str(Path(__file__).parent / "tools"))

import backends_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def name(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name)
def test_python_blocks_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = _cpu.threads()
    namespace: dict[str, object] = {}
    for number, block in enumerate(blocks(page, "python"), 1):
        if "load(" in block:
            require_data("mnist")
        for library in re.findall(r"^import (torch)", block, re.M):
            pytest.importorskip(library)
        if "export_onnx" in block:
            pytest.importorskip("onnx")
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
    set_threads(before)


COMMAND_LINES = [
    line
    for page in PAGES
    for line in re.findall(r"^(?:    )?(evokern [a-z].*)$", page.read_text(), re.M)
    if line.split()[1] in COMMANDS
]


@pytest.mark.parametrize("line", sorted(set(COMMAND_LINES)))
def test_flags_of_commands_exist(line, capsys):
    words = shlex.split(line.split("#")[0])
    command, flags = (
        words[1],
        [word for word in words[2:] if word.startswith("--") and word != "--"],
    )
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    known = capsys.readouterr().out
    if command == "repeat":
        with pytest.raises(SystemExit):
            main([words[words.index("--") + 1], "--help"])
        known += capsys.readouterr().out
    for flag in flags:
        assert flag in known, line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    lost = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert lost == []


def test_the_page_of_back_ends_is_the_table_s():
    assert backends_page.PAGE.read_text() == backends_page.page()

"""What the instrumented build has seen, with lines of the source in place of addresses."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

Report = dict[str, Any]


def source_lines(module: ModuleType, addresses: Iterable[int]) -> dict[int, str]:
    """``file:line`` of each address, then those that it was inlined into."""
    wanted = sorted(set(addresses))
    if not wanted:
        return {}
    # They are return addresses: the call is before them.
    calls = [hex(address - 1) for address in wanted]
    command = ["addr2line", "-a", "-i", "-e", str(module.__file__), *calls]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("0x"):
            found.append([])
        else:
            found[-1].append(Path(line.split(" (discriminator")[0]).name)
    return {address: " in ".join(lines) for address, lines in zip(wanted, found, strict=True)}


def counts(module: ModuleType) -> list[Report]:
    """Per launch since the last ``reset``; ``conflicts_at`` by line."""
    launches: list[Report] = module.raw_counts()
    lines = source_lines(module, (at for launch in launches for at in launch["conflicts_at"]))
    for launch in launches:
        by_line: dict[str, int] = {}
        for address, extra in launch["conflicts_at"].items():
            by_line[lines[address]] = by_line.get(lines[address], 0) + extra
        launch["conflicts_at"] = by_line
    return launches


def findings(module: ModuleType) -> list[Report]:
    """Races and unwritten reads since the last ``reset``, one per pair of lines and kind."""
    found: list[Report] = module.raw_findings()
    places = (report[key] for report in found for key in ("place", "other_place"))
    lines = source_lines(module, places)
    for report in found:
        report["place"] = lines[report["place"]]
        report["other_place"] = lines[report["other_place"]]
    return found


def races(module: ModuleType) -> list[Report]:
    """Accesses that nothing orders, and asynchronous copies that were not waited for."""
    return [report for report in findings(module) if "unwritten" not in report["what"]]


def unwritten_reads(module: ModuleType) -> list[Report]:
    """Reads of shared memory that the block has not written."""
    return [report for report in findings(module) if "unwritten" in report["what"]]


def describe(report: Report) -> str:
    """One sentence."""
    text = (
        f"{report['kernel']}, block {report['block']}, thread {report['thread']}: "
        f"{report['what']} at {report['place']}"
    )
    if "unwritten" in report["what"]:
        return f"{text}, {report['times']} times"
    whose = "of another block" if report["other_block"] else "of the block"
    return (
        f"{text} ({report['memory']} memory) with thread number {report['other_thread']} {whose} "
        f"at {report['other_place']}, {report['times']} times"
    )

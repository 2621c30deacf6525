"""Writes docs/backends.md from the table of ops: ``python tests/tools/backends_page.py``.

``tests/test_docs.py`` fails where the committed page is another one.
"""

from __future__ import annotations

from pathlib import Path

from evokern._table import ON_DEVICE, TABLE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backends.md"
NAMES = ("reference", "cpu", "cuda", "triton")

HEAD = """\
# Which op runs where, what is promised, and how it is proven

Generated from `evokern/_table.py` by `python tests/tools/backends_page.py`.

**bits**: in fp32 the bits of the reference, on any device, instruction set and number of
threads. **close**: within `evokern.testing.error_bound`, which is carried along the float64 result;
there are no other tolerances. **-**: on devices it is composed of other ops (`mutant_loss`: in
`evokern/problems/mutants.py`, the same bits). `precision="bf16"` gives the reference's bits on cpu
where the processor has no bf16 products of its own, else it is close; on cuda it is an error;
`tf32` runs on triton only.

"""

PROOFS = {
    "reference": "NumPy, the specification: literal values in `tests/test_reference_*.py`, scalar "
    "rules (`tests/scalar_rules.py`), float64 (`close` cases run on it too)",
    "cpu": "`csrc/cpu`, once per instruction set: every case of every op against the reference "
    "(`pytest -m cpp`), under sanitizers (`make sanitize`), AVX-512 emulated (`make emulate`)",
    "cuda": "`csrc/cuda`: its own source on the processor, column `simt` of every case "
    "(`pytest -m simt`), in three orders of the threads, under sanitizers and race checks "
    "(`make simt-asan simt-race simt-reverse`); compiled for sm_80 and sm_90a, registers, spills "
    "and PTX read (`make inspect`, [cuda-kernels.md](cuda-kernels.md)); on a GPU by `make gpu`",
    "triton": "`evokern/backends/triton`: the kernels in Triton's interpreter, column "
    "`triton-interpreter` of every case (`pytest -m triton`); compiled for sm_80, sm_90a and "
    "sm_100a with the attributes of real launches, registers, spills and PTX read (`make inspect`, "
    "[triton-kernels.md](triton-kernels.md))",
}

CHOICE = """\

## Which one is taken

`backend="auto"` follows the arrays: on the host cpu, on a device cuda where `evokern._cuda` was
built, else triton where it is installed. Another one is chosen by `backend=`, for a block by
`with evokern.use_backend("triton"):`, for a process by `EVOKERN_BACKEND=triton`; the last two
apply to arrays that the back end can read, other arrays keep their default. Nothing is copied, and
a back end that is not available raises BackendError with the reason.
`evokern.which("network_loss", genomes)` says which one an op takes, `evokern doctor` lists what
this machine has.
"""


def page() -> str:
    rows = [f"| op | {' | '.join(NAMES)} |", f"|---|{'---|' * len(NAMES)}"]
    for op, row in TABLE.items():
        cells = [row.promise(name) if name in row.functions else "-" for name in NAMES]
        rows.append(f"| `{op}` | {' | '.join(cells)} |")
    proofs = ["", "## How each is proven", ""]
    for name in NAMES:
        place = "arrays on a device" if name in ON_DEVICE else "arrays on the host"
        proofs.append(f"- **{name}** ({place}). {PROOFS[name]}.")
    return HEAD + "\n".join([*rows, *proofs, ""]) + CHOICE


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

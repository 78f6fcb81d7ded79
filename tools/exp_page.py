"""Writes the table of docs/numerics.md on all floats from what exp_table printed.

    python -m tools.exp_page OUTPUT...       one file of output for each machine, real or emulated

Knows the lines of exp_table.c, and computes nothing.
"""

import datetime
import sys
from pathlib import Path

from benchmarks.results import ROOT, commit
from benchmarks.table import replaced

PAGE = ROOT / "docs" / "numerics.md"
BEGIN, END = "<!-- floats: written by tools/exp_page.py -->", "<!-- end of floats -->"


def cells(path):
    """ISA, function, largest error with its unit, inputs and wrong special values of every row."""
    for line in path.read_text().splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if len(row) == 6 and row[4].isdigit():
            yield row[0], row[1], row[2], int(row[4]), int(row[5])


def table(rows):
    errors = {(isa, function): error for isa, function, error, _, _ in rows}
    inputs = {isa: max(count for other, _, _, count, _ in rows if other == isa) for isa, *_ in rows}
    yield "| | " + " | ".join(inputs) + " |"
    yield "|---|" + "---:|" * len(inputs)
    for function in dict.fromkeys(function for _, function in errors):
        yield f"| {function} | " + " | ".join(errors[isa, function] for isa in inputs) + " |"
    yield (
        "| floats, in millions | "
        + " | ".join(f"{count / 1e6:.0f}" if count > 1e6 else f"{count / 1e6:.3f}" for count in inputs.values())
        + " |"
    )
    yield ""
    yield f"Wrong special values: {sum(row[4] for row in rows)}. {datetime.date.today()}, commit {commit()}."


def main(paths):
    rows = [row for path in paths for row in cells(Path(path))]
    if not rows:
        raise SystemExit(f"There are no rows in {', '.join(paths)}.")
    PAGE.write_text(replaced(PAGE.read_text(), "\n".join(table(rows)), BEGIN, END))


if __name__ == "__main__":
    main(sys.argv[1:])

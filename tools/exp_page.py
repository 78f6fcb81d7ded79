"""Writes the table of docs/numerics.md on all floats from what exp_table printed.

    python tools/exp_page.py OUTPUT...       one file of output for each machine, real or emulated

Knows the lines of exp_table.c, and computes nothing.
"""

import datetime
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "numerics.md"
BEGIN, END = "<!-- floats: written by tools/exp_page.py -->", "<!-- end of floats -->"


def cells(path):
    """ISA, function, largest error with its unit, inputs and wrong special values of every row."""
    for line in path.read_text().splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if len(row) == 6 and row[4].isdigit():
            yield row[0], row[1], row[2], int(row[4]), int(row[5])


def table(rows):
    errors, inputs, wrong = {}, {}, 0
    for isa, function, error, count, special in rows:
        if (isa, function) in errors and inputs[isa] >= count:
            continue  # portable C on the slower machine
        errors[isa, function] = error
        inputs[isa] = max(inputs.get(isa, 0), count)
        wrong += special
    functions = list(dict.fromkeys(function for _, function in errors))
    yield "| | " + " | ".join(inputs) + " |"
    yield "|---|" + "---:|" * len(inputs)
    for function in functions:
        yield f"| {function} | " + " | ".join(errors.get((isa, function), "-") for isa in inputs) + " |"
    yield "| floats, in millions | " + " | ".join(f"{count / 1e6:.3g}" for count in inputs.values()) + " |"
    commit = subprocess.run(
        ("git", "rev-parse", "--short", "HEAD"), cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    yield ""
    yield f"Wrong special values: {wrong}. {datetime.date.today()}, commit {commit}; NEON emulated by qemu."


def main(paths):
    rows = [row for path in paths for row in cells(Path(path))]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not rows or not found:
        raise SystemExit(f"no rows in {', '.join(paths)}, or no markers in {PAGE.name}")
    PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(table(rows)) + f"\n{END}{after}")


if __name__ == "__main__":
    main(sys.argv[1:])

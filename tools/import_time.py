"""Measures what `import ls_loss` adds to `import torch`: python tools/import_time.py [processes]

Prints medians over processes of their own: time on the clock, and on the processor, which other programs disturb less.
"""

import statistics
import subprocess
import sys

CODE = """
import torch
from time import perf_counter, process_time
begin = perf_counter(), process_time()
import ls_loss
print(perf_counter() - begin[0], process_time() - begin[1])
"""

if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    outputs = [subprocess.check_output([sys.executable, "-c", CODE], text=True) for _ in range(runs)]
    for position, name in enumerate(("clock", "processor")):
        times = [1000 * float(line.split()[position]) for line in outputs]
        low, median, high = statistics.quantiles(times, n=4)
        print(f"{name:10} {median:.1f} ms, quartiles {low:.1f} and {high:.1f}")

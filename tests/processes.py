"""Python code run in a process of its own, for what must not be assumed of one that other tests have used: its pool of threads,
its forks, its signals. Knows the public package only by the code that it starts with.
"""

import subprocess
import sys

SECONDS = 120  # a hang is what some of these tests look for

# The batch is many times larger than what one thread still does alone; a step has no large operation of torch's own, which
# would hang after a fork.
PRELUDE = """
import os, threading, torch
import ls_loss
def workers():
    return len(os.listdir("/proc/self/task"))
logits, target = torch.randn(4096, 100, generator=torch.Generator().manual_seed(0)), torch.arange(4096) % 100
def step():
    x = logits.detach().requires_grad_()
    loss = ls_loss.cross_entropy(x, target, label_smoothing=0.1)
    loss.backward()
    return loss.detach(), x.grad
"""

# What of an OpenMP runtime is mapped into the process.
RUNTIMES = """
import os
def runtimes():
    files = {line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if "/" in line}
    return {file for file in files if os.path.basename(file).startswith(("libgomp", "libomp", "libiomp"))}
"""


class Ended(AssertionError):
    """Not well."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def run(code, prelude=PRELUDE, script=None, **options):
    """The words that it prints; a failure if it does not end, or not well. From a file if there is a path for one."""
    arguments = ["-c", prelude + code]
    if script:
        script.write_text(prelude + code)
        arguments = [script]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=SECONDS, **options)
    if done.returncode:
        raise Ended(done.returncode, done.stderr)
    return done.stdout.split()

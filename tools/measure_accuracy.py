"""Measures how far loss and gradient are from the truth, for every dtype and instruction set, native's figures beside.

    python tools/measure_accuracy.py [--quick] [--write]      --quick: up to 1000 classes; --write: into docs/numerics.md
    python tools/measure_accuracy.py --long [STEPS] [--write]        climbs of 1000 steps, by ranges of classes; minutes

Inputs are those of accuracy_inputs.py; up to 1000 classes the same as planes, and a quarter of them with probabilities; for
float32 also the worst rows that hill climbing finds, of either loss for itself. float64 is measured up to 1000 classes, in two
rows of 32768 and in planes of 33000. Every instruction set runs in a process of its own. Uses the public package and helpers
of the tests.
"""

import argparse
import itertools
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import mpmath
import torch
import torch.nn.functional as F

import ls_loss

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import climb  # noqa: E402  of the tests
import reference  # noqa: E402
from accuracy_inputs import batches, probabilities, truth_float64, truth_mpmath  # noqa: E402

PAGE = ROOT / "docs" / "numerics.md"
BLOCK = "<!-- measured: written by tools/measure_accuracy.py --write -->", "<!-- end of measured -->"
LONG_BLOCK = "<!-- climbed: written by tools/measure_accuracy.py --long --write -->", "<!-- end of climbed -->"
CLASSES = (1, 2, 3, 10, 31, 32, 33, 1000, 32000, 50257, 128256, 151936)
MANY = 1000  # more classes than these are measured as rows of class indices alone
CLIMBED = {
    2: None,
    3: None,
    6: None,
    10: None,
    32: None,
    33: None,
    40: 31,
    100: None,
    136: 31,
    137: None,
    257: None,
    1000: None,
}
CLIMBED_PLANES = (2, 10, 33, 257, 1000)
RANGES = ((32, "up to 32 classes"), (256, "33 to 256 classes"), (math.inf, "more than 256 classes"))
LOSSES = {"ours": ls_loss.cross_entropy, "native": F.cross_entropy}
POWERS = ((-3, "2^-3"), (10, "2^10"))  # of grad_output
BITS = {torch.float32: (23, -126), torch.float64: (52, -1022), torch.bfloat16: (7, -126), torch.float16: (10, -14)}


def ulp(value, dtype):
    bits, least = BITS[dtype]
    return 2.0 ** (torch.floor(torch.log2(value.abs().clamp_min(1e-320))).clamp_min(least) - bits)


def widest(figures, key, value):
    figures[key] = max(figures[key], float(value)) if not math.isnan(value) else math.inf


def tally(figures, key, right):
    counts = figures.setdefault(key, [0, 0])
    counts[0] += int(right.sum())
    counts[1] += right.numel()


def error_of(got, want):
    if isinstance(want, torch.Tensor):
        return (got.double() - want).abs()
    errors = [float(abs(mpmath.mpf(g) - w)) for g, w in zip(got.flatten().tolist(), want, strict=True)]
    return torch.tensor(errors, dtype=torch.float64).reshape(got.shape)


def in_float64(want):
    return want if isinstance(want, torch.Tensor) else torch.tensor([float(w) for w in want], dtype=torch.float64)


def arithmetic(dtype):
    """Unit roundoff with its name, and twice the smallest exponential that is not 0."""
    if dtype == torch.float64:
        return 2.0**-53, "2^-53", 2 * torch.finfo(torch.float64).tiny
    return 2.0**-24, "2^-24", 2 * torch.finfo(torch.float32).tiny


def measure(figures, kind, x, target, smoothing, loss, grad, truth):
    """Adds the errors of one call: of the loss in ULP, of the gradient in units of max(p, q), of its row sums.

    A figure's key is its name and its unit.
    """
    unit, unit_name, least = arithmetic(x.dtype)
    want = in_float64(truth[0])
    known = want.isfinite() & (want != 0)
    if known.any():
        error = error_of(loss, truth[0]) / ulp(want, x.dtype)
        widest(figures, f"loss, smoothing {smoothing:g}, {kind}|ULP", error[known].max())
    suffix = f", {kind}" if kind.startswith("of ") or kind == "planes" else ""
    p, at = x.double().softmax(1), target[:, None]
    if x.dtype in (torch.bfloat16, torch.float16):
        return measure_rounding(figures, suffix, grad, truth[1], larger_term(p, at, smoothing))
    grad_error = error_of(grad, truth[1])
    smallest = 2.0**-149 if x.dtype == torch.float32 else 2.0**-1074
    others = grad_error / (unit * p.clamp_min(smoothing / x.shape[1]) + smallest) * (p >= least)
    widest(figures, f"gradient, others{suffix}|{unit_name} max(p, q)", others.scatter(1, at, 0.0).max())
    widest(figures, f"gradient, target's entry{suffix}|{unit_name}", grad_error.gather(1, at).max() / unit)
    widest(figures, f"sum of a row of the gradient{suffix}|{unit_name}", grad.double().sum(1).abs().max() / unit)
    return None


def larger_term(p, at, smoothing):
    """Of the two whose difference an entry is: p and eps / C, and at the target 1 - p and eps - eps / C."""
    rest = p.scatter(1, at, 0.0).sum(1, keepdim=True)
    q = torch.full_like(p, smoothing / p.shape[1])
    return p.scatter(1, at, rest).maximum(q.scatter(1, at, smoothing - smoothing / p.shape[1]))


def measure_rounding(figures, suffix, grad, want, larger, grad_output=1.0):
    """Of 16-bit gradients: how many are the exact one rounded once, and errors in ULP of what is stored.

    What is counted is within float32's range before grad_output multiplies it; bfloat16 stores what is below with fewer digits.
    """
    dtype, counted = grad.dtype, larger >= arithmetic(grad.dtype)[2]
    want, larger = grad_output * want, grad_output * larger
    inner = (want.abs() >= torch.finfo(dtype).tiny) & counted & (want.abs() >= larger / 4)
    once, error = grad == want.to(dtype), (grad.double() - want).abs()
    if inner.any():
        widest(figures, f"gradient{suffix}|ULP", (error / ulp(want, dtype))[inner].max())
    error, unit = error / ulp(larger, dtype), "ULP of the larger term"
    widest(figures, f"gradient, small and cancelling entries, too{suffix}|{unit}", (error * counted).max())
    widest(figures, f"gradient, every entry{suffix}|{unit}", error.max())
    tally(figures, f"gradient equal to the exact one rounded once{suffix}|share", once[inner])
    tally(figures, f"gradient equal to the exact one rounded once, every entry{suffix}|share", once)


def measure_probabilities(figures, kind, x, target, smoothing, loss, grad, truth):
    """The same with probabilities. No q log p is positive, so that all of them together are the loss."""
    unit, unit_name, least = arithmetic(x.dtype)
    q = reference.coefficients(target, x.shape[1], reduction="none", label_smoothing=smoothing)
    total, p = q.sum(1, keepdim=True), x.double().softmax(1)
    larger, terms, name = (total * p).maximum(q), total[:, 0] + truth[0], "of sum q (1 - log p)"
    if x.dtype != torch.float32:
        terms, name = terms.maximum(ulp(truth[0], x.dtype) / unit), name + ", or ULP"
    error = error_of(loss, truth[0]) / (unit * terms)
    widest(figures, f"loss, smoothing {smoothing:g}, {kind}|{unit_name} {name}", error.max())
    of, name = (unit * larger, unit_name) if x.dtype == torch.float32 else (ulp(larger, x.dtype), "ULP of")
    widest(figures, f"gradient, {kind}|{name} max(p, q)", (error_of(grad, truth[1]) / of * (p >= least)).max())


def climbed(figures, function, steps, name):
    """name(figure, classes): of what the worst row that was found is an instance."""
    for classes, rows_at_once in CLIMBED.items():
        rows = 2048 if classes <= 33 else 512
        for of, unit in (("loss", "ULP"), ("sum of a row", "2^-24")):
            for smoothing in (0.0, 0.1):
                key = name(f"{of}, smoothing {smoothing:g}", classes)
                worst, _, _ = climb.climb(function, classes, smoothing, of, steps, rows, rows_at_once)
                widest(figures, f"{key}|{unit}", worst)
                if classes in CLIMBED_PLANES:
                    worst, _, _ = climb.climb(climb.in_planes(function), classes, smoothing, of, steps, rows)
                    widest(figures, f"{key}, planes|{unit}", worst)


def run(function, x, target, smoothing, grad_output=1.0):
    x = x.detach().requires_grad_()
    loss = function(x, target, reduction="none", label_smoothing=smoothing)
    return loss.detach(), torch.autograd.grad(loss, x, torch.full_like(loss, grad_output))[0]


def measure_all(figures, function, kind, x, target, smoothing, truth):
    """One batch in every layout, and in 16 bits with every grad_output."""
    side_by_side = climb.in_planes(function)
    if kind.endswith("planes"):
        return measure(figures, kind, x, target, smoothing, *run(side_by_side, x, target, smoothing), truth)
    measure(figures, kind, x, target, smoothing, *run(function, x, target, smoothing), truth)
    if kind == "masked" or x.shape[1] > MANY:
        return None
    if len(x) > 1:
        measure(figures, "planes", x, target, smoothing, *run(side_by_side, x, target, smoothing), truth)
    if x.dtype in (torch.bfloat16, torch.float16):
        larger = larger_term(x.double().softmax(1), target[:, None], smoothing)
        for power, name in POWERS:
            _, grad = run(function, x, target, smoothing, 2.0**power)
            measure_rounding(figures, f", grad_output {name}", grad, truth[1], larger, 2.0**power)
    return None


def child_of_long(steps):
    """Longer climbs, of ours alone, by ranges of classes."""

    def name(figure, classes):
        return f"{figure}, {next(text for most, text in RANGES if classes <= most)}"

    figures = defaultdict(float)
    climbed(figures, ls_loss.cross_entropy, steps, name)
    print(json.dumps({"isa": ls_loss.config()["isa"], "figures": figures}))


def save_bits(path):
    """Gradients of the same million logits, for what runs in other processes."""
    grads = {}
    for dtype in BITS:
        for classes in (10, 1000):
            source = torch.Generator().manual_seed(classes)
            x = torch.randn(10**6 // classes, classes, generator=source).to(dtype)
            target = torch.randint(classes, (len(x),), generator=source)
            for layout, function in (
                ("rows", ls_loss.cross_entropy),
                ("planes", climb.in_planes(ls_loss.cross_entropy)),
            ):
                grads[f"{layout} of {classes} classes|{str(dtype).removeprefix('torch.')}"] = run(
                    function, x, target, 0.1
                )[1]
    torch.save(grads, path)


def child(quick):
    results = {}
    for dtype in BITS:
        figures = {who: defaultdict(float) for who in LOSSES}
        for classes in CLASSES:
            if classes > 1000 and (quick or (dtype == torch.float64 and classes != 32000)):
                continue
            source = torch.Generator().manual_seed(classes)
            for number, (kind, logits, target) in enumerate(batches(classes, dtype)):
                x = logits.to(dtype)
                if kind != "masked" and not x.isfinite().all():
                    continue
                if dtype == torch.float64 and kind == "masked":
                    continue
                for smoothing in (0.0,) if kind == "masked" else (0.0, 0.1):
                    truth = (truth_mpmath if dtype == torch.float64 else truth_float64)(x, target, smoothing)
                    for who, function in LOSSES.items():
                        measure_all(figures[who], function, kind, x, target, smoothing, truth)
                # A quarter: of each target there are four.
                if dtype == torch.float64 or kind == "masked" or number % 4 or classes > MANY:
                    continue
                for of, soft in probabilities(x, target, source):
                    for smoothing in (0.0, 0.1):
                        truth = truth_float64(x, soft, smoothing)
                        for who, function in LOSSES.items():
                            got = run(function, x, soft, smoothing)
                            measure_probabilities(figures[who], of, x, soft, smoothing, *got, truth)
        if dtype == torch.float32:
            for who, function in LOSSES.items():
                climbed(figures[who], function, 250, lambda figure, classes: f"{figure}, climbed")
        results[str(dtype).removeprefix("torch.")] = figures
    print(json.dumps({"isa": ls_loss.config()["isa"], "threads": torch.get_num_threads(), "figures": results}))


def shown(value):
    if isinstance(value, list):
        return f"{100 * value[0] / max(value[1], 1):.3f} %"
    return f"{value:.3g}" if value < 1e5 else f"{value:.1e}"


def place(key):
    return key.split("|")[0].endswith("planes"), not key.startswith("loss")


def rows_of(runs):
    """Of every dtype and figure the largest errors; losses come first, planes last."""
    yield "| dtype | figure | unit | " + " | ".join([each["isa"] for each in runs] + ["native"]) + " |"
    yield "|---|---|---|" + "---:|" * (len(runs) + 1)
    for dtype, figures in runs[-1]["figures"].items():
        for key in sorted(figures["native"], key=place):
            values = [each["figures"][dtype]["ours"][key] for each in runs] + [figures["native"][key]]
            yield f"| {dtype} | {key.replace('|', ' | ')} | " + " | ".join(map(shown, values)) + " |"


def children(isas, *arguments):
    """What this program prints with these arguments, run by every instruction set in turn."""
    for isa in isas:
        done = subprocess.run(
            [sys.executable, __file__, *(argument.replace("ISA", isa) for argument in arguments)],
            env={**os.environ, "LS_LOSS_ISA": isa},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        yield done.stdout.splitlines()[-1] if done.stdout else ""


def same_bits(isas):
    """How many gradients have the same bits by two instruction sets, of every layout and dtype."""
    with tempfile.TemporaryDirectory() as folder:
        list(children(isas, f"--bits={folder}/ISA"))
        grads = {isa: torch.load(f"{folder}/{isa}") for isa in isas}
    pairs = list(itertools.combinations(isas, 2))
    yield "| gradients with the same bits | dtype | " + " | ".join(map(" and ".join, pairs)) + " |"
    yield "|---|---|" + "---:|" * len(pairs)
    for key in grads[isas[0]]:
        equal = ((grads[a][key] == grads[b][key]).double().mean().item() for a, b in pairs)
        yield f"| {key.replace('|', ' | ')} | " + " | ".join(f"{100 * share:.4f} %" for share in equal) + " |"


def table(runs, quick):
    threads = runs[0]["threads"]
    return [
        *rows_of(runs),
        "",
        *same_bits([each["isa"] for each in runs]),
        "",
        f"Largest errors over the inputs of `tools/measure_accuracy.py`{' --quick' if quick else ''}; "
        "native runs on this machine's best instruction set. "
        f"torch {torch.__version__}, {platform.machine()}, {threads} thread{'s' * (threads != 1)}.",
    ]


def table_of_long(runs, steps):
    yield "| float32, climbed | unit | " + " | ".join(each["isa"] for each in runs) + " |"
    yield "|---|---|" + "---:|" * len(runs)
    for key in sorted(runs[0]["figures"], key=place):
        yield f"| {key.replace('|', ' | ')} | " + " | ".join(shown(each["figures"][key]) for each in runs) + " |"
    yield ""
    by = f"`tools/measure_accuracy.py --long{f' {steps}' if steps != 1000 else ''}`"
    yield f"Largest errors that climbs of {steps} steps find, by {by}. torch {torch.__version__}, {platform.machine()}."


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to 1000 classes")
    parser.add_argument(
        "--long", type=int, nargs="?", const=1000, metavar="STEPS", help="climbs alone, of so many steps (1000)"
    )
    parser.add_argument("--write", action="store_true", help="into docs/numerics.md")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--bits", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bits:
        return save_bits(given.bits)
    if given.child:
        return child_of_long(given.long) if given.long else child(given.quick)
    isas = ls_loss.config()["isa_available"]
    if given.long:
        runs = [json.loads(line) for line in children(isas, "--child", f"--long={given.long}")]
        lines, (begin, end) = list(table_of_long(runs, given.long)), LONG_BLOCK
    else:
        runs = [json.loads(line) for line in children(isas, "--child", *(["--quick"] if given.quick else []))]
        lines, (begin, end) = table(runs, given.quick), BLOCK
    text = "\n".join(lines)
    print(text)
    if given.write:
        before, rest = PAGE.read_text().split(begin)
        PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")
    return None


if __name__ == "__main__":
    main()

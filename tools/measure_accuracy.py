"""Measures how far loss and gradient are from the truth, for every dtype and instruction set, native's figures beside.

    python tools/measure_accuracy.py [--quick] [--write]      --quick: up to 1000 classes; --write: into docs/numerics.md

Inputs: 1 to 151936 classes; normal, uniform, equal, tied, sorted, shifted, subnormal and masked logits; targets that lead by up
to 104, or are far behind; for float32 also the worst rows that hill climbing finds, of either loss for itself. The truth is
float64 by the tests' reference; for float64 itself, up to 1000 classes and two rows of 32768, mpmath with 100 digits. Every
instruction set runs in a process of its own. Uses the public package and the helpers of the tests.
"""

import json
import math
import os
import platform
import subprocess
import sys
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

PAGE = ROOT / "docs" / "numerics.md"
BEGIN, END = "<!-- measured: written by tools/measure_accuracy.py --write -->", "<!-- end of measured -->"
CLASSES = (1, 2, 3, 10, 31, 32, 33, 1000, 32000, 50257, 128256, 151936)
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
GAPS = (1, 2, 5, 10, 16, 17, 20, 30, 60, 87, 88, 104)
BITS = {torch.float32: (23, -126), torch.float64: (52, -1022), torch.bfloat16: (7, -126), torch.float16: (10, -14)}
mpmath.mp.dps = 100  # of which a lead of 104 cancels 46


def batches(classes, dtype):
    """(kind, logits, target): "ordinary" or "confident", where the target leads, or "far", where it is far behind."""
    rows = 64 if classes <= 1000 else 4
    if dtype == torch.float64:
        rows = 4 if classes <= 100 else 2  # of which planes need two
    source = torch.Generator().manual_seed(classes)
    if dtype == torch.float64 and classes > 1000:
        many_small = torch.full((1, 32768), -16.65, dtype=torch.float64).index_fill(1, torch.arange(16), 0.0)
        yield "of 32768 classes", torch.randn(1, 32768, generator=source, dtype=torch.float64), torch.tensor([5])
        yield "of 32768 classes", many_small, torch.tensor([5])
        # Where positions lie side by side every 32 classes go into one running sum: equal terms all lose to one side there.
        normal = torch.randn(2, 33000, generator=source, dtype=torch.float64)
        few_large = torch.full((2, 33000), -16.65, dtype=torch.float64).index_fill(1, torch.arange(16), 0.0)
        for logits in (normal, torch.zeros_like(normal), few_large):
            yield "of 33000 classes, planes", logits, torch.tensor([5, 20000])
        return
    normal = torch.randn(rows, classes, generator=source, dtype=torch.float64)
    target = torch.randint(classes, (rows,), generator=source)
    at = target[:, None]
    yield from (("ordinary", scale * normal, target) for scale in (0.1, 1.0, 10.0, 30.0, 0.0, 1e-40))
    yield "ordinary", torch.rand(rows, classes, generator=source, dtype=torch.float64), target
    yield "ordinary", (10 * normal).sort(1).values, target
    yield "ordinary", (10 * normal).sort(1, descending=True).values, target
    yield from (("ordinary", normal + offset, target) for offset in (1e4, 1e7, -1e30))
    for share in (0.1, 0.5, 0.99):
        masked = (torch.rand(rows, classes, generator=source) < share).scatter(1, at, False)
        yield "masked", normal.masked_fill(masked, -math.inf), target
    for gap in GAPS:
        leads = (0.1 * normal).scatter(1, at, gap + math.log(classes))
        yield "confident", leads, target
        yield "far", leads, (target + 1) % classes
        yield "confident", leads.scatter(1, (at + classes // 2) % classes, gap + math.log(classes)), target


def ulp(value, dtype):
    bits, least = BITS[dtype]
    return 2.0 ** (torch.floor(torch.log2(value.abs().clamp_min(1e-320))).clamp_min(least) - bits)


def truth_float64(x, target, smoothing):
    """Loss, gradient and coefficients by the tests' reference."""
    x = x.double().requires_grad_()
    loss = reference.cross_entropy(x, target, reduction="none", label_smoothing=smoothing)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), grad


def truth_mpmath(x, target, smoothing):
    """The same with 100 digits, as what remains after float64's own result: (loss, grad) as pairs of float64 (high, low)."""
    losses, grads = [], []
    for row, y in zip(x.tolist(), target.tolist(), strict=True):
        row = [mpmath.mpf(v) for v in row]
        top = max(row)
        exps = [mpmath.exp(v - top) for v in row]
        total = mpmath.fsum(exps)
        z, classes = mpmath.log(total) + top, len(row)
        loss = (1 - mpmath.mpf(smoothing)) * (z - row[y])
        if smoothing:
            loss += mpmath.mpf(smoothing) * mpmath.fsum(z - v for v in row) / classes
        losses.append(loss)
        grads.append([e / total - mpmath.mpf(smoothing) / classes for e in exps])
        grads[-1][y] -= 1 - mpmath.mpf(smoothing)
    return losses, grads


def widest(figures, key, value):
    figures[key] = max(figures[key], float(value)) if not math.isnan(value) else math.inf


def tally(figures, key, right):
    counts = figures.setdefault(key, [0, 0])
    counts[0] += int(right.sum())
    counts[1] += right.numel()


def measure(figures, who, kind, dtype, smoothing, loss, grad, truth, x):
    """Adds the errors of one call: of the loss in ULP, of the gradient in units of max(p, q), of its row sums."""
    unit = 2.0 ** -(53 if dtype == torch.float64 else 24)
    if dtype == torch.float64:
        want, want_grad = truth
        error = [abs(mpmath.mpf(g) - w) for g, w in zip(loss.tolist(), want, strict=True)]
        loss_ulps = max(
            float(e / mpmath.mpf(float(ulp(torch.tensor(float(w), dtype=dtype), dtype))))
            for e, w in zip(error, want, strict=True)
        )
        differences = [
            [float(mpmath.mpf(g) - w) for g, w in zip(row, wants, strict=True)]
            for row, wants in zip(grad.tolist(), want_grad, strict=True)
        ]
        grad_error = torch.tensor(differences, dtype=torch.float64).abs()
    else:
        want, want_grad = truth
        known = want.isfinite() & (want != 0)
        loss_ulps = ((loss.double() - want).abs() / ulp(want, dtype))[known].max() if known.any() else torch.tensor(0.0)
        grad_error = (grad.double() - want_grad).abs()
    p = x.double().softmax(1)
    counted = (
        p >= 2 * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).tiny
    )  # exps below may be 0
    scale = p.clamp_min(smoothing / x.shape[1])
    label = f"loss, smoothing {smoothing:g}, {kind}"
    widest(figures[who], label, loss_ulps)
    suffix = f", {kind}" if kind.startswith("of ") or kind == "planes" else ""
    target_entry = grad_error.gather(1, measure.target[:, None])
    if dtype in (torch.float32, torch.float64):
        others = (grad_error / (unit * scale + (2.0**-149 if dtype == torch.float32 else 2.0**-1074))).scatter(
            1, measure.target[:, None], 0.0
        )
        widest(figures[who], "gradient, others" + suffix, (others * counted).max())
        widest(figures[who], "gradient, target's entry" + suffix, target_entry.max() / unit)
        widest(figures[who], "sum of a row of the gradient" + suffix, grad.double().sum(1).abs().max() / unit)
    else:
        normal = want_grad.abs() >= torch.finfo(dtype).tiny
        cancels = want_grad.abs() < scale / 4
        inner = normal & counted & ~cancels
        once = grad == want_grad.to(dtype)
        if inner.any():
            widest(figures[who], "gradient" + suffix, (grad_error / ulp(want_grad, dtype))[inner].max())
        tally(figures[who], "rounded once" + suffix, once[inner])
        tally(figures[who], "rounded once, every entry" + suffix, once)


def climbed(figures):
    for who, function in (("ours", ls_loss.cross_entropy), ("native", F.cross_entropy)):
        for classes, rows_at_once in CLIMBED.items():
            for figure, smoothing in (("loss", 0.0), ("loss", 0.1), ("sum of a row", 0.0), ("sum of a row", 0.1)):
                rows = 2048 if classes <= 33 else 512
                worst, _, _ = climb.climb(function, classes, smoothing, figure, 250, rows, rows_at_once)
                widest(figures[who], f"{figure}, smoothing {smoothing:g}, climbed", worst)


def in_planes(function):
    """The same losses of positions that lie side by side: [1, C, N]."""
    return lambda x, target, **options: function(x.T[None].contiguous(), target[None], **options)[0]


def run(function, x, target, smoothing):
    x = x.detach().requires_grad_()
    loss = function(x, target, reduction="none", label_smoothing=smoothing)
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


def child(quick):
    results = {}
    for dtype in BITS:
        figures = defaultdict(lambda: defaultdict(float))
        for classes in CLASSES:
            if classes > 1000 and (quick or (dtype == torch.float64 and classes != 32000)):
                continue
            for kind, logits, target in batches(classes, dtype):
                x = logits.to(dtype)
                if kind != "masked" and not x.isfinite().all():
                    continue
                measure.target = target
                for smoothing in (0.0, 0.1):
                    if dtype == torch.float64 and kind == "masked":
                        continue
                    if kind == "masked" and smoothing:
                        continue
                    truth = (truth_mpmath if dtype == torch.float64 else truth_float64)(x, target, smoothing)
                    for who, function in (("ours", ls_loss.cross_entropy), ("native", F.cross_entropy)):
                        planes = run(in_planes(function), x, target, smoothing)
                        if kind.endswith("planes"):
                            measure(figures, who, kind, dtype, smoothing, *planes, truth, x)
                            continue
                        measure(figures, who, kind, dtype, smoothing, *run(function, x, target, smoothing), truth, x)
                        if kind in ("ordinary", "confident", "far") and len(x) > 1:
                            measure(figures, who, "planes", dtype, smoothing, *planes, truth, x)
        if dtype == torch.float32:
            climbed(figures)
        results[str(dtype).removeprefix("torch.")] = figures
    print(json.dumps({"isa": ls_loss.config()["isa"], "threads": torch.get_num_threads(), "figures": results}))


def shown(value):
    if isinstance(value, list):
        return f"{100 * value[0] / max(value[1], 1):.3f} %"
    return f"{value:.3g}" if value < 1e5 else f"{value:.1e}"


def table(runs, quick):
    isas = [each["isa"] for each in runs]
    lines = [
        "| dtype | figure | unit | " + " | ".join(isas) + " | native |",
        "|---|---|---|" + "---:|" * (len(isas) + 1),
    ]
    for dtype in runs[0]["figures"]:
        unit = "2^-53" if dtype == "float64" else "2^-24"
        native = runs[-1]["figures"][dtype]["native"]
        for key in sorted(native, key=lambda key: key.endswith("planes")):
            name = (
                "ULP"
                if key.startswith("loss") or key in ("gradient", "gradient, planes")
                else "share"
                if key.startswith("rounded")
                else unit
            )
            if key.startswith("gradient, others"):
                name += " max(p, q)"
            what = key.replace("rounded once", "gradient equal to the exact one rounded once")
            ours = " | ".join(shown(each["figures"][dtype]["ours"][key]) for each in runs)
            lines.append(f"| {dtype} | {what} | {name} | {ours} | {shown(native[key])} |")
    threads = runs[0]["threads"]
    lines += [
        "",
        f"Largest errors over the inputs of `tools/measure_accuracy.py`{' --quick' if quick else ''}; "
        "native runs on this machine's best instruction set. "
        f"torch {torch.__version__}, {platform.machine()}, {threads} thread{'s' * (threads != 1)}.",
    ]
    return "\n".join(lines)


def main(arguments):
    quick = "--quick" in arguments
    if "--child" in arguments:
        return child(quick)
    runs = []
    for isa in ls_loss.config()["isa_available"]:
        command = [sys.executable, __file__, "--child", *(["--quick"] if quick else [])]
        done = subprocess.run(
            command, env={**os.environ, "LS_LOSS_ISA": isa}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    text = table(runs, quick)
    print(text)
    if "--write" in arguments:
        page = PAGE.read_text()
        before, rest = page.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])

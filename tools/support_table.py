"""Writes docs/support.md: what works with the losses of this library, and what with native's, each tried on this machine.

    make support                                    all probes, both losses; a quarter of an hour
    python tools/support_table.py --only dtensor    some of them again

FEATURES is the table: a feature, its probe (support_probes.py, support_training.py), and the sentence that explains a
difference. Every probe runs in a process of its own, for some abort it or never end. Must not judge values; probes do.
"""

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT / "tools")]

import support_probes as probes  # noqa: E402
import support_training as training  # noqa: E402
import torch  # noqa: E402
from paths import route  # noqa: E402
from tqdm import tqdm  # noqa: E402

import ls_loss  # noqa: E402

PAGE, OUTCOMES = ROOT / "docs" / "support.md", ROOT / "build" / "reports" / "support.json"
SIDES = ("ls_loss", "native")
SECONDS = 300
FORKED_SECONDS = 60  # a child that hangs says nothing
SAME = "Refused by both, with the same words."

HEADER = """# What works

Written by `make support`: every line is a probe of `tools/support_probes.py` or `tools/support_training.py`, run with the
losses of this library, and with `torch.nn.functional.cross_entropy` and `torch.nn.CrossEntropyLoss` of torch {torch}, on the
CPU.
**yes**: it works, with the values of float64 but for rounding. **different**: it runs, and the outcome is another one.
**error**: it raises. **aborts**, **hangs**: it ends the process, or does not end. What differs has its reason beside it.

Not in the table, for they need a device or classes of their own: tensors of other devices and subclasses with a
`__torch_dispatch__`, which native operators compute (`tests/test_citizen.py`, `tests/test_dispatch.py`).
"""

# section: feature: probe, sentence; a sentence is a must where the outcomes differ
FEATURES = {
    "The call": {
        "Reductions, weights, ignored rows, smoothing; logits of one to five dimensions": (
            probes.options_and_shapes,
            "",
        ),
        "Probability targets": (probes.probabilities, ""),
        "Confident rows: a loss of 4e-9, right to 1e-6": (
            probes.confident_rows,
            "Native adds the target's exponential to the others, in which they drown; here it stays out of the sum.",
        ),
        "The mean of 1000 rows of bfloat16": (
            probes.mean_of_bfloat16,
            "Native sums in the dtype of the logits; here sums are in float32 and wider.",
        ),
        "Smoothing over 32000 classes in float16": (
            probes.float16_of_many_classes,
            "Native's sum over the classes overflows float16.",
        ),
        "Targets of every integer dtype": (probes.integer_targets, "Native takes int64 and uint8."),
        "Targets out of range raise IndexError": (probes.targets_out_of_range, ""),
        "Smoothing outside of [0, 1] raises, NaN too": (
            probes.smoothing_out_of_range,
            "Native takes a negative smoothing and NaN for 0.",
        ),
        "Ignored rows may hold NaN": (
            probes.ignored_rows_of_anything,
            "Native's gradient of such a row is NaN; here it is 0.",
        ),
        "No rows, or all of them ignored: mean NaN, gradient 0": (probes.nothing_to_average, ""),
        "`prior`": (probes.prior, "A keyword of ours alone."),
        "`dim`": (probes.class_dimension, "A keyword of ours alone; native has its classes in dimension 1."),
        "Deprecated and positional arguments": (probes.deprecated_arguments, ""),
        "state_dict, pickle, copies, files": (probes.copies_and_files, ""),
        "Hooks of modules": (probes.hooks, ""),
        "The same bits for one, two and three threads": (probes.one_to_three_threads, ""),
    },
    "Derivatives": {
        "First, second and third": (probes.higher_derivatives, "From the second on a composite of native operators."),
        "torch.func: grad, hessian, jacrev, jacfwd, vmap": (
            probes.transforms,
            "For class indices first derivatives, losses and gradients of samples by the kernel; the rest by native operators.",
        ),
        "torch.func.jacfwd of losses that share smoothed logits": (
            probes.transforms_of_shared_logits,
            "Native's forward derivative of log_softmax works in place, where vmap cannot.",
        ),
        "Forward-mode": (probes.forward_mode, "Of the logits by the kernel, of others by native operators."),
        "Kept graphs, hooks on saved tensors, anomaly mode, checkpoints": (probes.kept_graphs, ""),
        "A second backward after a hook on the loss's own node has raised": (
            probes.backward_after_a_hook_that_raised,
            "The gradient was computed in forward and is scaled by then: an error says so. With retain_graph it works.",
        ),
        "The loss's grad_fn called by hand, in grad mode": (
            probes.node_called_by_hand,
            "The logits' place in the graph is the engine's to know; torch.autograd.grad does the same.",
        ),
        "Batched grad_output": (probes.batched_gradients, ""),
        "Logits edited in place after forward": (probes.logits_edited, ""),
        "Logits edited between backward and second backward": (probes.logits_edited_under_create_graph, ""),
        "Gradients of probability targets": (probes.gradients_of_probabilities, "By native operators."),
        "Gradients of weights": (probes.gradients_of_weights, SAME),
    },
    "Mixed precision": {
        "Autocast to bfloat16: a float32 loss": (probes.autocast, "No float32 copy of the logits is made here."),
        "float16 gradients under a loss scale": (probes.grad_scaler, ""),
    },
    "Compiled and exported": {
        "fullgraph, shapes that change": (training.compiled_as(), "The operator is one call in the program."),
        "dynamic=True": (training.compiled_as(dynamic=True), ""),
        "max-autotune-no-cudagraphs": (training.compiled_as(mode="max-autotune-no-cudagraphs"), ""),
        "aot_eager": (training.compiled_as(backend="aot_eager"), ""),
        "The bits of eager mode": (training.same_bits_compiled, "Native's generated loops add up in another order."),
        "Compiled autograd": (training.compiled_autograd, ""),
        "torch.func within": (training.compiled_transforms, ""),
        "Targets out of range raise IndexError": (
            training.compiled_targets_out_of_range,
            "Native's program checks within a parallel loop, where an exception ends the process.",
        ),
        "Second derivative of a compiled program": (
            training.compiled_second_derivative,
            "AOTAutograd compiles one backward, whatever the program.",
        ),
        "torch.export, saved and loaded": (
            training.export,
            "The process that loads a program must import ls_loss first.",
        ),
        "AOTInductor": (training.aot_inductor, "The same import. From C++ without Python: [export](how-to/export.md)."),
        "torch.jit.trace": (training.traced, ""),
        "torch.jit.script": (
            training.scripted,
            "Not supported: it compiles no keyword-only arguments. Within a script call `torch.ops.ls_loss.cross_entropy`.",
        ),
    },
    "Tensors": {
        "Strides: channels last, transposed, expanded": (probes.strides, ""),
        "Subclasses with `__torch_function__`, Parameter": (probes.subclasses, ""),
        "Fake and meta tensors": (probes.fake_and_meta, ""),
        "Negative views": (probes.negative_views, ""),
        "Copy-on-write tensors stay lazy": (probes.copy_on_write, ""),
        "Values of jagged tensors": (probes.jagged_values, ""),
        "Sparse logits": (probes.refused(torch.Tensor.to_sparse), SAME),
        "Quantized logits": (
            probes.refused(lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
            SAME,
        ),
        "Complex logits": (probes.refused(lambda x: x + 0j), SAME),
        "Integer logits": (probes.refused(torch.Tensor.long), SAME),
        "float8 logits": (probes.refused(lambda x: x.to(torch.float8_e5m2)), SAME),
    },
    "Training": {
        "A loop, with averaged weights (EMA)": (training.trains(training.averaged), ""),
        "fastai Learner": (training.trains(training.fastai), ""),
        "Hugging Face Trainer": (training.trains(training.hugging_face), ""),
        "Lightning": (training.trains(training.lightning), ""),
        "accelerate": (training.trains(training.accelerate), ""),
        "skorch": (training.trains(training.skorch), ""),
        "A process forked after a parallel computation": (
            training.forked,
            "Native waits for threads that a forked process has not; here such a process computes in one.",
        ),
        "Forked workers of a DataLoader": (training.workers("fork"), "torch gives them one thread."),
        "Spawned workers of a DataLoader": (training.workers("spawn"), ""),
        "DDP": (training.in_two_processes(training.ddp), ""),
        "FSDP2": (training.in_two_processes(training.fsdp2), ""),
        "DTensor, sharded by rows": (training.dtensor(weighted=False), "By native operators in both."),
        "DTensor, sharded by rows, class weights": (
            training.dtensor(weighted=True),
            "By native operators in both, which average means of different weight: take the loss of the local rows.",
        ),
    },
}

PATCHED = """## Under patch()

Whether the kernel computes these while `ls_loss.patch()` is on:

| | the kernel |
|---|---|
{rows}
"""


def losses(side):
    if side == "ls_loss":
        return SimpleNamespace(function=ls_loss.cross_entropy, module=ls_loss.CrossEntropyLoss)
    return SimpleNamespace(function=torch.nn.functional.cross_entropy, module=torch.nn.CrossEntropyLoss)


def all_features():
    return [(section, feature) for section, features in FEATURES.items() for feature in features]


def run_here(number, side):
    """One probe in this process: a line of JSON with its outcome."""
    section, feature = all_features()[number]
    probe, _ = FEATURES[section][feature]
    try:
        probe(losses(side))
    except AssertionError as error:
        outcome = "different", str(error)
    except Exception as error:
        said = str(error)
        outcome = "different" if "AssertionError" in said else "error", f"{type(error).__name__}: {said}"
    else:
        outcome = "yes", ""
    print(json.dumps(outcome), flush=True)


def run_apart(number, side):
    """The same in a new process: its outcome and what it said."""
    seconds = FORKED_SECONDS if "fork" in all_features()[number][1].lower() else SECONDS
    command = [sys.executable, __file__, "--run", str(number), side]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=ROOT
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=False)
        process.communicate()
        return "hangs", f"more than {seconds} seconds"
    lines = [line for line in out.splitlines() if line.startswith('["')]
    return tuple(json.loads(lines[-1])) if lines else ("aborts", err[-2000:])


def patched():
    """What the switch reaches: a name, and who computed."""
    function, target = torch.nn.functional.cross_entropy, torch.tensor([0, 1, 2, 3])
    logits, module = torch.zeros(4, 5), torch.nn.CrossEntropyLoss()

    def constructs(x, y):
        return torch.nn.CrossEntropyLoss()(x, y)

    def calls(x, y):
        return torch.nn.functional.cross_entropy(x, y)

    before = {each: torch.compile(each, backend="aot_eager") for each in (constructs, calls)}
    for compiled in before.values():
        compiled(logits, target)
    with ls_loss.patch():
        yield "`torch.nn.functional.cross_entropy`", route(calls, logits, target)
        yield "`nn.CrossEntropyLoss`, made before or after", route(module, logits, target)
        yield "a name taken before, `from torch.nn.functional import cross_entropy`", route(function, logits, target)
        yield (
            "a compiled call of the function, compiled before: compiled once more",
            route(before[calls], logits, target),
        )
        name = "`nn.CrossEntropyLoss` made inside a function that was compiled before: not noticed"
        yield name, route(before[constructs], logits, target)
        scripted = "`torch.jit.script` of a call: it raises"
        yield scripted, "native" if raises_when_scripted(calls) else "kernel"


def raises_when_scripted(function):
    try:
        torch.jit.script(function)
    except Exception:
        return True
    return False


def page(outcomes):
    lines, unexplained = [HEADER.format(torch=version("torch").partition("+")[0])], []
    for section, features in FEATURES.items():
        lines += [f"## {section}\n", "| | ls_loss | native | |", "|---|---|---|---|"]
        for feature, (_, sentence) in features.items():
            cells, said = zip(*(outcomes["; ".join((section, feature, side))] for side in SIDES), strict=True)
            if sentence == SAME and said[0].partition("\n")[0] != said[1].partition("\n")[0]:
                unexplained.append(f"{feature}: {said} are not the same words")
            if cells[0] != cells[1] and not sentence:
                unexplained.append(f"{feature}: {cells} and no sentence that explains it")
            shown = [cell if cell == "yes" else f"**{cell}**" for cell in cells]
            lines.append(f"| {feature} | {' | '.join(shown)} | {sentence} |")
        lines.append("")
    if unexplained:
        raise SystemExit("\n".join(unexplained))
    rows = [f"| {name} | {'yes' if who == 'kernel' else 'no'} |" for name, who in patched()]
    return "\n".join(lines) + "\n" + PATCHED.format(rows="\n".join(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="features whose name holds this; the others keep their last outcome")
    parser.add_argument("--run", nargs=2, metavar=("NUMBER", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run_here(int(arguments.run[0]), arguments.run[1])
        return
    outcomes = json.loads(OUTCOMES.read_text(encoding="utf-8")) if arguments.only and OUTCOMES.exists() else {}
    wanted = [
        (number, side)
        for number, (_, feature) in enumerate(all_features())
        for side in SIDES
        if arguments.only.lower() in feature.lower()
    ]
    OUTCOMES.parent.mkdir(parents=True, exist_ok=True)
    for number, side in tqdm(wanted, unit="probe", mininterval=0.5):
        name = "; ".join((*all_features()[number], side))
        outcomes[name] = run_apart(number, side)
        OUTCOMES.write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
        if outcomes[name][0] != "yes":
            tqdm.write(f"{name}: {': '.join(outcomes[name])}".replace("\n", " ")[:300])
    PAGE.write_text(page(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()

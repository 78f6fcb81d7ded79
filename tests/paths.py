"""Which operators a call ran, as the profiler saw them: for tests that assert the path.

Must not know what any of them computes.
"""

from torch.profiler import ProfilerActivity, profile


def operators(function, *args, **kwargs):
    """The result of the call, and the names of the operators that ran in it in their order."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        result = function(*args, **kwargs)
    return result, [event.name for event in sorted(profiler.events(), key=lambda event: event.time_range.start)]


def route(function, *args, **kwargs):
    """Who computed the loss: "kernel", "native" or "composite"."""
    _, names = operators(function, *args, **kwargs)
    if any(name in ("ls_loss::_loss", "ls_loss::_loss_grad") for name in names):
        return "kernel"
    return "native" if "aten::cross_entropy_loss" in names else "composite"

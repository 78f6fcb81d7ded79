"""What all tests share: the same random numbers on every run, settings put back, a header that names what is tested."""

import random

import hypothesis
import numpy
import pytest
import torch

import ls_loss

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


def pytest_report_header():
    config = ls_loss.config()
    keys = ("version", "isa", "isa_available", "threading", "threads", "torch_running")
    return "ls_loss: " + ", ".join(f"{key} {config[key]}" for key in keys)


@pytest.fixture(autouse=True)
def same_start():
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)

"""What every test starts from: one thread (the same numbers everywhere), no network, no signal ignored."""

from __future__ import annotations

import os
import signal
import threading

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import pytest
import torch

torch.set_num_threads(1)  # at once: fixtures of modules run before those of functions

# A shell without job control starts what it puts into the background with SIGINT ignored, and an ignored
# signal is inherited: no test of Ctrl-C, in this process or in its children, would mean anything.
if threading.current_thread() is threading.main_thread():
    for name, handler in (
        ("SIGINT", signal.default_int_handler),
        ("SIGTERM", signal.SIG_DFL),
        ("SIGHUP", signal.SIG_DFL),
    ):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
            signal.signal(getattr(signal, name), handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))

"""What every test starts from: one thread (the same numbers everywhere), no network, no signal ignored.

torch is imported late: pytest-xdist loads this file in the process that hands out the tests, too.
"""

from __future__ import annotations

import os
import signal
import threading

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # of the processes that tests start, too

import pytest

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
    import torch

    assert torch.get_num_threads() == 1
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))

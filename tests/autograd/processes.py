"""Checks on several gloo processes: all run each and report; a process that hangs is ended, and the test fails."""

import os
import time
import traceback
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

RANKS = 2
SECONDS = 120


def on_two_processes(checks, folder):
    """As `on_processes`."""
    return on_processes(RANKS, checks, folder)


def on_processes(ranks, checks, folder):
    """What the checks (functions of a module, without arguments) return on each rank; a traceback where one failed."""
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("no gloo")
    context = mp.start_processes(_worker, (ranks, checks, str(folder)), ranks, join=False, start_method="spawn")
    deadline = time.monotonic() + SECONDS
    try:
        while not context.join(timeout=1):  # raises if a process failed
            assert time.monotonic() < deadline, "a process hangs"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


def found(results, name):
    """What each rank found in the check of that name, which failed on none."""
    each = [result[name] for result in results]
    for rank, got in enumerate(each):
        assert not isinstance(got, str), f"rank {rank}: {got}"
    return each


def _worker(rank, ranks, checks, folder):
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )
    results = {}
    for name, check in checks.items():
        try:
            results[name] = check()
        except Exception:  # reported by the test of this check; all ranks go on to the next
            results[name] = traceback.format_exc()
        torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    # gloo's own threads may still let go of the last message's tensors, for which they need the interpreter; while one
    # shuts down, that now and then ends the process (SIGABRT). All has been reported by now.
    os._exit(0)

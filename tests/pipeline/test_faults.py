"""A stage that dies in the middle of a step: the other one says so, by name, and no process is left."""

import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import torch_manual_bp as tmb

from .cases import SCHEDULES, batch, objective_of

SECONDS = 20  # of patience with a stage that hangs
DIED = 7


def _run(rank, folder, schedule, dies, how):
    from torch_manual_bp.pipeline.upstream import Stage

    class Mortal(Stage):
        def backward_one_chunk(self, chunk, *args, **kwargs):
            if chunk == 2:
                if how == "dies":
                    os._exit(DIED)
                if how == "hangs":
                    time.sleep(4 * SECONDS)
                raise OSError("out of luck")
            super().backward_one_chunk(chunk, *args, **kwargs)

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    patience = timedelta(seconds=3 if how == "hangs" else SECONDS)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=patience)
    pipe = tmb.pipeline.build(objective_of(), 4, schedule, stage_class=Mortal if rank == dies else None)
    begin = time.monotonic()
    messages = []
    for call in (pipe.step, pipe.evaluate):
        try:
            call(*batch()[:2])
        except RuntimeError as error:
            messages.append(str(error))
    torch.save((messages, time.monotonic() - begin), f"{folder}/{rank}.pt")
    os._exit(0)  # without taking leave of a group that is gone


def run(folder, schedule, dies, how):
    """Exit codes, and what each process that came to its end has said, and after how long."""
    context = mp.start_processes(_run, (str(folder), schedule, dies, how), 2, join=False, start_method="spawn")
    waits = [context.processes[1 - dies]] if how == "hangs" else context.processes
    for process in waits:
        process.join(3 * SECONDS)
    codes = [process.exitcode for process in context.processes]
    for process in context.processes:
        process.kill()
        process.join()
    saved = [folder / f"{rank}.pt" for rank in range(2)]
    return codes, [torch.load(path) if path.exists() else None for path in saved]


@pytest.mark.parametrize(("schedule", "dies"), [*zip(SCHEDULES, (0, 1, 0), strict=True), ("zero_bubble", 1)])
def test_a_stage_that_dies_ends_the_run_on_the_other(tmp_path, schedule, dies):
    codes, said = run(tmp_path, schedule, dies, "dies")
    assert codes[dies] == DIED
    assert codes[1 - dies] == 0
    (messages, seconds) = said[1 - dies]
    assert seconds < SECONDS
    assert messages[0].startswith(f"step: pipeline stage {1 - dies} of 2 failed: ")
    assert messages[1].startswith("evaluate: since an error the stages are out of step, build the pipe anew: step: ")


def test_a_stage_that_hangs_is_waited_for_as_long_as_the_group_says(tmp_path):
    codes, said = run(tmp_path, "1f1b", 1, "hangs")
    assert codes[0] == 0
    (messages, seconds) = said[0]
    assert 2 < seconds < SECONDS
    assert messages[0].startswith("step: pipeline stage 0 of 2 failed: ")


def test_a_stage_that_fails_names_its_own_error_and_leaves_no_gradient_waiting(tmp_path):
    codes, said = run(tmp_path, "zero_bubble", 1, "fails")
    assert codes == [0, 0]
    assert said[1][0][0] == "step: pipeline stage 1 of 2 failed: OSError: out of luck"
    assert said[0][0][0].startswith("step: pipeline stage 0 of 2 failed: ")

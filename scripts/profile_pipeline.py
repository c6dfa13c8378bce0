#!/usr/bin/env python3
"""Trains an MLP whose two layers are on two devices, and shows what each rank did with its time.

python scripts/profile_pipeline.py                                   # two processes on the CPU, or on two GPUs
torchrun --nproc-per-node 2 scripts/profile_pipeline.py              # the same, started by torchrun
python scripts/profile_pipeline.py --schedule zero_bubble --microbatches 16 --epochs 20 --out runs/pipeline
python scripts/profile_pipeline.py --sizes 1024 1536 2048 1024       # B, d, h, q of random data, instead of the digits

For each schedule it writes the measured and the simulated timeline (<schedule>.png, .json) and each rank's trace for
TensorBoard (trace/<schedule>). The exit status is 1 where a gradient is not that of one process.
"""

import argparse
import os
import signal
import socket
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import torch_manual_bp as tmb
from torch_manual_bp.bench import pipeline as bench
from torch_manual_bp.bench.report import as_time
from torch_manual_bp.fit.prepare import Prepared, prepare
from torch_manual_bp.fit.sources import load_digits

SCHEDULES = ("gpipe", "1f1b", "zero_bubble")
RANKS = 2
SEED = 0


def main() -> int:
    """Be one of torchrun's processes, or start two."""
    options = _options()
    if "RANK" in os.environ:
        return _be_rank(options)
    with socket.socket() as probe:  # a port that is free now
        probe.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(RANKS)}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    ranks = mp.start_processes(_start, (options,), RANKS, join=False, daemon=True, start_method="spawn")
    try:
        while not ranks.join(timeout=1):
            pass
        return 0
    except mp.ProcessExitedException as ended:
        return 128 - ended.exit_code if ended.exit_code < 0 else ended.exit_code
    except mp.ProcessRaisedException as failed:
        print(f"profile_pipeline: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("profile_pipeline: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        for process in ranks.processes:
            process.kill()


def _start(rank: int, options: argparse.Namespace) -> None:
    # Ctrl-C, and the signal that torch has a child of a parent that died get, end it at once, in whatever it waits
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    status = _be_rank(options)
    sys.stdout.flush()
    os._exit(status)  # gloo's threads may need the interpreter for a moment longer, and abort where it shuts down


def _be_rank(options: argparse.Namespace) -> int:
    if int(os.environ["WORLD_SIZE"]) != RANKS:
        print(f"profile_pipeline: it takes {RANKS} processes, got {os.environ['WORLD_SIZE']}", file=sys.stderr)
        return 2
    device = torch.device("cpu")
    if options.device == "cuda" or (options.device == "auto" and torch.cuda.device_count() >= RANKS):
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.set_num_threads(options.threads)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=120), device_id=None if backend == "gloo" else device)
    try:
        return _profile(options, device)
    finally:
        dist.destroy_process_group()


def _profile(options: argparse.Namespace, device: torch.device) -> int:
    data = _data(options, device)
    x, y = data.x[: options.batch], data.y[: options.batch]
    d, q = x.shape[1], options.sizes[3] if options.sizes else int(data.y.max()) + 1

    def objective() -> tmb.Objective:
        torch.manual_seed(SEED)
        mlp = tmb.MLP(d, options.hidden, q, options.activation, device=device, dtype=x.dtype)
        return tmb.Objective(mlp, weight_decay=1e-4)

    alone = bench.one_process_seconds(objective(), x, y)
    _say(f"{RANKS} ranks on {device.type}, B, d, h, q = {len(x)}, {d}, {options.hidden}, {q} in {options.microbatches} "
         f"microbatches; one process: {as_time(alone)} for forward and backward", flush=True)  # fmt: skip
    right = True
    for schedule in options.schedule:
        pipe = tmb.pipeline.build(objective(), options.microbatches, schedule, device=device)
        errors = bench.errors_beside_one_process(pipe, objective(), x, y)
        right &= max(errors.values()) <= bench.TOLERANCE[x.dtype]
        watched = bench.watch(pipe, objective(), schedule, x, y, options.steps)
        trained = _train(pipe, data, options)
        tmb.memory.trace(
            lambda pipe=pipe: pipe.step(x, y), options.out / "trace" / schedule, worker=f"rank{dist.get_rank()}"
        )
        if dist.get_rank() == 0:
            watched.write(options.out)
        _tell(watched, errors, bench.TOLERANCE[x.dtype], trained)
    _say(f"pictures, JSON and traces: {options.out}")
    return 0 if right else 1


def _train(pipe: tmb.pipeline.Pipe, data: Prepared, options: argparse.Namespace) -> str:
    """What J became, and the share of held-out rows that are right."""
    optimizer = torch.optim.SGD(pipe.parameters(), lr=options.lr, momentum=0.9)
    generator = torch.Generator().manual_seed(SEED)  # every rank takes the same rows
    Js = []
    for _ in range(options.epochs):
        order = torch.randperm(len(data.x), generator=generator).to(data.x.device)
        for rows in order[: len(order) - len(order) % options.batch].split(options.batch):
            optimizer.zero_grad()
            Js.append(pipe.step(data.x[rows], data.y[rows]))
            optimizer.step()
    o = pipe.predict(data.x_held_out)
    accuracy = bench.gather(None if o is None else float((o.argmax(1) == data.y_held_out).float().mean()))[-1]
    return f"J {Js[0].item():.4g} → {Js[-1].item():.4g} in {len(Js)} steps, held-out accuracy {accuracy:.1%}"


def _tell(watched: bench.Watched, errors: dict[str, float], tolerance: float, trained: str) -> None:
    step = watched.measured
    idle = ", ".join(f"rank {rank} {share:.0%}" for rank, share in enumerate(step.idle))
    both = zip(watched.peak_bytes, watched.planned_bytes, strict=True)
    peaks = ", ".join(f"rank {rank} {peak:,} bytes (planned {plan:,})" for rank, (peak, plan) in enumerate(both))
    worst = max(errors, key=errors.__getitem__)
    verdict = "those of one process" if errors[worst] <= tolerance else "NOT THOSE OF ONE PROCESS"
    _say(
        f"\n{step.schedule}: a step takes {as_time(watched.makespan)}, simulated {as_time(watched.simulated.makespan)} "
        f"({watched.ratio:.3f}), a message {as_time(watched.send)}",
        step.chart(),
        f"idle: {idle}; memory: {peaks}",
        f"J and gradients are {verdict}: {worst} is off by {errors[worst]:.1e}, allowed {tolerance:.0e}",
        trained,
        sep="\n",
    )
    if not watched.quiet:
        _say(f"the machine is busy: ranks waited for a core, {max(watched.crowd):.0%} of a step at worst")


def _say(*what: str, **how: object) -> None:
    if dist.get_rank() == 0:
        print(*what, **how)  # type: ignore[call-overload]


def _data(options: argparse.Namespace, device: torch.device) -> Prepared:
    dtype = getattr(torch, options.dtype)
    data = prepare(load_digits(), seed=SEED, dtype=dtype, device=device)
    if options.sizes:
        B, d, _, q = options.sizes
        torch.manual_seed(SEED)
        x, y = torch.randn(B, d, dtype=dtype).to(device), torch.randint(q, (B,)).to(device)
        return Prepared(x, y, x, y, data.x_scale, None)
    return data


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedule", nargs="+", choices=SCHEDULES, default=SCHEDULES, help="default: all three")
    parser.add_argument("--microbatches", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=512, help="rows of the digits in a step")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--sizes", type=int, nargs=4, metavar=("B", "d", "h", "q"), help="random data of these sizes")
    parser.add_argument("--activation", default="relu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--steps", type=int, default=20, help="that are recorded")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="of each process, on the CPU")
    parser.add_argument("--out", type=Path, default=Path("runs/pipeline"))
    options = parser.parse_args()
    if options.sizes:
        options.batch, _, options.hidden, _ = options.sizes
    for schedule in options.schedule:
        try:
            tmb.pipeline.simulate(schedule, options.microbatches, [(1, 1, 1)] * RANKS)
        except ValueError as error:
            parser.error(str(error))
    if options.batch < 1 or options.batch % options.microbatches:
        parser.error(f"a batch must divide into {options.microbatches} microbatches, got {options.batch} rows")
    if options.device == "cuda" and torch.cuda.device_count() < RANKS:
        parser.error(f"it takes {RANKS} CUDA devices, torch {torch.__version__} sees {torch.cuda.device_count()}")
    if min(options.epochs, options.steps, options.threads) < 1:
        parser.error("epochs, steps and threads must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())

"""What cannot be planned, by name."""

import torch

from .setting import Setting

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check(s: Setting) -> None:
    """Raise unless the path takes it.

    Raises:
        ValueError: it does not.
    """
    tiled = s.tile_rows is not None
    whole = isinstance(s.tile_rows, int) and not isinstance(s.tile_rows, bool) and s.tile_rows > 0
    if tiled and s.tile_rows != "auto" and not whole:
        raise ValueError(f'plan: tile_rows must be a positive int or "auto", got {s.tile_rows!r}')
    if s.dtype not in DTYPES:
        raise ValueError(f"plan: dtype must be float64, float32, bfloat16 or float16, got {s.dtype}")
    if s.autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"plan: autocast must be bfloat16 or float16, got {s.autocast}")
    if s.save not in ("auto", "input"):
        raise ValueError(f"plan: save must be auto or input, got {s.save!r}")
    if s.path != "predict" and not s.trained and not s.x_requires_grad:
        raise ValueError("plan: there is nothing to train: no parameter requires a gradient")
    refused = {
        "tile_rows": tiled and s.path in ("predict", "eager"),
        "clip_norm": s.clipped and s.path != "step",
        "optimizer": s.optimizer is not None and s.path == "predict",
        "x_requires_grad": s.x_requires_grad and s.path in ("step", "predict"),
        "autocast": s.autocast is not None and s.path == "eager",
    }
    for name, is_refused in refused.items():
        if is_refused:
            raise ValueError(f'plan: {name} does not go with path="{s.path}"')
    if s.path == "eager":
        _check_eager(s)


def _check_eager(s: Setting) -> None:
    if not s.on_cpu:
        raise ValueError('plan: path="eager" is known on the CPU only')
    if s.phi.module is None:
        raise ValueError(f'plan: path="eager" needs an activation that torch has a module of, got {s.activation}')
    if s.loss.label_smoothing or s.class_weight or s.loss.reduction != "mean":
        raise ValueError('plan: path="eager" takes mean losses, without label smoothing and class weights')
    if s.weight_decay:
        raise ValueError('plan: path="eager" leaves λ to the optimizer: give weight_decay=0')


def check_stage(s: Setting) -> None:
    """Raise unless it is known what a pipeline's stage does.

    Raises:
        ValueError: 16 bits, whose sums are apart; a parameter that is frozen; rows that are no equal microbatches.
    """
    if s.dtype not in DTYPES[:2]:
        raise ValueError(f"plan_stages: dtype must be float64 or float32, got {s.dtype}")
    if s.trained != s.parameters:
        raise ValueError("plan_stages: every parameter of a stage must require a gradient")
    if s.batch % s.microbatches:
        raise ValueError(f"plan_stages: batch must be a multiple of {s.microbatches} microbatches, got {s.batch}")

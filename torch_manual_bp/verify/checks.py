"""All checks by name, the most important first, and how one of them is run so that it cannot stop the others."""

import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace

from .edges import check_bad_labels, check_empty_batches
from .finding import Finding
from .hidden import check_hidden_ops
from .large import check_large_tensors
from .lean import check_autocast, check_lean_gradients, check_steps
from .losses import check_class_tiles, check_cross_entropy, check_labels, check_scaled, check_target_losses
from .objectives import check_first_order, check_second_order
from .repeatability import check_repeatability
from .setting import Setting
from .streams import check_graphs, check_second_device, check_side_stream, check_waiting
from .transforms import check_compile, check_transforms
from .updates import check_sgd_products, check_updates

Check = Callable[[Setting], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "hidden ops": check_hidden_ops,
    "cross_entropy": check_cross_entropy,
    "mse, bce_with_logits": check_target_losses,
    "classes in tiles": check_class_tiles,
    "scaled logits": check_scaled,
    "labels": check_labels,
    "updates": check_updates,
    "SGD in products": check_sgd_products,
    "first order": check_first_order,
    "lean gradients": check_lean_gradients,
    "lean steps": check_steps,
    "nothing waits": check_waiting,
    "CUDA graphs": check_graphs,
    "side stream": check_side_stream,
    "same bits twice": check_repeatability,
    "second order": check_second_order,
    "autocast": check_autocast,
    "empty batches": check_empty_batches,
    "large tensors": check_large_tensors,
    "torch.func": check_transforms,
    "bad labels": check_bad_labels,
    "second device": check_second_device,
    "torch.compile": check_compile,
}
# those that call the ops one by one, for compute-sanitizer
OPS = (
    "hidden ops", "cross_entropy", "mse, bce_with_logits", "classes in tiles", "scaled logits", "labels", "updates",
    "SGD in products",
)  # fmt: skip


def run_check(name: str, setting: Setting) -> Iterator[Finding]:
    """The check's findings; an error that it raises is the last of them."""
    try:
        for finding in CHECKS[name](setting):
            yield replace(finding, group=name)
    except Exception as error:
        where = "".join(traceback.format_exception(error)[-3:])
        yield Finding("raised", ok=False, note=f"{type(error).__name__}: {error}\n{where}", group=name)

"""The ops in plain torch: where no extension was compiled, and for devices that it does not serve.

They compute by the definitions in ``equations``, a tile of rows at a time: temporaries stay small whatever B is.
bfloat16 and float16 are worked on in float32. Names, arguments and results are those of the compiled ops.
"""

from .classes import class_loss, class_statistics_, cross_entropy_classes_
from .hidden import act, bias_act_, bias_act_keep_, bias_act_mask_, dact_, dact_bias_grad_
from .losses import bce_with_logits_, cross_entropy_, find_bad_label, mse_, scaled
from .update import adam_, sgd_, sgd_products_

__all__ = [
    "act",
    "adam_",
    "bce_with_logits_",
    "bias_act_",
    "bias_act_keep_",
    "bias_act_mask_",
    "class_loss",
    "class_statistics_",
    "cross_entropy_",
    "cross_entropy_classes_",
    "dact_",
    "dact_bias_grad_",
    "find_bad_label",
    "mse_",
    "scaled",
    "sgd_",
    "sgd_products_",
]

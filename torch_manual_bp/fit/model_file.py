"""A trained net in one file, with all that prediction needs: names, scaling, sizes. Nothing in it is code."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..nn import MLP
from . import torch_file
from .dataset import Array, Dataset, task_named
from .prepare import Prepared, Scale

_FORMAT = 1
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class Model:
    """A net and what its inputs and outputs mean.

    Attributes:
        mlp: the net, which takes scaled features.
        task: a name of `TASKS`.
        features: names of the d features.
        outputs: names of the q classes or targets.
        x_scale: scaling of the features, from the training rows.
        y_scale: scaling of the targets; None unless the task is regression.
        weight_decay: λ of the objective that it was trained on; None where that is not known.
    """

    mlp: MLP
    task: str
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    x_scale: Scale
    y_scale: Scale | None
    weight_decay: float | None = None

    @classmethod
    def trained(cls, mlp: MLP, dataset: Dataset, data: Prepared, weight_decay: float | None = None) -> "Model":
        """The net that was trained on a data set, with λ = ``weight_decay``."""
        return cls(mlp, dataset.task, dataset.features, dataset.outputs, data.x_scale, data.y_scale, weight_decay)

    def tensors(self, dataset: Dataset) -> tuple[Tensor, Tensor]:
        """X (N,d) and y, class indices (N,) or targets (N,q), scaled as the net was trained, in its dtype, beside it.

        Args:
            dataset: with the model's own features and outputs, see `load_labelled`.
        """
        weight = self.mlp.fc1.weight
        x = torch.as_tensor(self.x_scale.apply(dataset.x)).to(weight.device, weight.dtype)
        if self.task == "classification":
            return x, torch.as_tensor(dataset.y).to(weight.device)
        y = dataset.y if self.y_scale is None else self.y_scale.apply(dataset.y)
        return x, torch.as_tensor(y).to(weight.device, weight.dtype)

    @torch.no_grad()
    def predict(self, x: Array) -> Array:
        """What the net says of unscaled features x (N, d): probabilities (N, q), or targets in their own units.

        Raises:
            ValueError: x has another shape.
        """
        if x.ndim != 2 or x.shape[1] != len(self.features):
            raise ValueError(f"Model.predict: x must have shape (N, {len(self.features)}), got {x.shape}")
        weight = self.mlp.fc1.weight
        scaled = torch.as_tensor(self.x_scale.apply(x)).to(weight.device, weight.dtype)
        o = torch.cat([self.mlp(rows) for rows in scaled.split(_ROWS_AT_ONCE)]).double().cpu()
        if self.task == "classification":
            return o.softmax(1).numpy()
        if self.task == "multilabel":
            return o.sigmoid().numpy()
        assert self.y_scale is not None
        return self.y_scale.undo(o.numpy())

    def to_bytes(self) -> bytes:
        """The file's content: nothing but tensors, numbers and strings."""
        mlp = self.mlp
        content = {
            "format": _FORMAT,
            "task": self.task,
            "features": list(self.features),
            "outputs": list(self.outputs),
            "config": {
                "in_features": mlp.in_features,
                "hidden_features": mlp.hidden_features,
                "out_features": mlp.out_features,
                "activation": mlp.activation,
                "hidden_bias": mlp.fc1.bias is not None,
                "output_bias": mlp.fc2.bias is not None,
            },
            "state_dict": {name: value.cpu() for name, value in mlp.state_dict().items()},
            "x_scale": _tensors(self.x_scale),
            "y_scale": None if self.y_scale is None else _tensors(self.y_scale),
            "weight_decay": self.weight_decay,
        }
        return torch_file.to_bytes(content)


def load_model(path: str | Path) -> Model:
    """The model in a file that training wrote, on the CPU; loading runs no code from the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no model file, a damaged one, or of a format that this version does not know.
    """
    content = torch_file.read(Path(path), "a model file")
    if content.get("format") != _FORMAT:
        raise ValueError(f"{path}: expected a model of format {_FORMAT}, got format {content.get('format')!r}")
    try:
        state = content["state_dict"]
        mlp = MLP(**content["config"], dtype=state["fc1.weight"].dtype)
        mlp.load_state_dict(state)
        y_scale = None if content["y_scale"] is None else _scale(content["y_scale"])
        features, outputs = tuple(content["features"]), tuple(content["outputs"])
        task = task_named(content["task"], "load_model").name
        weight_decay = content.get("weight_decay")  # files of the first versions do not have it
        return Model(mlp, task, features, outputs, _scale(content["x_scale"]), y_scale, weight_decay)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: expected a model of format {_FORMAT}, got a damaged one ({error!r})") from error


def _tensors(scale: Scale) -> dict[str, Tensor]:
    return {"mean": torch.as_tensor(scale.mean), "spread": torch.as_tensor(scale.spread)}


def _scale(tensors: dict[str, Tensor]) -> Scale:
    return Scale(np.asarray(tensors["mean"]), np.asarray(tensors["spread"]))

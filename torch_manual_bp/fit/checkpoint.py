"""A run in one file, so that another process can go on with it to the same bits. Nothing in the file is code."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from . import torch_file
from .train import Training

_FORMAT = 1


class Before(NamedTuple):
    """What is known of the processes that have worked on a run already.

    Attributes:
        seconds: how long they have trained.
        environment: what the numbers of the last one depend on beside the code; empty if there was none.
    """

    seconds: float
    environment: dict[str, Any]


def to_bytes(training: Training, seconds: float, environment: dict[str, Any]) -> bytes:
    """The content of a checkpoint of a run as it is between two steps.

    Args:
        training: the run.
        seconds: how long it has been trained, by all processes together.
        environment: versions, kernels and threads, by name.
    """
    content = {
        "checkpoint": _FORMAT,
        "data": _data(training),
        "settings": _settings(training),
        "training": training.state_dict(),
        "seconds": seconds,
        "environment": environment,
    }
    return torch_file.to_bytes(content)


def restore(training: Training, path: Path) -> Before:
    """Take a run that has made no step yet to where it was when the checkpoint was written.

    It must be of the same data and settings, but may have more epochs.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: no checkpoint, a damaged one, one of another format, of another data set, or of other settings, each
            of which is named.
    """
    if not path.exists():
        raise FileNotFoundError(f"train: resume needs a checkpoint, got no {path}; a new run starts without resume")
    content = torch_file.read(path, "a checkpoint")
    if content.get("checkpoint") != _FORMAT:
        raise ValueError(f"{path}: expected a checkpoint of format {_FORMAT}, got format {content.get('checkpoint')!r}")
    try:
        _check_data(content["data"], _data(training), path)
        _check_settings(content["settings"], _settings(training), path)
        training.load_state_dict(content["training"])
        return Before(content["seconds"], content["environment"])
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: expected a checkpoint of format {_FORMAT}, got a damaged one ({error!r})") from error


def _data(training: Training) -> dict[str, Any]:
    dataset = training.dataset
    return {"name": dataset.name, "shape": list(dataset.x.shape), "fingerprint": dataset.fingerprint}


def _settings(training: Training) -> dict[str, Any]:
    settings = training.settings
    return asdict(settings) | {"lr": settings.learning_rate, "compare": len(training.learners) > 1}


def _check_data(there: dict[str, Any], here: dict[str, Any], path: Path) -> None:
    if there["fingerprint"] != here["fingerprint"]:
        expected, got = (
            f"{of['name']} with x of shape {tuple(of['shape'])} and fingerprint {of['fingerprint'][:12]}"
            for of in (there, here)
        )
        raise ValueError(f"train: data must be those of {path}: {expected}, got {got}")


def _check_settings(there: dict[str, Any], here: dict[str, Any], path: Path) -> None:
    wrong = [f"{name} is {there[name]} there, got {value}" for name, value in here.items()
             if (value < there[name] if name == "epochs" else value != there[name])]  # fmt: skip
    if wrong:
        raise ValueError(f"train: settings must be those of {path}, but for more epochs: {'; '.join(wrong)}")

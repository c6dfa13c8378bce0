"""Train on a data set: what `python -m torch_manual_bp train` does, as functions.

Data, settings, training and saved models need nothing but torch and NumPy; the digits, the progress bar and the picture
need the extra ``train``, and `torch_manual_bp.fit.job` brings them all together.
"""

from .csv_file import load_csv, read_features
from .dataset import TASKS, Dataset
from .labelled import load_labelled
from .learner import Diverged
from .model_file import Model, load_model
from .paths import PATHS
from .settings import OPTIMIZERS, Settings
from .sources import load, load_digits, load_npz
from .train import Training

__all__ = [
    "OPTIMIZERS",
    "PATHS",
    "TASKS",
    "Dataset",
    "Diverged",
    "Model",
    "Settings",
    "Training",
    "load",
    "load_csv",
    "load_digits",
    "load_labelled",
    "load_model",
    "load_npz",
    "read_features",
]

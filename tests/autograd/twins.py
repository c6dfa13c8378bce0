"""An MLP and the nn.Sequential that has its parameters."""

import torch
from torch import nn
from torch.nn import functional as F

import torch_manual_bp as tmb

from .reference import LAMBDA, PHI


class Phi(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def forward(self, z):
        return PHI[self.activation](z)


KEYS = {"fc1.weight": "0.weight", "fc1.bias": "0.bias", "fc2.weight": "2.weight", "fc2.bias": "2.bias"}


def twins(activation="tanh", save="auto", dtype=torch.float64, **options):
    """An MLP, and the nn.Sequential that loads its state."""
    mlp = tmb.MLP(5, 6, 4, activation, save=save, dtype=dtype)
    sequential = nn.Sequential(nn.Linear(5, 6), Phi(activation), nn.Linear(6, 4)).to(dtype)
    sequential.load_state_dict({KEYS[name]: value for name, value in mlp.state_dict().items()})
    return mlp, sequential


def batch(B=9, dtype=torch.float64):
    return torch.randn(B, 5, dtype=torch.float64).to(dtype), torch.randint(4, (B,))


def penalised(sequential, x, y):
    return F.cross_entropy(sequential(x), y) + LAMBDA / 2 * sum(sequential[i].weight.square().sum() for i in (0, 2))

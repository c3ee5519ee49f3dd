"""PyTorch on the CPU, eager or compiled."""

import os

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.speed.works import Work


class VAE(nn.Module):
    """An encoder and a decoder."""

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        size, hidden, latent = sizes
        self.hidden = nn.Linear(size, hidden)
        self.mean = nn.Linear(hidden, latent)
        self.log_std = nn.Linear(hidden, latent)
        self.back = nn.Linear(latent, hidden)
        self.logits = nn.Linear(hidden, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the mean negative ELBO."""
        h = functional.relu(self.hidden(x))
        mean, log_std = self.mean(h), self.log_std(h)
        std = log_std.exp()
        z = mean + std * torch.randn_like(mean)
        logits = self.logits(functional.relu(self.back(z)))
        bce = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * log_std).sum()
        return (bce + kl) / len(x)


def trainer(work: Work, images: np.ndarray, compiled: bool = False):
    """See `contestants`."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    data = torch.from_numpy(images)
    model = VAE(work.sizes)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss = torch.compile(model) if compiled else model

    def batches():
        if work.steps_per_epoch == 1:
            return [data]
        order = torch.randperm(len(data))[: work.steps_per_epoch * work.batch_size]
        return (data[rows] for rows in order.split(work.batch_size))

    def train(epochs: int) -> float:
        for _ in range(epochs):
            losses = []
            for x in batches():
                optimizer.zero_grad()
                value = loss(x)
                value.backward()
                optimizer.step()
                losses.append(value.detach())
        return float(torch.stack(losses).mean())

    return train

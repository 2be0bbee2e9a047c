"""Two halves of scikit-learn's digits, told from each other: a loss over all samples of a batch."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from orchestrator.losses import embed_in_chunks, sigmoid_contrastive, softmax_contrastive


class Towers(nn.Module):
    """Embeddings of upper and lower halves, with a temperature and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 6)) for _ in range(2)
        )
        # FSDP2 divides no scalars.
        self.log_scale = nn.Parameter(torch.tensor([1.0]))
        self.bias = nn.Parameter(torch.tensor([-1.0]))

    def forward(self, upper, lower):
        x, y = (F.normalize(tower(half), dim=1) for tower, half in zip(self.towers, (upper, lower), strict=True))
        return x, y, self.log_scale.exp().squeeze(), self.bias.squeeze()


class Pairs:
    """Halves of the first 300 digits.

    Args:
        kind: softmax, shift or bidirectional.
        chunk_size: of embeddings.
        declared: whether the recipe says that it couples samples.
    """

    def __init__(self, kind: str = "softmax", chunk_size: int | None = None, declared: bool = True) -> None:
        self.kind = kind
        self.chunk_size = chunk_size
        self.couples_samples = declared

    def build_model(self) -> nn.Module:
        return Towers()

    def build_datasets(self):
        images = torch.tensor(load_digits().data[:320], dtype=torch.float32) / 16
        rows = [{"upper": image[:32], "lower": image[32:]} for image in images]
        return rows[:300], rows[300:]

    def loss(self, model, batch):
        x, y, scale, bias = embed_in_chunks(model, (batch["upper"], batch["lower"]), self.chunk_size)
        if self.kind == "softmax":
            # The bias takes part, so that its gradient is compared too.
            return softmax_contrastive(x, y, scale) + 0.01 * bias**2, {"scale": scale.detach()}
        return sigmoid_contrastive(x, y, scale, bias, exchange=self.kind), {"scale": scale.detach()}

    def predict(self, model, batch):
        x, y, *_ = model(batch["upper"], batch["lower"])
        return x, y

    def evaluate_all(self, predictions):
        x, y = (torch.cat(rows) for rows in zip(*predictions, strict=True))
        # Depends on the order and on all rows at once: no mean over batches is this.
        rank = torch.arange(1.0, 1 + len(x))
        return {"told": ((x @ y.T).argmax(1) == torch.arange(len(x))).float().mean(), "order": (x[:, 0] * rank).sum()}

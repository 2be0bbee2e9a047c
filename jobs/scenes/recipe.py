"""Scenes of scikit-learn's handwritten digits in many sizes, to detect or to segment.

Every scene is a noisy canvas of 64 x 64 with one to four real digits on it, 10 to 32 pixels high. The 360 originals
that `jobs/digits` holds out make the scenes of the evaluation and are in no other. Scenes are made once per set of
arguments and cached through `datasets`.

Both models have a backbone with batch norm, a feature pyramid and a head: `parameter_modules` names the three.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import torch
from composition import CANVAS, MAX_OBJECTS, NUM_CLASSES, cached_scenes, split_originals
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (4, 8, 16)
Batch = dict[str, Tensor]


class _Scenes:
    """What both recipes share.

    Args:
        width: Channels of the backbone's first stage; the others have two and four times as many.
        channels: Of the feature pyramid and the head.
        num_train_scenes: Size of the training set.
        num_evaluation_scenes: Size of the evaluation set.
        seed: Of the scenes. It does not change the initial weights.
    """

    def __init__(
        self,
        width: int = 16,
        channels: int = 32,
        num_train_scenes: int = 4096,
        num_evaluation_scenes: int = 512,
        seed: int = 0,
    ) -> None:
        self.width = width
        self.channels = channels
        self.num_train_scenes = num_train_scenes
        self.num_evaluation_scenes = num_evaluation_scenes
        self.seed = seed

    def build_datasets(self) -> tuple[datasets.Dataset, datasets.Dataset]:
        """Return training and evaluation scenes: `pixels`, `mask`, `boxes` and `labels`, as tensors."""
        train, held_out = split_originals()
        return (
            cached_scenes(train, self.num_train_scenes, self.seed).with_format("torch"),
            # Another seed than any training set's, and always the same.
            cached_scenes(held_out, self.num_evaluation_scenes, 2**32 - 1).with_format("torch"),
        )

    def parameter_modules(self, model: nn.Module) -> dict[str, list[str]]:
        """Return the model's modules, the backbone first, each with what its parameters belong to."""
        return {"backbone": ["backbone"], "fpn": ["fpn"], "head": ["head"]}


class Detector(_Scenes):
    """Anchor-free detection, as in FCOS: every cell of every level tells classes and one box.

    The loss of an image is divided by the number of its own positive cells, and the batch's is the mean over images.
    Divided by those of a worker's share, as detectors often are, it would depend on how the batch is shared out.
    """

    def build_model(self) -> nn.Module:
        """Return the net: images `(batch, 1, 64, 64)` to logits `(batch, cells, 10)` and boxes `(batch, cells, 4)`."""
        return DetectionNet(self.width, self.channels)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return focal loss + smooth L1 of the boxes, and the two alone."""
        logits, boxes = model(images(batch))
        classes, regression = detection_losses(logits, boxes, batch["boxes"].view(-1, MAX_OBJECTS, 4), batch["labels"])
        return classes + regression, {"class_loss": classes.detach(), "box_loss": regression.detach()}

    def predict(self, model: nn.Module, batch: Batch) -> Batch:
        """Return the best boxes of a batch with the true ones, and the batch's mean loss."""
        logits, encoded = model(images(batch))
        truth = batch["boxes"].view(-1, MAX_OBJECTS, 4)
        loss = sum(detection_losses(logits, encoded, truth, batch["labels"]))
        boxes, scores, labels = best_boxes(logits, encoded)
        found = {"boxes": boxes, "scores": scores, "labels": labels}
        return {**found, "true_boxes": truth, "true_labels": batch["labels"], "loss": torch.as_tensor(loss)}

    def evaluate_all(self, predictions: Sequence[Batch]) -> dict[str, float]:
        """Return mean `loss`, mean average precision `map` over IoU 0.5 to 0.95, and `map_50`, at 0.5."""
        counts = [len(prediction["labels"]) for prediction in predictions]
        loss = sum(float(p["loss"]) * count for p, count in zip(predictions, counts, strict=True)) / sum(counts)
        return {"loss": loss, **average_precision(predictions)}


class Segmenter(_Scenes):
    """A class for every pixel: one of the ten digits, or background."""

    def build_model(self) -> nn.Module:
        """Return the net: images `(batch, 1, 64, 64)` to logits `(batch, 11, 64, 64)`."""
        return SegmentationNet(self.width, self.channels)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean cross-entropy over pixels in nats."""
        loss = functional.cross_entropy(model(images(batch)), masks(batch))
        return loss, {}

    def predict(self, model: nn.Module, batch: Batch) -> Batch:
        """Return how many pixels of each class were taken for each, `(11, 11)`, and the summed loss."""
        logits, truth = model(images(batch)), masks(batch)
        pairs = truth * (NUM_CLASSES + 1) + logits.argmax(1)
        counts = torch.bincount(pairs.flatten(), minlength=(NUM_CLASSES + 1) ** 2)
        loss = functional.cross_entropy(logits, truth, reduction="sum")
        return {"confusion": counts.view(NUM_CLASSES + 1, -1), "loss": loss}

    def evaluate_all(self, predictions: Sequence[Batch]) -> dict[str, float]:
        """Return mean `loss`, and `mean_iou` over background and the digits that there are."""
        confusion = torch.stack([prediction["confusion"] for prediction in predictions]).sum(0).double()
        true_positives, union = confusion.diagonal(), confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        loss = sum(float(prediction["loss"]) for prediction in predictions) / float(confusion.sum())
        return {"loss": loss, "mean_iou": float((true_positives / union)[union > 0].mean())}


def images(batch: Batch) -> Tensor:
    """Return the batch's images `(batch, 1, 64, 64)` in [-1, 1]."""
    return batch["pixels"].view(-1, 1, CANVAS, CANVAS) / 127.5 - 1.0


def masks(batch: Batch) -> Tensor:
    """Return the class of each pixel `(batch, 64, 64)`: 0 is background, 1 + k the digit k."""
    return batch["mask"].view(-1, CANVAS, CANVAS).long()


class Backbone(nn.Module):
    """Three stages with batch norm: features of strides 4, 8 and 16."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width)
        self.stem = _convolution(1, width, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(_convolution(before, after, stride=2), _convolution(after, after, stride=1))
            for before, after in zip((width, *widths), widths, strict=False)
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return features `(batch, channels, side, side)`, the finest first."""
        features = [self.stem(pixels)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[1:]


class Pyramid(nn.Module):
    """A feature pyramid: what the coarse levels know, on all of them in the same number of channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(factor * width, channels, 1) for factor in (1, 2, 4))
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in STRIDES)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return one map for each level, the finest first."""
        maps = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for level in (1, 0):
            maps[level] = maps[level] + functional.interpolate(maps[level + 1], scale_factor=2.0)
        return [smooth(level) for smooth, level in zip(self.smooth, maps, strict=True)]


class DetectionHead(nn.Module):
    """Classes and boxes of every cell, by the same weights on all levels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Group norm: statistics of a batch would mix the levels, which share these weights.
        self.trunk = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(4, channels), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(4, channels), nn.ReLU()),
        )
        self.classes = nn.Conv2d(channels, NUM_CLASSES, 3, padding=1)
        self.boxes = nn.Conv2d(channels, 4, 3, padding=1)
        # Nearly every cell is background: a first guess of 1 %, as focal loss needs it.
        assert self.classes.bias is not None
        nn.init.constant_(self.classes.bias, -np.log(99.0))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits `(batch, cells, 10)` and encoded boxes `(batch, cells, 4)`, level after level."""
        trunks = [self.trunk(level) for level in maps]
        logits, boxes = ([layer(trunk).flatten(2) for trunk in trunks] for layer in (self.classes, self.boxes))
        return torch.cat(logits, 2).transpose(1, 2), torch.cat(boxes, 2).transpose(1, 2)


class SegmentationHead(nn.Module):
    """The class of every pixel from the sum of all levels at the finest one's size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        finest = STRIDES[0]
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(channels, (NUM_CLASSES + 1) * finest**2, 1), nn.PixelShuffle(finest)),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits `(batch, 11, 64, 64)`."""
        side = maps[0].shape[-1]
        logits: Tensor = self.layers(sum(functional.interpolate(level, size=(side, side)) for level in maps))
        return logits


class DetectionNet(nn.Module):
    """Backbone, pyramid and detection head."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.backbone, self.fpn, self.head = Backbone(width), Pyramid(width, channels), DetectionHead(channels)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the head makes of all levels."""
        logits, boxes = self.head(self.fpn(self.backbone(pixels)))
        return logits, boxes


class SegmentationNet(nn.Module):
    """Backbone, pyramid and segmentation head."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.backbone, self.fpn, self.head = Backbone(width), Pyramid(width, channels), SegmentationHead(channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return what the head makes of all levels."""
        logits: Tensor = self.head(self.fpn(self.backbone(pixels)))
        return logits


def _convolution(num_inputs: int, num_outputs: int, stride: int) -> nn.Module:
    convolution = nn.Conv2d(num_inputs, num_outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(num_outputs), nn.ReLU())


def cells() -> tuple[Tensor, Tensor]:
    """Return centers `(cells, 2)` as (x, y) in pixels and strides `(cells,)` of all levels, in the head's order."""
    centers, strides = [], []
    for stride in STRIDES:
        places = (torch.arange(CANVAS // stride) + 0.5) * stride
        rows, columns = torch.meshgrid(places, places, indexing="ij")
        centers.append(torch.stack([columns.flatten(), rows.flatten()], 1))
        strides.append(torch.full((len(centers[-1]),), float(stride)))
    return torch.cat(centers), torch.cat(strides)


def owners(boxes: Tensor, labels: Tensor) -> Tensor:
    """Return which object each cell belongs to, `(batch, cells)`; -1 is none.

    An object belongs to the level of its longer side, and there to the cells whose centers are within three quarters
    of a cell of its own in both directions: one to four. A cell of several belongs to the smallest.

    Args:
        boxes: (x0, y0, x1, y1) in pixels, `(batch, objects, 4)`.
        labels: `(batch, objects)`, -1 where there is no object.
    """
    centers, strides = (tensor.to(boxes.device) for tensor in cells())
    sides = boxes[..., 2:] - boxes[..., :2]
    longest = sides.amax(-1)
    level = (longest > 14.0).long() + (longest > 22.0).long()
    stride_of_object = torch.tensor(STRIDES, device=boxes.device)[level]
    away = (boxes[..., :2] + sides / 2)[:, None] - centers[:, None]  # (batch, cells, objects, 2)
    is_near = away.abs().amax(-1) < 0.75 * strides[:, None]
    is_owner = is_near & (strides[:, None] == stride_of_object[:, None]) & (labels >= 0)[:, None]
    area = torch.where(is_owner, sides.prod(-1)[:, None], torch.inf)
    smallest, owner = area.min(-1)
    return torch.where(smallest.isfinite(), owner, -1)


def encode(boxes: Tensor) -> Tensor:
    """Return boxes `(batch, cells, 4)` as their cells say them: center and log size, in units of the stride."""
    centers, strides = (tensor.to(boxes.device) for tensor in cells())
    sides = (boxes[..., 2:] - boxes[..., :2]) / strides[:, None]
    return torch.cat([(boxes[..., :2] - centers) / strides[:, None] + sides / 2, sides.log()], -1)


def decode(encoded: Tensor) -> Tensor:
    """Return what `encode` was given."""
    centers, strides = (tensor.to(encoded.device) for tensor in cells())
    middle, sides = encoded[..., :2], encoded[..., 2:].clamp(max=4.0).exp()
    corners = torch.cat([middle - sides / 2, middle + sides / 2], -1) * strides[:, None]
    return corners + centers.repeat(1, 2)


def detection_losses(logits: Tensor, encoded: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return focal loss of the classes and smooth L1 of the boxes, means over images of sums per positive cell.

    Focal loss: Lin et al., arXiv 1708.02002, alpha 0.25, gamma 2.

    Args:
        logits: `(batch, cells, 10)`.
        encoded: `(batch, cells, 4)`.
        boxes: the true ones, `(batch, objects, 4)`.
        labels: theirs, `(batch, objects)`; -1 is none.
    """
    owner = owners(boxes, labels)
    is_positive = owner >= 0
    num_positive = is_positive.sum(1).clamp(min=1)
    chosen = owner.clamp(min=0)
    wanted = functional.one_hot(labels.clamp(min=0).gather(1, chosen), NUM_CLASSES) * is_positive[..., None]
    # Probability of what is not so: 0 where the guess is right and sure.
    wrong = torch.where(wanted == 1, 1 - logits.sigmoid(), logits.sigmoid())
    balance = torch.where(wanted == 1, 0.25, 0.75)
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")
    classes = (balance * wrong**2 * entropy).sum((1, 2)) / num_positive
    # Boxes of cells without an object are of no size; ones stand in for them.
    safe = torch.where(is_positive[..., None], boxes.gather(1, chosen[..., None].expand(-1, -1, 4)), cell_boxes(boxes))
    distance = functional.smooth_l1_loss(encoded, encode(safe), reduction="none", beta=0.1).sum(-1)
    return classes.mean(), ((distance * is_positive).sum(1) / num_positive).mean()


def cell_boxes(like: Tensor) -> Tensor:
    """Return each cell as a box, `(cells, 4)`."""
    centers, strides = (tensor.to(like.device) for tensor in cells())
    return torch.cat([centers - strides[:, None] / 2, centers + strides[:, None] / 2], 1)


def best_boxes(logits: Tensor, encoded: Tensor, num_kept: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes `(batch, kept, 4)`, scores and labels `(batch, kept)`; a score of 0 is no box.

    The best scores of an image, less those whose box overlaps a better one of the same class by more than half.
    """
    scores, places = logits.sigmoid().flatten(1).topk(num_kept, dim=1)
    labels = places % NUM_CLASSES
    boxes = decode(encoded).gather(1, (places // NUM_CLASSES)[..., None].expand(-1, -1, 4))
    rivals = (overlaps(boxes) > 0.5) & (labels[:, :, None] == labels[:, None])
    is_kept = torch.ones_like(scores, dtype=torch.bool)
    for better in range(num_kept - 1):
        is_kept[:, better + 1 :] &= ~(rivals[:, better, better + 1 :] & is_kept[:, better, None])
    return boxes, scores * is_kept, labels


def overlaps(boxes: Tensor) -> Tensor:
    """Return the intersection over union of every two boxes of an image, `(batch, n, n)`."""
    low, high = boxes[..., :2], boxes[..., 2:]
    sides = (torch.minimum(high[:, :, None], high[:, None]) - torch.maximum(low[:, :, None], low[:, None])).clamp(min=0)
    shared, areas = sides.prod(-1), (high - low).prod(-1)
    return shared / (areas[:, :, None] + areas[:, None] - shared).clamp(min=1e-9)


def average_precision(predictions: Sequence[Batch]) -> dict[str, float]:
    """Return COCO's mean average precision over classes, `map` (IoU 0.5 to 0.95) and `map_50`."""
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    numbers = [(prediction, row) for prediction in predictions for row in range(len(prediction["labels"]))]
    for number, (prediction, row) in enumerate(numbers, start=1):
        for box, label in zip(prediction["true_boxes"][row], prediction["true_labels"][row].tolist(), strict=True):
            if label >= 0:
                truth.append({"id": len(truth) + 1, "iscrowd": 0, **_annotation(number, box, label)})
        for place in prediction["scores"][row].nonzero().flatten().tolist():
            box, label = prediction["boxes"][row, place], int(prediction["labels"][row, place])
            found.append({"score": float(prediction["scores"][row, place]), **_annotation(number, box, label)})
    categories = [{"id": label, "name": str(label)} for label in range(NUM_CLASSES)]
    scenes = [{"id": number + 1} for number in range(len(numbers))]
    known = COCO({"images": scenes, "categories": categories, "annotations": truth})
    evaluation = COCOeval_faster(known, known.loadRes(found), iouType="bbox")
    evaluation.run()
    return {"map": evaluation.stats_as_dict["AP_all"], "map_50": evaluation.stats_as_dict["AP_50"]}


def _annotation(number: int, box: Tensor, label: int) -> dict[str, Any]:
    x0, y0, x1, y1 = box.tolist()
    return {
        "image_id": number,
        "category_id": label,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
    }

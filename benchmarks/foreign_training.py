"""Trains a small detector with MONAI's parts alone, and saves it as others publish theirs.

`python -m benchmarks.foreign_training segresnet` trains a SegResNet, and writes `model.pth` and `config.yaml`;
`retinanet` trains a `RetinaNetDetector`, and writes a MONAI bundle. Networks, losses, matcher, sampler and
augmentations are MONAI's; the nodules are the cubes of LUNA16 that PIVOT trains on, and a quarter of the patches show
lung without a nodule. The held-out subset and patients are those of `configs/train_cubes.yaml`. So PIVOT is seen to
run what another program trained (docs/detectors.md). The time allowed is the
processor's; the learning rate falls with it.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy import ndimage
from torch import Tensor, nn

from src.files import writable_folder
from src.train.config import load_train_config
from src.train.cubes import load_cubes
from src.train.sources import load_background
from tests.foreign_models import bundle_config

__all__ = ["main"]

CLEAR = 0.25  # of the patches of a step show lung without a nodule
LEAST_BOX = 2  # voxels along each side
PIECE = 64  # voxels: the side of a piece of a scan that a patch is cut from
RATE, WARM, CLIP = 1e-3, 50, 10.0  # AdamW's; steps in which it rises; the largest norm of a gradient
LOW, HIGH = -1000.0, 400.0  # HU
SPACING = [1.0, 1.0, 1.0]  # mm, that of the cubes
TOLD_EVERY, SAVED_EVERY = 20, 300  # steps; seconds
SEGRESNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "init_filters": 8,
    "blocks_down": [1, 2, 2, 4],
    "blocks_up": [1, 1, 1],
    "norm": "batch",  # that of groups would depend on the windows' size
}
BACKBONE: dict[str, Any] = {
    "spatial_dims": 3,
    "n_input_channels": 1,
    "conv1_t_stride": [2, 2, 2],
    "conv1_t_size": [7, 7, 7],
}
SHAPES, SCALES = [[4, 4, 4], [7, 7, 7], [12, 12, 12]], [1, 2]  # of anchors, in voxels
DIVISIBLE, LAYERS = [8, 8, 8], [1]
CHOICE = {"score_thresh": 0.02, "topk_candidates_per_level": 1000, "nms_thresh": 0.22, "detections_per_img": 300}
Sample = dict[str, Any]


def main() -> None:
    """Train, and write the model into the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--minutes", type=float, default=40.0, help="of the processor")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds the cubes and backgrounds/")
    parser.add_argument("--config", type=Path, default=Path("configs/train_cubes.yaml"), help="names what is held out")
    parser.add_argument("--output", type=Path, default=Path("results/foreign"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # MONAI's, of its own future
    from monai.utils import set_determinism

    set_determinism(options.seed)
    learner = KINDS[options.kind]()
    samples = _samples(options.data, options.config, learner, options.seed)
    _train(learner, samples, options.minutes * 60, writable_folder(options.output / options.kind))


class SegResNet:
    """A segmentation network by its state dict and `config.yaml`."""

    patch, batch = 48, 4  # voxels; patches of a step
    mirrored = 24  # voxels on each side of a cube, so that a nodule may lie anywhere in a patch

    def __init__(self) -> None:
        from monai.losses import DiceCELoss
        from monai.networks import nets

        self.network: nn.Module = nets.SegResNet(**SEGRESNET)
        self.loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def transforms(self) -> list[Any]:
        """Patches with random axes and directions."""
        from monai import transforms

        keys = ("image", "label")
        return [
            transforms.RandCropByPosNegLabeld(keys, "label", (self.patch,) * 3, pos=2, neg=1, num_samples=1),
            *(transforms.RandFlipd(keys, 0.5, axis) for axis in range(3)),
            transforms.RandRotate90d(keys, 0.5, spatial_axes=(0, 1)),
        ]

    def losses(self, batch: list[Sample]) -> Tensor:
        """Dice and cross-entropy."""
        images, labels = (torch.stack([one[key] for one in batch]) for key in ("image", "label"))
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.network(images)
        loss: Tensor = self.loss(logits.float(), labels)
        return loss

    def save(self, folder: Path) -> None:
        """The weights and their description."""
        torch.save(self.network.state_dict(), folder / "model.pth")
        described = {
            "name": "a SegResNet of MONAI, trained on LUNA16's nodules",
            "model": {"architecture": "SegResNet", **SEGRESNET},
            "preprocessing": {"axes": "RAS", "spacing": SPACING, "clip_range": [LOW, HIGH]},
            "inference": {"patch_size": [128, 128, 128], "overlap": 0.5, "blending": "gaussian"},
            "output": {"activation": "softmax", "channel": 1},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(described, sort_keys=False))


class RetinaNet:
    """A detection network as a MONAI bundle.

    Its coarsest level has 4 x 4 x 4 voxels in training: for 2 x 2 x 2, PyTorch 2.15 gives infinite gradients in
    bfloat16 on processors without AMX.
    """

    patch, batch = 32, 8  # see `SegResNet`
    mirrored = 0  # a mirror would show parts of the nodule on all sides, each with a box

    def __init__(self) -> None:
        from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
        from monai.apps.detection.networks.retinanet_network import RetinaNet, resnet_fpn_feature_extractor
        from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
        from monai.networks import nets

        extractor = resnet_fpn_feature_extractor(nets.resnet10(**BACKBONE), 3, False, LAYERS, None)  # noqa: FBT003
        network = RetinaNet(3, 1, len(SHAPES), extractor, size_divisible=DIVISIBLE)
        self.network: nn.Module = network.to(memory_format=torch.channels_last_3d)
        self.detector = RetinaNetDetector(self.network, AnchorGeneratorWithAnchorShape(SCALES, SHAPES))
        self.detector.set_atss_matcher(num_candidates=4, center_in_gt=False)  # this and the next as in the bundle
        self.detector.set_hard_negative_sampler(
            batch_size_per_image=64, positive_fraction=0.3, pool_size=20, min_neg=16
        )
        self.detector.set_target_keys("box", "label")

    def transforms(self) -> list[Any]:
        """Patches with the boxes of their nodules, with random axes and directions."""
        from monai.apps.detection.transforms import dictionary as boxed

        return [
            _with_boxes,
            boxed.RandCropBoxByPosNegLabeld("image", "box", "class", (self.patch,) * 3, pos=3, neg=1, num_samples=1),
            *(boxed.RandFlipBoxd("image", "box", "image", 0.5, axis) for axis in range(3)),
            boxed.RandRotateBox90d("image", "box", "image", 0.5, spatial_axes=(0, 1)),
        ]

    def losses(self, batch: list[Sample]) -> Tensor:
        """Of classes and boxes, as weighted in the bundle."""
        targets = [{"box": one["box"].float(), "label": one["class"].long()} for one in batch]
        with torch.autocast("cpu", torch.bfloat16):
            found = self.detector([one["image"] for one in batch], targets)
        loss: Tensor = found["classification"] + found["box_regression"]
        return loss

    def save(self, folder: Path) -> None:
        """The bundle's configuration, metadata and weights."""
        for name in ("configs", "models"):
            writable_folder(folder / name)
        torch.save(self.network.state_dict(), folder / "models" / "model.pt")
        about = {"name": "a RetinaNet of MONAI, trained on LUNA16's nodules", "version": "1"}
        (folder / "configs" / "metadata.json").write_text(json.dumps(about))
        (folder / "configs" / "inference.json").write_text(json.dumps(_bundle(), indent=2))


KINDS: dict[str, Callable[[], SegResNet | RetinaNet]] = {"segresnet": SegResNet, "retinanet": RetinaNet}


def _samples(data: Path, config: Path, learner: SegResNet | RetinaNet, seed: int) -> Iterator[list[Sample]]:
    """Batches without end, each from other nodules and places."""
    from monai.transforms import Compose

    settings, random = load_train_config(config), np.random.default_rng(seed)
    cubes = [cube for cube in load_cubes(data) if cube.subset != settings.cubes_validation_subset]
    cubes = [cube for cube in cubes if cube.patient not in settings.leave_out_patients]
    scans = [load_background(settings, one.name) for one in settings.train_backgrounds if not one.has_opacities]
    print(f"{len(cubes)} nodules, {len(scans)} scans", flush=True)
    change = Compose(learner.transforms())
    change.set_random_state(seed)

    def nodule(number: int) -> Sample:
        cube = cubes[number]
        label = cube.mask if cube.other is None else cube.mask | cube.other
        return _sample(*(np.pad(one, learner.mirrored, mode="reflect") for one in (cube.hu, label)))

    def clear() -> Sample:
        scan = scans[random.integers(len(scans))]
        place = scan.lung[random.integers(len(scan.lung))]
        corner = np.clip(place - PIECE // 2, 0, np.subtract(scan.hu.shape, PIECE))
        hu = scan.patch(corner, PIECE)[0]
        return _sample(hu, np.zeros(hu.shape, bool))

    while True:
        order = random.permutation(len(cubes)).tolist()
        while len(order) >= learner.batch:
            empty = round(CLEAR * learner.batch)
            batch = [nodule(order.pop()) for _ in range(learner.batch - empty)] + [clear() for _ in range(empty)]
            yield [change(one)[0] for one in batch]


def _sample(hu: Any, label: Any) -> Sample:  # noqa: ANN401 - arrays
    """Axes that run to the left, back and head become RAS; intensities 0 to 1."""
    scaled = (np.clip(hu, LOW, HIGH) - LOW).astype(np.float32) / np.float32(HIGH - LOW)
    image, mask = (np.ascontiguousarray(one[None, ::-1, ::-1]) for one in (scaled, label.astype(np.float32)))
    return {"image": torch.from_numpy(image), "label": torch.from_numpy(mask)}


def _with_boxes(sample: Sample) -> Sample:
    """The box of each outlined body (first and last corners, the last beyond it), in place of the outlines."""
    labels, _ = ndimage.label(sample["label"][0].numpy() > 0)
    found = [[*(s.start for s in part), *(s.stop for s in part)] for part in ndimage.find_objects(labels)]
    boxes = torch.tensor(found, dtype=torch.float32).reshape(-1, 6)
    boxes = boxes[(boxes[:, 3:] - boxes[:, :3]).amin(dim=1) >= LEAST_BOX]
    return {"image": sample["image"], "box": boxes, "class": torch.zeros(len(boxes), dtype=torch.int64)}


def _train(learner: SegResNet | RetinaNet, samples: Iterator[list[Sample]], seconds: float, folder: Path) -> None:
    """Until the time is over. The model is saved every few minutes, and at the end."""
    learner.network.train()
    optimizer = torch.optim.AdamW(learner.network.parameters(), RATE, weight_decay=1e-4)
    start, saved = time.process_time(), time.monotonic()
    losses: list[float] = []
    while (elapsed := time.process_time() - start) < seconds:
        share = min(1.0, (len(losses) + 1) / WARM) * 0.5 * (1 + math.cos(math.pi * elapsed / seconds))
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        optimizer.zero_grad()
        loss = learner.losses(next(samples))
        loss.backward()
        nn.utils.clip_grad_norm_(learner.network.parameters(), CLIP)
        optimizer.step()
        losses.append(float(loss.detach()))
        if len(losses) % TOLD_EVERY == 0:
            print(f"step {len(losses)}  loss {np.mean(losses[-TOLD_EVERY:]):.4f}  {elapsed:.0f} s", flush=True)
        if time.monotonic() - saved > SAVED_EVERY:
            saved = time.monotonic()
            learner.save(folder)
    learner.save(folder)
    print(f"{folder}: {len(losses)} steps", flush=True)


def _bundle() -> dict[str, Any]:
    """`configs/inference.json`, in the words of `lung_nodule_ct_detection`."""
    arguments = ",".join(f"{key}={value}" for key, value in BACKBONE.items()).replace(" ", "")
    choice = ",".join(f"{key}={value}" for key, value in CHOICE.items())
    config = bundle_config()
    config["anchor_generator"] |= {"feature_map_scales": SCALES, "base_anchor_shapes": SHAPES}
    module = "monai.apps.detection.networks.retinanet_network"
    config["feature_extractor"] = f"${module}.resnet_fpn_feature_extractor(@backbone,3,False,{LAYERS},None)"
    config["backbone"] = f"$monai.networks.nets.resnet.resnet10({arguments})"
    config["detector_ops"][1] = f"$@detector.set_box_selector_parameters({choice})"
    for transform in config["preprocessing"]["transforms"]:
        if transform["_target_"] == "Spacingd":
            transform["pixdim"] = SPACING
        elif transform["_target_"] == "ScaleIntensityRanged":
            transform |= {"a_min": LOW, "a_max": HIGH}
    return {**config, "size_divisible": DIVISIBLE, "infer_patch_size": [192, 192, 192]}


if __name__ == "__main__":
    main()

"""Small detectors with random weights, in the formats in which other projects publish theirs."""

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
import yaml
from monai.apps.detection.networks.retinanet_network import RetinaNet, resnet_fpn_feature_extractor
from monai.networks import nets
from scipy import ndimage
from torch import nn

from src.types import Scan

__all__ = [
    "PREPROCESSING",
    "SEGMENTERS",
    "bundle_config",
    "nifti",
    "nnunet_plans",
    "piece",
    "retinanet",
    "save_bundle",
    "save_nnunet",
    "save_segmenter",
    "segmenter",
    "turned_scan",
]

SEGMENTERS: dict[str, dict[str, Any]] = {
    "SegResNet": {"in_channels": 1, "out_channels": 2, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "UNet": {"out_channels": 2, "channels": [4, 8], "strides": [2], "num_res_units": 1},
    "DynUNet": {
        "out_channels": 2,
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2],
        "filters": [4, 8, 16],
    },
    "SwinUNETR": {"out_channels": 2, "feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
}
SELECTION = (
    "$@detector.set_box_selector_parameters(score_thresh=0.02,topk_candidates_per_level=200,"
    "nms_thresh=0.22,detections_per_img=50)"
)
INFERER = (
    "$@detector.set_sliding_window_inferer(roi_size=@infer_patch_size,overlap=0.25,sw_batch_size=1,"
    "mode='constant',device='cpu')"
)
PREPROCESSING = {"axes": "RAS", "spacing": [1.0, 1.0, 1.0], "clip_range": [-1000, 400]}


@contextmanager
def quietly() -> Iterator[None]:
    """Silence MONAI's deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def segmenter(kind: str) -> nn.Module:
    """A network with random weights whose probabilities spread over 0 to 1."""
    torch.manual_seed(0)
    with quietly():
        network: nn.Module = getattr(nets, kind)(**{"spatial_dims": 3, "in_channels": 1, **SEGMENTERS[kind]}).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.2)
    return network


def save_segmenter(folder: Path, kind: str = "SegResNet", **description: Any) -> nn.Module:  # noqa: ANN401
    """Write a network's `model.pth` and `config.yaml`. Returns the network."""
    network = segmenter(kind)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), folder / "model.pth")
    config = {
        "model": {"architecture": kind, "spatial_dims": 3, **SEGMENTERS[kind]},
        "preprocessing": PREPROCESSING,
        "inference": {"patch_size": [32, 32, 32], "overlap": 0.5},
        **description,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return network


def retinanet() -> nn.Module:
    """A RetinaNet with the strides of the LUNA16 bundle and random weights that give a hundred or more scores."""
    torch.manual_seed(0)
    with quietly():
        backbone = nets.resnet10(spatial_dims=3, n_input_channels=1, conv1_t_stride=[2, 2, 1], conv1_t_size=[7, 7, 7])
        extractor = resnet_fpn_feature_extractor(backbone, 3, False, [1, 2], None)  # noqa: FBT003 - as in the bundle
        network: nn.Module = RetinaNet(3, 1, 3, extractor, size_divisible=[16, 16, 8]).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "head" in name:
                weight.add_(torch.randn_like(weight), alpha=0.01)
    return network


def bundle_config() -> dict[str, Any]:
    """The configuration of `lung_nodule_ct_detection`, with a smaller network and smaller windows."""
    return {
        "whether_raw_luna16": False,
        "whether_resampled_luna16": "$(not @whether_raw_luna16)",
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "spatial_dims": 3,
        "num_classes": 1,
        "size_divisible": [16, 16, 8],
        "infer_patch_size": [32, 32, 16],
        "anchor_generator": {
            "_target_": "monai.apps.detection.utils.anchor_utils.AnchorGeneratorWithAnchorShape",
            "feature_map_scales": [1, 2, 4],
            "base_anchor_shapes": [[6, 8, 4], [8, 6, 5], [10, 10, 6]],
        },
        "backbone": "$monai.networks.nets.resnet.resnet10(spatial_dims=3,n_input_channels=1,"
        "conv1_t_stride=[2,2,1],conv1_t_size=[7,7,7])",
        "feature_extractor": "$monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor"
        "(@backbone,3,False,[1,2],None)",
        "network_def": {
            "_target_": "RetinaNet",
            "spatial_dims": "@spatial_dims",
            "num_classes": "@num_classes",
            "num_anchors": 3,
            "feature_extractor": "@feature_extractor",
            "size_divisible": "@size_divisible",
            "use_list_output": False,
        },
        "network": "$@network_def.to(@device)",
        "detector": {
            "_target_": "RetinaNetDetector",
            "network": "@network",
            "anchor_generator": "@anchor_generator",
            "debug": False,
            "spatial_dims": "@spatial_dims",
            "num_classes": "@num_classes",
            "size_divisible": "@size_divisible",
        },
        "detector_ops": [
            "$@detector.set_target_keys(box_key='box', label_key='label')",
            SELECTION,
            INFERER,
        ],
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "_disabled_": "@whether_raw_luna16"},
                {"_target_": "EnsureChannelFirstd", "keys": "image", "meta_key_postfix": "meta_dict"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {
                    "_target_": "Spacingd",
                    "keys": "image",
                    "pixdim": [0.703125, 0.703125, 1.25],
                    "_disabled_": "@whether_resampled_luna16",
                },
                {
                    "_target_": "ScaleIntensityRanged",
                    "keys": "image",
                    "a_min": -1024.0,
                    "a_max": 300.0,
                    "b_min": 0.0,
                    "b_max": 1.0,
                    "clip": True,
                },
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "ClipBoxToImaged", "box_keys": "box", "remove_empty": True},
                {"_target_": "AffineBoxToWorldCoordinated", "box_keys": "box", "affine_lps_to_ras": True},
                {"_target_": "ConvertBoxModed", "box_keys": "box", "src_mode": "xyzxyz", "dst_mode": "cccwhd"},
            ],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)"],
        "run": ["$@evaluator.run()"],
    }


def save_bundle(folder: Path, config: dict[str, Any] | None = None) -> nn.Module:
    """Write a bundle. Returns its network."""
    network = retinanet()
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config or bundle_config()))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"name": "Lung nodule CT detection", "version": "9"}))
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return network


def nnunet_plans(kind: str = "PlainConvUNet", transpose: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """Plans as nnU-Net writes them, for a small network and small patches with three different sides."""
    blocks = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": "Dataset007_Nodules",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": np.argsort(transpose).tolist(),
        "foreground_intensity_properties_per_channel": {
            "0": {
                "max": 900.0,
                "mean": -300.0,
                "median": -280.0,
                "min": -1024.0,
                "percentile_00_5": -950.0,
                "percentile_99_5": 320.0,
                "std": 310.0,
            }
        },
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [16, 32, 24],
                "spacing": [1.2, 0.9, 1.0],
                "normalization_schemes": ["CTNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg_kwargs": {**resampling, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
                "architecture": {
                    "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
                    "arch_kwargs": {
                        "n_stages": 3,
                        "features_per_stage": [4, 8, 8],
                        "conv_op": "torch.nn.modules.conv.Conv3d",
                        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
                        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
                        blocks: [1, 1, 2],
                        "n_conv_per_stage_decoder": [1, 1],
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            },
            "3d_lowres": {"inherits_from": "3d_fullres", "spacing": [2.0, 2.0, 2.0]},
        },
    }


def save_nnunet(
    folder: Path, plans: dict[str, Any], labels: dict[str, Any] | None = None, folds: int = 1
) -> list[nn.Module]:
    """Write a trained-model folder with complete checkpoints, as nnU-Net's trainer does. Returns the networks."""
    from dynamic_network_architectures.architectures import unet  # noqa: PLC0415 - importing it takes seconds

    config = plans["configurations"]["3d_fullres"]["architecture"]
    dataset: dict[str, Any] = {
        "channel_names": {"0": "CT"},
        "labels": labels or {"background": 0, "lung": 1, "nodule": 2},
        "numTraining": 7,
        "file_ending": ".nii.gz",
    }
    arguments = {
        **config["arch_kwargs"],
        "conv_op": nn.Conv3d,
        "norm_op": nn.InstanceNorm3d,
        "nonlin": nn.LeakyReLU,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    networks = []
    for fold in range(folds):
        torch.manual_seed(fold)
        kind = getattr(unet, config["network_class_name"].rpartition(".")[2])
        network = kind(input_channels=1, num_classes=len(dataset["labels"]), **arguments, deep_supervision=False).eval()
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.2)
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        state = {
            "network_weights": network.state_dict(),
            "optimizer_state": torch.optim.SGD(network.parameters(), 0.01, momentum=0.99).state_dict(),
            "grad_scaler_state": None,
            "logging": {"ema_fg_dice": [np.float64(0.5), np.float32(0.6)], "dice_per_class": [[np.float64(0.1)]]},
            "_best_ema": np.float64(0.6),
            "current_epoch": 1000,
            "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": fold, "dataset_json": dataset},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 1, 2),
        }
        torch.save(state, folder / f"fold_{fold}" / "checkpoint_final.pth")
        networks.append(network)
    return networks


def turned_scan(scan: Scan, codes: str) -> Scan:
    """The same scan stored with these axis codes, such as PSR."""
    image = nibabel.Nifti1Image(np.asarray(scan.array), scan.affine)
    now = nibabel.orientations.io_orientation(image.affine)
    wanted = nibabel.orientations.axcodes2ornt(tuple(codes))
    moved = image.as_reoriented(nibabel.orientations.ornt_transform(now, wanted))
    return Scan(np.asarray(moved.dataobj), np.asarray(moved.affine, np.float64), codes)


def piece(size_mm: float = 40.0) -> Scan:
    """A cube of smooth noise between air and tissue, with voxels of 0.8 x 0.8 x 1.5 mm."""
    spacing = np.array((0.8, 0.8, 1.5))
    shape = np.round(size_mm / spacing).astype(int)
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=shape), 2 / spacing)
    hu = np.round(-450 + 400 * smooth / smooth.std()).clip(-1000, 1000).astype(np.int16)
    affine = np.diag([*spacing * (-1, -1, 1), 1.0])
    affine[:3, 3] = (31.5, -12.25, 70.0)
    return Scan(hu, affine, "piece")


def nifti(scan: Scan, path: Path) -> Path:
    """Write the scan as NIfTI and return the path."""
    nibabel.save(nibabel.Nifti1Image(np.asarray(scan.array, np.int16), scan.affine), path)
    return path

"""Registers the lungs of the baseline to those of the follow-up: first rigidly, then with demons.

Both scans are resampled to voxels of about 3 mm. Everything outside the lungs is blank, so that ribs, arms and table
have no influence. Points are world millimetres in LPS, as in SimpleITK.
"""

import logging
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from ..data.coarse import coarse_means, distance_to
from ..data.geometry import RAS_TO_LPS, canonical, spacing_of
from ..data.lung_finder import find_lungs
from ..data.lungs import Lungs, Mask
from ..errors import BadScan
from ..types import Affine, Scan

__all__ = ["LungImage", "Points", "Quality", "Registration", "as_image", "lungs_of", "register"]

log = logging.getLogger("pivot")
Points = npt.NDArray[np.float64]  # (n, 3), LPS mm
FILLED = 9.0  # mm; vessels and nodules up to twice as wide count as lung
LUNG_HU, OUTSIDE_HU = -850.0, 0.0  # centre of the scaled lung, and the value outside
MARGIN = 20.0  # mm around the lungs that are registered
LEVELS = ((4, 60), (2, 50), (1, 30))  # of the demons: shrink factor, iterations
SMOOTH = 1.5  # voxels; smoothing of the displacement field
LEAST_OVERLAP = 0.8  # Dice of the lungs; below, the scans may not show the same body
INVERSE_STEPS = 30


class Quality(TypedDict):
    """The quality of the registration, over the lungs of the baseline."""

    method: Literal["rigid", "deformable"]
    lung_overlap: float  # Dice, 0 to 1
    correlation_rigid: float  # of the HU
    correlation_deformable: float
    folded_percent: float  # of the lungs, where the deformable transform folds
    least_jacobian: float  # of the deformable transform; 0 or less is a fold
    largest_shift_mm: float  # largest difference between the deformable and the rigid transform
    warnings: list[str]


@dataclass(frozen=True, eq=False)
class LungImage:
    """The lungs of a scan, and an image of the lungs alone."""

    lungs: Lungs
    mask: sitk.Image  # 1 in the lungs, with vessels and small nodules
    image: sitk.Image  # HU


@dataclass(frozen=True, eq=False)
class Registration:
    """The transform from the baseline to the follow-up, and its quality."""

    transform: sitk.Transform
    quality: Quality

    def to_followup(self, points: npt.ArrayLike) -> Points:
        """Map baseline points (n, 3) to the follow-up."""
        listed = np.asarray(points, dtype=np.float64).reshape(-1, 3).tolist()
        return np.array([self.transform.TransformPoint(point) for point in listed]).reshape(-1, 3)

    def to_baseline(self, points: npt.ArrayLike) -> Points:
        """Map follow-up points (n, 3) to the baseline, by fixed-point iteration."""
        goal = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        guess = goal - (self.to_followup(goal) - goal)
        for _ in range(INVERSE_STEPS):
            guess = guess + goal - self.to_followup(guess)
        return guess


def lungs_of(scan: Scan) -> LungImage:
    """The lungs of a scan.

    Raises:
        BadScan: no lungs are recognised.
    """
    array, affine = canonical(scan.array, scan.affine)
    lungs = find_lungs(array, affine)
    if not lungs.recognised:
        msg = f"{scan.scan_id}: no lungs are recognised, on which it could be compared: give a chest CT with both lungs"
        raise BadScan(msg)
    coarse, wide = coarse_means(array, affine)
    inside = _filled(lungs)
    level = float(np.median(coarse[lungs.lung]))
    hu = np.where(inside, np.clip(coarse * (LUNG_HU / level), -1000, OUTSIDE_HU), OUTSIDE_HU)
    return LungImage(lungs, as_image(inside.astype(np.uint8), wide), as_image(hu.astype(np.float32), wide))


def _filled(lungs: Lungs) -> Mask:
    """The lungs and what they enclose, up to twice `FILLED` wide."""
    spacing = spacing_of(lungs.affine)
    beyond = distance_to(lungs.lung, spacing) > FILLED
    return np.asarray(distance_to(beyond, spacing) > FILLED)


def as_image(array: npt.NDArray[np.generic], affine: Affine) -> sitk.Image:
    """An (X, Y, Z) volume as a SimpleITK image at its position in the world (LPS)."""
    lps = RAS_TO_LPS @ affine
    spacing = np.array(spacing_of(affine))
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))  # SimpleITK's arrays are z, y, x
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def register(baseline: LungImage, followup: LungImage) -> Registration:
    """The transform from the baseline's lungs to those of the follow-up.

    If the deformable transform folds or fits worse, the rigid one is used, with a warning.
    """
    fixed, inside = _cropped(baseline)
    rigid = _rigid(baseline, followup)
    field = _demons(fixed, sitk.Resample(followup.image, fixed, rigid, sitk.sitkLinear, OUTSIDE_HU))
    lung = sitk.GetArrayFromImage(inside) > 0
    both = sitk.CompositeTransform([rigid, sitk.DisplacementFieldTransform(sitk.Image(field))])
    jacobian = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field))[lung]
    shift = np.linalg.norm(sitk.GetArrayFromImage(field)[lung], axis=1)
    fits = [_correlation(fixed, followup.image, transform, lung) for transform in (rigid, both)]
    warnings = _objections(float((jacobian <= 0).mean()), fits)
    transform = rigid if warnings else both
    overlap = _overlap(inside, followup.mask, transform)
    if overlap < LEAST_OVERLAP:
        warnings.append(f"the lungs overlap by {overlap:.2f} only: are both scans of the same patient, and whole?")
    for warning in warnings:
        log.warning("registration: %s", warning)
    quality = Quality(
        method="deformable" if transform is both else "rigid",
        lung_overlap=round(overlap, 4),
        correlation_rigid=round(fits[0], 4),
        correlation_deformable=round(fits[1], 4),
        folded_percent=round(100 * float((jacobian <= 0).mean()), 4),
        least_jacobian=round(float(jacobian.min()), 3),
        largest_shift_mm=round(float(shift.max()), 2),
        warnings=warnings,
    )
    return Registration(transform, quality)


def _objections(folded: float, fits: list[float]) -> list[str]:
    """Why the deformable transform is rejected; empty if it is not."""
    if folded > 0:
        return [f"the deformable transform folds in {100 * folded:.2g} % of the lungs: the rigid one is used"]
    if not fits[1] > fits[0]:
        return ["the deformable transform fits no better than the rigid one, which is used"]
    return []


def _cropped(lungs: LungImage) -> tuple[sitk.Image, sitk.Image]:
    """The image and the mask within a margin around the lungs."""
    where = sitk.GetArrayFromImage(lungs.mask).nonzero()[::-1]
    box = []
    for index, step, size in zip(where, lungs.mask.GetSpacing(), lungs.mask.GetSize(), strict=True):
        extra = int(np.ceil(MARGIN / step))
        box.append(slice(max(0, int(index.min()) - extra), min(size, int(index.max()) + extra + 1)))
    return lungs.image[tuple(box)], lungs.mask[tuple(box)]


def _rigid(baseline: LungImage, followup: LungImage) -> sitk.Transform:
    """The rigid transform, started at the lungs' centres. Deterministic."""
    start = sitk.CenteredTransformInitializer(
        sitk.Cast(baseline.mask, sitk.sitkFloat32),
        sitk.Cast(followup.mask, sitk.sitkFloat32),
        sitk.Euler3DTransform(),
        sitk.CenteredTransformInitializerFilter.MOMENTS,
    )
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([2, 1])
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 80)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=False)
    method.SetNumberOfThreads(1)  # the order of the sums changes the result
    found: sitk.Transform = method.Execute(baseline.image, followup.image)
    return found


def _demons(fixed: sitk.Image, moving: sitk.Image) -> sitk.Image:
    """The displacement in mm of each voxel of the fixed image, from coarse to fine."""
    field = None
    for shrink, iterations in LEVELS:
        near, far = _shrunk(fixed, shrink), _shrunk(moving, shrink)
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetStandardDeviations(SMOOTH)
        demons.SetNumberOfThreads(1)
        start = None if field is None else sitk.Resample(field, near, outputPixelType=sitk.sitkVectorFloat64)
        field = demons.Execute(near, far) if start is None else demons.Execute(near, far, start)
    found: sitk.Image = sitk.Cast(field, sitk.sitkVectorFloat64)
    return found


def _shrunk(image: sitk.Image, factor: int) -> sitk.Image:
    return image if factor == 1 else sitk.BinShrink(image, [factor] * 3)


def _correlation(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform, lung: Mask) -> float:
    """The correlation of the HU of both images, in the lungs of the fixed one."""
    moved = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, OUTSIDE_HU))
    return float(np.corrcoef(sitk.GetArrayFromImage(fixed)[lung], moved[lung])[0, 1])


def _overlap(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    """Dice of the lungs."""
    moved = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkNearestNeighbor)) > 0
    here = sitk.GetArrayFromImage(fixed) > 0
    return float(2 * (moved & here).sum() / max(1, moved.sum() + here.sum()))

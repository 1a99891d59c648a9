"""Public detectors that PIVOT can run: what each was trained on, what others measured, and where it lies."""

from typing import NamedTuple

__all__ = ["KNOWN", "Known"]


class Known(NamedTuple):
    """A public detector. What is not known is None; `sha256` holds the files whose hashes are known."""

    name: str
    source: str  # hf://owner/name, or the address of a page
    trained_on: str
    licence: str | None
    measured: str  # by others
    needs: str  # the extra
    megabytes: int | None = None  # of its weights: those of the network that its authors describe, in float32
    sha256: dict[str, str] = {}  # noqa: RUF012 - of a tuple, and empty


SEGMENTERS = "instance recall 0.87, instance precision 0.11 (their test split of NLST, NSCLC and LIDC)"
DUKE = "https://zenodo.org/records/14967976"
RETINANET = 84  # MB of MONAI's with a ResNet-50
KNOWN = {
    known.name: known
    for known in (
        Known(
            "lung_nodule_ct_detection",
            "hf://MONAI/lung_nodule_ct_detection",
            "LUNA16",
            "Apache-2.0",
            "mAP 0.852, mAR 0.998 on fold 0 (its card)",
            "monai",
            RETINANET,
        ),
        Known(
            "duke-dlcs",
            DUKE,
            "1,613 screening patients (DLCS)",
            None,
            "CPM 0.63 on DLCS, 0.58 on NLST",
            "monai",
            RETINANET,
        ),
        Known("duke-luna16", DUKE, "LUNA16", None, "CPM 0.45 on DLCS, 0.49 on NLST", "monai", RETINANET),
        Known(
            "totalsegmentator-lung-nodules",
            "https://github.com/wasserth/TotalSegmentator",
            "1,353 subjects, partly LIDC-IDRI",
            None,
            "not known",
            "nnunet",
        ),
        *(
            Known(name, f"hf://HalmosiL/{name}", "NLST, NSCLC, LIDC", "Apache-2.0", SEGMENTERS, "monai")
            for name in ("nodule-segresnet-3d-wide-sw", "nodule-segresnet-3d-small-sw", "nodule-dynunet-3d-sw")
        ),
    )
}

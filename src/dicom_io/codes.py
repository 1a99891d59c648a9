"""The codes in the DICOM objects, from DICOM PS3.16, SNOMED CT, UCUM and RadLex."""

from pydicom.sr.coding import Code

__all__ = [
    "ABNORMAL",
    "ABSENT",
    "ACTIVATION",
    "CENTER",
    "CERTAINTY",
    "COMMENT",
    "CT",
    "DEEP_LEARNING",
    "LUNG",
    "LUNG_RADS",
    "LUNG_RADS_CATEGORIES",
    "MEASURED",
    "NODULE",
    "NO_UNITS",
    "PERCENT",
    "PRESENCE",
    "REPORT",
    "SIDES",
    "SUSPICION",
]

NODULE = Code("27925004", "SCT", "Nodule")
LUNG = Code("39607008", "SCT", "Lung")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
PRESENCE = Code("705057003", "SCT", "Presence")
ABSENT = Code("2667000", "SCT", "Absent")
REPORT = Code("126000", "DCM", "Imaging Measurement Report")
CT = Code("24627-2", "LN", "CT Chest")
SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}
DEEP_LEARNING = Code("123109", "DCM", "Artificial Intelligence")
CENTER = Code("111010", "DCM", "Center")
COMMENT = Code("121106", "DCM", "Comment")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
# DICOM's own "Probability of cancer" would claim too much: the score estimates how readers rate nodules by eye.
SUSPICION = Code("reader-suspicion", "99PIVOT", "Probability that readers suspect malignancy, not of cancer")
ACTIVATION = Code("130402", "DCM", "Class activation")
PERCENT = Code("%", "UCUM", "Percent")
NO_UNITS = Code("1", "UCUM", "no units")
_MM3 = Code("mm3", "UCUM", "cubic millimeter")
_MM = Code("mm", "UCUM", "millimeter")
_HU = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
MEASURED: dict[str, tuple[Code, Code]] = {
    "volume_mm3": (Code("118565006", "SCT", "Volume"), _MM3),
    "effective_diameter_mm": (Code("81827009", "SCT", "Diameter"), _MM),
    "long_axis_mm": (Code("103339001", "SCT", "Long axis"), _MM),
    "short_axis_mm": (Code("103340004", "SCT", "Short axis"), _MM),
    "mean_intensity": (Code("112181", "DCM", "Mean Attenuation Coefficient"), _HU),
    "min_intensity": (Code("112179", "DCM", "Minimum Attenuation Coefficient"), _HU),
    "max_intensity": (Code("112180", "DCM", "Maximum Attenuation Coefficient"), _HU),
    "sphericity": (Code("QCFX", "IBSI", "Sphericity"), NO_UNITS),
    "std_intensity": (Code("112183", "DCM", "Standard Deviation of Attenuation Coefficient"), _HU),
}
LUNG_RADS = Code("RID50134", "RADLEX", "Lung-RADS assessment")
LUNG_RADS_CATEGORIES = {
    "0": Code("RID50135", "RADLEX", "Lung-RADS 0"),
    "1": Code("RID50136", "RADLEX", "Lung-RADS 1"),
    "2": Code("RID50137", "RADLEX", "Lung-RADS 2"),
    "3": Code("RID50138", "RADLEX", "Lung-RADS 3"),
    "4A": Code("RID50139", "RADLEX", "Lung-RADS 4A"),
    "4B": Code("RID50140", "RADLEX", "Lung-RADS 4B"),
}

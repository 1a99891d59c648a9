"""Whether each detection, measured again from its own place and size, is itself: `python -m benchmarks.measured_again`.

The scans of the data folder go through the pipeline with a low threshold; then `extract_properties` is asked at the
coordinates and with the diameter of each nodule and mass, as the guide does.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.planted import LOW
from src.data.loader import load_scan, read_scan
from src.detection.pipeline import InferencePipeline
from src.measurement.at_point import extract_properties
from src.types import Detection, Vec3, Volume

__all__ = ["main"]

WITHIN = 0.01


def main() -> None:
    """Print for each scan how many findings differ, and by how much the worst does; and how many are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="holds backgrounds/ and the series")
    parser.add_argument("--threshold", type=float, default=LOW)
    options = parser.parse_args()
    config = {
        "inference": {"speed": "fast"},
        "post_processing": {
            "peak_detection": {"threshold": options.threshold},
            "confidence_filter": {"min_confidence": options.threshold},
        },
    }
    pipeline = InferencePipeline(config=config)
    paths = [options.data / "lidc-idri-0001", *sorted((options.data / "backgrounds").glob("*.nii.gz"))]
    total = same = fallback = 0
    for path in paths:
        results = pipeline.predict(read_scan(path))
        scan, spacing = load_scan(path)
        found = [*results["detections"], *results["masses"]]
        apart = [_apart(one, scan, spacing) for one in found]
        networks = sum(one["diameter_source"] == "network" for one in found)
        print(f"{path.name:32}{len(found):4d} findings, {networks} of the network's size", end="")
        print(f", at most {100 * max(apart, default=0):.2f} % apart", flush=True)
        total, same, fallback = total + len(found), same + sum(a <= WITHIN for a in apart), fallback + networks
    print(f"all: {same} of {total} within {100 * WITHIN:g} %, {fallback} not measured (diameter_source: network)")


def _apart(found: Detection, scan: Volume, spacing: Vec3) -> float:
    """The largest difference of any property, as a share; infinite where one is unknown once only or types differ."""
    again = extract_properties(scan, found["coordinates"], found["diameter_mm"], spacing)
    first = found["properties"]
    if again["nodule_type"] != first["nodule_type"]:
        return np.inf
    names = [name for name, value in again.items() if isinstance(value, float)]
    one = np.array([again[name] for name in names])  # type: ignore[literal-required]
    two = np.array([first[name] for name in names], dtype=np.float64)  # type: ignore[literal-required]
    if (np.isnan(one) != np.isnan(two)).any():
        return np.inf
    return float(np.nanmax(np.abs(one - two) / np.maximum(np.abs(two), 1e-3), initial=0.0))


if __name__ == "__main__":
    main()

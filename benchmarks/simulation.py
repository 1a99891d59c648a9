"""Simulates a pool of actors and a queue of scans: `python -m benchmarks.simulation`.

Each actor has `slots` scans, of which it infers one and writes one at a time, like `src.runs.ray_worker`.
`benchmarks.scaling` compares this with a measured cluster. Here it shows stragglers in large clusters.
"""

import argparse
import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Stages", "main", "simulate"]

SPREAD = 0.3  # standard deviation of a scan's times, as a share of their mean: scans differ in thickness and size
SEED = 7


class Stages(NamedTuple):
    """The seconds of a scan's stages on a machine of speed 1."""

    read: float  # with fetching
    infer: float  # with preprocessing, peaks and measuring
    write: float


def simulate(scans: Iterable[Stages], speeds: Sequence[float], slots: int) -> tuple[float, float]:
    """The seconds until the last scan is written, and the mean share of them in which an actor infers.

    `speeds` has one value for each actor. An actor of speed 0.5 takes twice as long.
    """
    free = [(0.0, slot, actor) for slot in range(slots) for actor in range(len(speeds))]
    inferred, written, busy = ([0.0] * len(speeds) for _ in range(3))
    end = 0.0
    for scan in scans:
        time, slot, actor = heapq.heappop(free)
        speed = speeds[actor]
        start = max(time + scan.read / speed, inferred[actor])
        inferred[actor] = start + scan.infer / speed
        busy[actor] += scan.infer / speed
        written[actor] = max(inferred[actor], written[actor]) + scan.write / speed
        heapq.heappush(free, (written[actor], slot, actor))
        end = max(end, written[actor])
    return end, sum(busy) / len(speeds) / end


def main() -> int:
    """Print the efficiency of clusters of several sizes, with equal machines and with some slow ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    for stage, seconds in (("read", 2.0), ("infer", 4.0), ("write", 2.0)):
        parser.add_argument(f"--{stage}", type=float, default=seconds, help="mean seconds for a scan (%(default)s)")
    parser.add_argument("--slots", type=int, default=3, help="scans under way in an actor (%(default)s)")
    options = parser.parse_args()
    mean = Stages(options.read, options.infer, options.write)
    print("   scans  actors  slow machines     hours  scans an hour  of the ideal")
    for count, actors in ((1_000, 8), (10_000, 8), (100_000, 64), (1_000_000, 64), (1_000_000, 256)):
        for label, speeds in _fleets(actors):
            scans = _draw(count, mean)
            seconds, _ = simulate(scans, speeds, options.slots)
            ideal = sum(scan.infer for scan in scans) / sum(speeds)
            row = f"{count:8}  {actors:6}  {label:13}  {seconds / 3600:8.2f}"
            print(f"{row}  {count / seconds * 3600:13.0f}  {ideal / seconds:12.1%}")
    return 0


def _fleets(actors: int) -> list[tuple[str, list[float]]]:
    slow = actors // 8
    return [("none", [1.0] * actors), ("1/8 at 0.2", [1.0] * (actors - slow) + [0.2] * slow)]


def _draw(count: int, mean: Stages) -> list[Stages]:
    """Gamma-distributed times. Those of one scan are correlated, because they depend on its size."""
    factors = np.random.default_rng(SEED).gamma(SPREAD**-2, SPREAD**2, count)
    return [Stages(*(factor * stage for stage in mean)) for factor in factors.tolist()]


if __name__ == "__main__":
    raise SystemExit(main())

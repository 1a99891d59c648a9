"""The page in headless Chromium without a graphics card (SwiftShader), against a service of its own.

    python -m benchmarks.page reading   a DICOM series, from drop to reviewed report with keys alone, and with a prior
    python -m benchmarks.page loading   seconds until 512 x 512 x 300 voxels are drawn: slices, coarse, whole; a window
    python -m benchmarks.page animation --pictures docs/images   page.webp: to the first finding, magnified, accepted

`reading` and `animation` take the series in `--series` (default ../shared/data/lidc-idri-0001). The prior of `reading`
is the same scan in another breath, with a known transform. Each of its states is checked by axe, and left as a picture
in `--pictures`. The exit code is 1 where a limit is broken or axe finds a barrier. The page must be built
(`docs/page.md`).
"""

import argparse
import base64
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httpx
import nibabel
import numpy as np
import pydicom
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from src.data.loader import read_scan
from src.types import Scan
from tests.api_service import JOBS, served
from tests.chromium import FLAGS
from tests.dicom_files import zipped
from tests.small_scans import chest

from .breathing import Breath, breathe, random_breath

__all__: list[str] = []

ROOT = Path(__file__).resolve().parents[1]
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
COMPUTER = {"PIVOT_CHECKPOINT": str(ROOT / "checkpoints" / "best_model.pth"), "PIVOT_DEVICES": "cpu"}
SLOW = 1_200_000  # ms
LIMITS = {"slices": 2.0, "whole": 15.0, "window": 2.0}  # seconds
LARGE = (512, 512, 300)
SLICES, STEP, HOLD = 12, 160, 1800  # of the animation: slices that are passed; ms a slice, and ms of a state
LINKED = 5.0  # mm by which the linked crosshair may miss the true place
Screen: TypeAlias = tuple[int, int, Literal["dark", "light"]]
SCREENS: dict[str, Screen] = {
    "1280": (1280, 800, "dark"),
    "1920": (1920, 1080, "light"),
    "1920-dark": (1920, 1080, "dark"),
    "tablet": (820, 1180, "light"),
    "tablet-dark": (820, 1180, "dark"),
    "200": (640, 400, "light"),  # 1280 x 800, magnified to 200 %
}
DROP = """content => {
    const data = new DataTransfer();
    data.items.add(new File([Uint8Array.from(atob(content), letter => letter.charCodeAt(0))], "reading.zip"));
    document.querySelector(".zone").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
}"""


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--series", type=Path, default=ROOT.parent / "shared" / "data" / "lidc-idri-0001")
    parser.add_argument("--pictures", type=Path, default=Path(tempfile.gettempdir(), "pivot-page"))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.pictures.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), None, **COMPUTER) as (address, _),
        _browser() as browser,
    ):
        report = PARTS[options.part](options, Path(folder), address, browser)
    print(json.dumps(report, indent=1))
    sys.exit(1 if report["broken"] else 0)


@contextmanager
def _browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS, timeout=SLOW)
        yield browser
        browser.close()


class _Reader:
    """A reader at the page, whose barriers are collected."""

    def __init__(self, page: Page, pictures: Path) -> None:
        self.page, self.pictures = page, pictures
        self.barriers: list[str] = []
        page.set_default_timeout(SLOW)

    def press(self, *keys: str) -> None:
        """Press one key after another."""
        for key in keys:
            self.page.keyboard.press(key)

    def see(self, state: str) -> None:
        """Keep a picture of a state, and what axe finds in it."""
        self.page.screenshot(path=self.pictures / f"{state}.png", timeout=SLOW)
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
        self.barriers += [
            f"{state}: {one['id']}: {one['nodes'][0]['html'][:160]}" for one in found if one["impact"] != "minor"
        ]

    def see_everywhere(self, state: str) -> None:
        """Keep a state as each screen shows it, and what axe finds there."""
        for name, (width, height, scheme) in SCREENS.items():
            self.page.set_viewport_size({"width": width, "height": height})
            self.page.emulate_media(color_scheme=scheme)
            self.page.wait_for_timeout(1000)
            self.see(f"{state}-{name}")
        self.page.set_viewport_size({"width": 1280, "height": 800})

    def tab_to(self, selector: str) -> None:
        """Move the focus with the tab key."""
        for _ in range(200):
            self.press("Tab")
            if self.page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise LookupError(selector)

    def place(self, panel: int = 0) -> list[float]:
        """The place of the crosshair, LPS mm."""
        words = self.page.get_by_label("At the crosshair").nth(panel).inner_text().partition(" mm")[0].split()
        signs = {"L": 1, "P": 1, "S": 1, "R": -1, "A": -1, "I": -1}
        return [signs[letter] * float(value) for letter, value in zip(words[::2], words[1::2], strict=True)]


def _reading(options: argparse.Namespace, folder: Path, address: str, browser: Browser) -> dict[str, Any]:
    """From drop to reviewed report, then beside a prior, with keys alone."""
    scan = read_scan(options.series)
    breath = random_breath(np.random.default_rng(1), scan, depth=12.0)
    prior = _submitted(address, breathe(scan, breath), folder / "prior.nii.gz")
    page = browser.new_page(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page.goto(address)
    reader = _Reader(page, options.pictures)
    reader.see_everywhere("1-start")
    reader.tab_to(".upload > div > .options:last-of-type > summary")
    reader.press("Enter")
    reader.tab_to("#dicom")
    reader.press("Space")
    reader.see("2-options")
    content = base64.b64encode(zipped(folder / "series.zip", options.series).read_bytes()).decode()
    page.evaluate(DROP, content)
    page.get_by_role("progressbar", name="Progress of the analysis").wait_for()
    reader.see("3-progress")
    page.locator(".stage[data-ready]").wait_for()
    start = time.monotonic()
    reader.see("4-results")
    progress = page.locator(".review").get_by_role("status")
    total = int(progress.inner_text().split()[2])
    for read in range(total):
        reader.press("s", "z", "y" if read == 0 else "n", "z", "s", "s", "s")
        progress.filter(has_text=f"{read + 1} of {total} read").wait_for()
        reader.press("u")
    reader.see("5-reviewed")
    with page.expect_download() as saved:
        reader.press("e")
    report = pydicom.dcmread(io.BytesIO(Path(saved.value.path()).read_bytes()))
    said = [str(one.value) for one in report.iterall() if one.keyword == "TextValue"]
    seconds = time.monotonic() - start
    reader.see_everywhere("5-reviewed")
    reader.press("?")
    reader.see("6-shortcuts")
    reader.press("Escape", "Escape")
    linked = _beside_prior(reader, prior, breath)
    broken = [*reader.barriers, *(["linked crosshair"] if max(linked["linked_mm"]) > LINKED else [])]
    if report.Modality != "SR" or sum(text.startswith("Review: accepted") for text in said) != 1:
        broken.append("reviewed report")
    return {"findings": total, "read_seconds": round(seconds, 1), **linked, "broken": broken}


def _beside_prior(reader: _Reader, prior: str, breath: Breath) -> dict[str, Any]:
    """Open the prior with keys, and follow it through the lungs."""
    page = reader.page
    page.locator("#prior:not(:disabled)").wait_for(state="attached")
    reader.press("p")
    page.keyboard.type("prior")  # the first letters choose it
    if page.locator("#prior").input_value() != prior:
        raise LookupError(prior)
    reader.press("Tab")
    page.keyboard.type("180")
    reader.press("Tab", "Enter")
    page.locator(".pair .stage[data-ready]").nth(1).wait_for()
    reader.see("7-prior")
    reader.tab_to("tr[data-followed='0'] button")
    reader.press("Enter")
    missed = []
    for steps in (0, 16, 16, 16):
        reader.press(*["["] * steps)
        page.wait_for_timeout(500)
        now, before = (np.array(reader.place(panel)) for panel in (1, 0))
        missed.append(round(float(np.linalg.norm(breath.to_second(now[None])[0] - before)), 1))
    reader.see_everywhere("8-prior")
    rows = page.locator("tr[data-followed]").count()
    return {"followed": rows, "linked_mm": missed}


def _loading(options: argparse.Namespace, folder: Path, address: str, browser: Browser) -> dict[str, Any]:
    """The seconds from opening a job's address until each picture is drawn, the median of some."""
    job = _submitted(address, _large(), folder / "large.nii.gz")
    runs = [_load(browser, f"{address}/#/jobs/{job}") for _ in range(options.repeats)]
    seconds = {name: round(float(np.median([run[name] for run in runs])), 1) for name in runs[0]}
    broken = [name for name, most in LIMITS.items() if seconds[name] > most]
    return {"shape": LARGE, "seconds": seconds, "runs": runs, "broken": broken}


def _load(browser: Browser, address: str) -> dict[str, float]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    start = time.monotonic()
    page.goto(address)
    seconds = {}
    states = {"slices": "img.drawn[data-shown]", "coarse": ".stage[data-coarse]", "whole": ".stage[data-ready]"}
    for name, selector in states.items():
        page.locator(f"{selector}, .stage[data-ready]").first.wait_for(timeout=SLOW, state="attached")
        if name == "whole":
            page.screenshot(timeout=SLOW)  # waits until it is drawn
        seconds[name] = round(time.monotonic() - start, 2)
    start = time.monotonic()
    page.keyboard.press("w")
    page.screenshot(timeout=SLOW)
    seconds["window"] = round(time.monotonic() - start, 2)
    page.close()
    return seconds


def _animation(options: argparse.Namespace, folder: Path, address: str, browser: Browser) -> dict[str, Any]:
    """Film the way to the first finding, slice by slice, and its review."""
    job = _completed(address, zipped(folder / f"{options.series.name}.zip", options.series))
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="dark")
    page.goto(f"{address}/#/jobs/{job}")
    reader = _Reader(page, options.pictures)
    page.locator(".stage[data-ready]").wait_for()
    frames: list[Image.Image] = []

    def film() -> None:
        page.wait_for_timeout(1500)  # SwiftShader draws slowly
        frames.append(Image.open(io.BytesIO(page.screenshot(timeout=SLOW))).convert("RGB"))

    reader.press(*["]"] * SLICES)  # the first finding is selected
    for _ in range(SLICES):
        film()
        reader.press("[")
    film()
    reader.press("z")
    film()
    progress = page.locator(".review").get_by_role("status")
    total = progress.inner_text().split()[2]
    reader.press("y")
    progress.filter(has_text=f"1 of {total} read").wait_for()
    film()
    path = options.pictures / "page.webp"
    times = [STEP] * SLICES + [HOLD] * 3
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, quality=70, method=6)
    return {"frames": len(frames), "kilobytes": path.stat().st_size // 1000, "broken": []}


def _large() -> Scan:
    """A synthetic chest of 512 x 512 x 300 voxels with the noise of a scanner."""
    small, _ = chest()
    zoom = np.divide(LARGE, small.shape)
    index = [
        np.minimum((np.arange(n) / z).astype(int), size - 1)
        for n, z, size in zip(LARGE, zoom, small.shape, strict=True)
    ]
    array = small.array[np.ix_(*index)].astype(np.int16)
    array += np.random.default_rng(0).integers(-20, 21, LARGE, dtype=np.int16)
    return Scan(array, small.affine @ np.diag([*(1 / zoom), 1.0]), "large")


def _submitted(address: str, scan: Scan, path: Path) -> str:
    """The id of the completed job of a scan."""
    nibabel.save(nibabel.Nifti1Image(np.asarray(scan.array, np.int16), scan.affine), path)
    return _completed(address, path)


def _completed(address: str, path: Path) -> str:
    """The id of the completed job of a file."""
    answer = httpx.post(address + JOBS, files={"file": (path.name, path.read_bytes())}, timeout=300)
    job = answer.raise_for_status().json()
    while job["status"] in {"queued", "running"}:
        time.sleep(1)
        job = httpx.get(f"{address}{JOBS}/{job['job_id']}", timeout=60).json()
    if job["status"] != "completed":
        raise RuntimeError(job["error"])
    return str(job["job_id"])


PARTS = {"reading": _reading, "loading": _loading, "animation": _animation}

if __name__ == "__main__":
    main()

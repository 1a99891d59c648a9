"""Whether the viewer OHIF shows PIVOT's SEG and SR beside the CT, from a real Orthanc, in a headless browser.

    python -m benchmarks.ohif                        fetches OHIF by npm (48 MB)
    python -m benchmarks.ohif --app package/dist     takes it from this folder
    python -m benchmarks.ohif --pictures FOLDER      keeps pictures of both

PIVOT searches a synthetic chest in DICOM. The series, its SEG and its SR are stored in Orthanc. OHIF's page, with the
settings of deploy/viewer, and Orthanc's DICOMweb come from one address. The exit code is 1 unless the viewer lists all
three series, names and draws the segments, and goes through all nodules of the report, each on its image with its
measurements. It needs Orthanc with its DICOMweb plugin, Chromium and npm.
"""

import argparse
import http.server
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import TimeoutError as Timeout
from pydicom.dataset import Dataset

from src.data.loader import read_scan
from src.data.phantom import chest_phantom
from src.detection.pipeline import InferencePipeline
from src.dicom_io.export import export_objects
from src.types import Detection
from tests.chromium import FLAGS
from tests.dicom_files import write_series
from tests.pacs import orthanc

VERSION = "3.12.10"  # as in deploy/viewer/Dockerfile
ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 240_000  # milliseconds, on a busy machine
COLOURED, FEW = 60, 20  # difference between a pixel's channels; pixels of a small nodule
MARGIN = 0.25  # of the picture, where the viewer writes and draws its own


def main() -> int:
    """Look, print what was seen, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--app", type=Path, help="the folder dist of the npm package @ohif/app (default: fetch it)")
    parser.add_argument("--pictures", type=Path, help="keep pictures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        app = options.app or _fetched(folder)
        pictures = options.pictures or folder
        pictures.mkdir(parents=True, exist_ok=True)
        objects, nodules = _study(folder)
        with orthanc(folder / "orthanc") as pacs:
            pacs.push(objects, folder / "sent")
            with _served(app, str(pacs.http.base_url)) as address:
                seen = _look(f"{address}/viewer?StudyInstanceUIDs={objects[0].StudyInstanceUID}", nodules, pictures)
    print(json.dumps({"nodules": len(nodules), **seen}, indent=1))
    return 0 if all(seen.values()) else 1


def _fetched(folder: Path) -> Path:
    subprocess.run(["npm", "pack", "--silent", f"@ohif/app@{VERSION}"], cwd=folder, check=True)  # noqa: S607
    with tarfile.open(next(folder.glob("ohif-app-*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package" / "dist"


def _study(folder: Path) -> tuple[list[Dataset], list[Detection]]:
    """The slices of a synthetic chest, then SR and SEG of its nodules; and the nodules."""
    chest, _ = chest_phantom(spacing=(1.0, 1.0, 2.0))
    series = write_series(folder / "series", chest.array, chest.affine, edit=_header)
    results = InferencePipeline(device="cpu").predict(read_scan(series))
    (folder / "objects").mkdir()
    written = export_objects(series, results, folder / "objects")
    return [pydicom.dcmread(path) for path in [*sorted(series.iterdir()), *written]], results["detections"]


def _header(dataset: Dataset) -> None:
    dataset.PatientName, dataset.PatientID, dataset.StudyDate = "Synthetic^Chest", "PHANTOM", "20260102"
    dataset.FrameOfReferenceUID, dataset.SeriesDescription = "1.2.3.4.5", "Chest"


@contextmanager
def _served(app: Path, pacs: str) -> Iterator[str]:
    """OHIF's page, and Orthanc's DICOMweb below /dicom-web, on one address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/dicom-web/"):
                self._forward()
            elif self.path == "/app-config.js":
                self._send(200, "text/javascript", (ROOT / "deploy" / "viewer" / "app-config.js").read_bytes())
            else:
                if not (app / self.path.partition("?")[0].lstrip("/")).is_file():
                    self.path = "/index.html"  # a place within the page
                super().do_GET()

        def _forward(self) -> None:
            headers = {"Accept": self.headers.get("Accept", "*/*"), "Host": self.headers["Host"]}
            request = urllib.request.Request(f"{pacs.rstrip('/')}{self.path}", headers=headers)  # noqa: S310 - Orthanc
            try:
                with urllib.request.urlopen(request) as answer:  # noqa: S310
                    self._send(answer.status, answer.headers["Content-Type"], answer.read())
            except urllib.error.HTTPError as error:
                self._send(error.code, "text/plain", error.read())

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Tell nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(app)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()


def _look(address: str, nodules: list[Detection], pictures: Path) -> dict[str, bool]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        try:
            page = _opened(browser, address)
            seen = {"series": _series(page), "segments": _segments(page, nodules)}
            seen["drawn"] = _coloured(page, pictures / "ohif_seg.png")
            page.close()
            return {**seen, "report": _report(_opened(browser, address), nodules, pictures / "ohif_sr.png")}
        finally:
            browser.close()


def _opened(browser: Browser, address: str) -> Page:
    """The study, without the viewer's tour and its notice."""
    page = browser.new_page(viewport={"width": 1400, "height": 850})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.get_by_text("Skip all").click()
    page.get_by_text("Confirm and hide").click()
    return page


def _series(page: Page) -> bool:
    shown = page.locator("[data-cy=series-modality-label]")
    return sorted(shown.all_inner_texts()) == ["CT", "SEG", "SR"]


def _segments(page: Page, nodules: list[Detection]) -> bool:
    """Open the segmentation; whether it lists each nodule by its name."""
    page.locator("[data-cy=panelSegmentation-btn]").click()
    page.get_by_text("SEG", exact=True).first.dblclick()
    page.locator("[data-cy=yes-hydrate-btn]").click()
    page.get_by_text("Nodule 1", exact=True).wait_for()
    return all(page.get_by_text(f"Nodule {nodule['id'] + 1}", exact=True).count() == 1 for nodule in nodules)


def _coloured(page: Page, path: Path) -> bool:
    """Whether colours lie on the grey image."""
    page.wait_for_timeout(5000)  # drawn after it is listed
    page.screenshot(path=path)
    pane = np.asarray(Image.open(io.BytesIO(page.locator("[data-cy=viewport-pane]").first.screenshot())).convert("RGB"))
    rows, columns = (int(MARGIN * length) for length in pane.shape[:2])
    inner = pane[rows:-rows, columns:-columns].astype(int)
    return bool((np.ptp(inner, axis=-1) > COLOURED).sum() >= FEW)


def _report(page: Page, nodules: list[Detection], path: Path) -> bool:
    """Open the report, and go through it; whether each nodule comes with its diameter on its image."""
    page.get_by_text("SR", exact=True).first.dblclick()
    for number, nodule in enumerate(nodules):
        if number:
            page.locator("[data-cy=viewport-pane] svg.rotate-180").first.click()  # the arrow to the next one
        try:
            page.locator("svg.svg-layer text", has_text=f"Diameter: {nodule['diameter_mm']:.2f} mm").wait_for()
            page.get_by_text(f"I:{nodule['image_number']} (").wait_for()
        except Timeout:
            page.screenshot(path=path.with_name("ohif_missing.png"))
            return False
        if not number:
            page.screenshot(path=path)
    return True


if __name__ == "__main__":
    sys.exit(main())

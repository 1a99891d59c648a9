"""The page in a browser, against a server process with the shipped model: its functions and its accessibility.

Set PIVOT_SCREENSHOTS to a folder to save screenshots there.
"""

import base64
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from src.api.security import hashed
from src.data.phantom import PhantomNodule

from .api_service import JOBS, served
from .chromium import FLAGS
from .dicom_files import CHEST, write_series
from .pacs import until
from .small_scans import block, chest, mass, save_nifti

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "src" / "api" / "static" / "index.html"
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
CHROMIUM = shutil.which("chromium")
DESKTOP, TABLET = (1280, 800), (820, 1180)
SLOW = 120_000  # ms, on a busy machine
COMPUTER = {"PIVOT_CHECKPOINT": str(ROOT / "checkpoints" / "best_model.pth"), "PIVOT_DEVICES": "cpu"}

pytestmark = [
    pytest.mark.skipif(
        not PAGE.is_file(), reason="the page is not built: npm --prefix web ci && npm --prefix web run build"
    ),
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]


@dataclass
class Seen:
    """The URLs that a page requested, and its errors and warnings."""

    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with the shipped model."""
    with served(tmp_path_factory.mktemp("service"), None, **COMPUTER) as (address, _):
        yield address


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PhantomNodule]:
    """A 64 mm block of the synthetic chest, and its nodule of 20 mm."""
    volume, nodule = block()
    return save_nifti(volume, tmp_path_factory.mktemp("scan") / "block.nii.gz"), nodule


@pytest.fixture(scope="module")
def done(server: str, scan: tuple[Path, PhantomNodule]) -> dict[str, Any]:
    """A completed job with all files."""
    config = "output: {save_report: true, formats: {detections: both}}"
    return finished(server, submit(server, scan[0].name, scan[0].read_bytes(), config))


@pytest.fixture(scope="module")
def whole(server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A completed job of the whole synthetic chest."""
    path = save_nifti(chest()[0], tmp_path_factory.mktemp("whole") / "chest.nii.gz")
    return finished(server, submit(server, path.name, path.read_bytes()))


@pytest.fixture
def opened(browser: Browser, server: str) -> Iterator[Callable[..., tuple[Page, Seen]]]:
    """Opens the page at a fragment. Afterwards, checks that it requested nothing elsewhere and logged no error."""
    contexts = []

    def open_page(fragment: str = "", size: tuple[int, int] = DESKTOP, scheme: Any = "light") -> tuple[Page, Seen]:  # noqa: ANN401
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        context.set_default_timeout(SLOW)
        page, seen = context.new_page(), Seen()
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("pageerror", lambda error: seen.problems.append(str(error)))
        page.on("console", lambda said: seen.problems.append(said.text) if said.type in {"error", "warning"} else None)
        page.goto(f"{server}/{fragment}")
        contexts.append((context, seen))
        return page, seen

    yield open_page
    for context, seen in contexts:
        context.close()
        assert not [url for url in seen.requests if not url.startswith((server, "blob:", "data:"))]
        assert not [text for text in seen.problems if "GPU stall" not in text and "GroupMarkerNotSet" not in text]


def submit(server: str, name: str, content: bytes, config: str | None = None) -> dict[str, Any]:
    """Submit a scan and return its job."""
    data = {"config": config} if config else {}
    job: dict[str, Any] = (
        httpx.post(f"{server}{JOBS}", files={"file": (name, content)}, data=data).raise_for_status().json()
    )
    return job


def finished(server: str, job: dict[str, Any]) -> dict[str, Any]:
    """Wait until the job has ended, and return it."""
    end = time.monotonic() + SLOW / 1000
    while job["status"] in {"queued", "running"} and time.monotonic() < end:
        time.sleep(0.3)
        job = httpx.get(f"{server}{JOBS}/{job['job_id']}").json()
    return job


def ready(page: Page) -> Page:
    """Wait until the image is drawn, and return the page."""
    page.locator(".stage[data-ready]").wait_for()
    return page


def picture(page: Page, name: str) -> np.ndarray[Any, Any]:
    """A screenshot as RGB of shape (height, width, 3), which is also saved if PIVOT_SCREENSHOTS is set."""
    content = page.screenshot(timeout=SLOW, animations="disabled")
    if folder := os.environ.get("PIVOT_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{name}.png").write_bytes(content)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def planes(page: Page, name: str) -> np.ndarray[Any, Any]:
    """The screenshot of the image without its frame."""
    stage = page.locator(".stage").bounding_box()
    assert stage
    x, y, width, height = (int(stage[side]) for side in ("x", "y", "width", "height"))
    return picture(page, name)[y + 4 : y + height - 4, x + 4 : x + width - 4]


def lps(page: Page, panel: int = 0) -> list[float]:
    """The position of the crosshair, LPS mm."""
    words = page.get_by_label("At the crosshair").nth(panel).inner_text().partition(" mm")[0].split()
    signs = {"L": 1, "P": 1, "S": 1, "R": -1, "A": -1, "I": -1}
    return [signs[letter] * float(value) for letter, value in zip(words[::2], words[1::2], strict=True)]


def words_of(place: list[float]) -> str:
    """A position as the page writes it."""
    pairs = zip(place, ("RL", "AP", "IS"), strict=True)
    return "  ".join(f"{letters[value >= 0]} {abs(value):.1f}" for value, letters in pairs)


def violations(page: Page) -> list[str]:
    """The violations that axe rates moderate or worse, with their elements."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{item['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for item in found
        if item["impact"] in {"moderate", "serious", "critical"}
        for node in item["nodes"]
    ]


def test_an_uploaded_scan_is_analysed_and_its_results_are_shown(
    opened: Callable[..., tuple[Page, Seen]], server: str, scan: tuple[Path, PhantomNodule], tmp_path: Path
) -> None:
    path, nodule = scan
    page, seen = opened(scheme="dark")
    page.get_by_label("Scan files").set_input_files(path)
    expect(page.get_by_role("progressbar", name="Progress of the analysis")).to_be_visible(timeout=SLOW)
    picture(page, "progress-dark")
    row = page.locator("tr[data-nodule]").first
    row.wait_for()
    ready(page)
    number = page.url.rsplit("/", 1)[-1]
    report = httpx.get(f"{server}{JOBS}/{number}/results").json()
    first = max(report["detections"], key=lambda each: each["confidence"])
    assert first["diameter_mm"] == pytest.approx(nodule.diameter_mm, abs=2)
    for shown in (f"{first['confidence']:.0%}".replace("%", " %"), f"{first['diameter_mm']:.1f}"):
        expect(row).to_contain_text(shown)
    with page.expect_download() as saved:
        page.get_by_role("link", name="Findings (JSON)").click()
    saved.value.save_as(tmp_path / "saved.json")
    assert json.loads((tmp_path / "saved.json").read_text()) == report
    assert saved.value.suggested_filename == "block_detections.json"
    for name in ("Table (CSV)", "Report (PDF)", "Slices (PNG)", "Heatmap", "Scan (NIfTI)"):
        expect(page.get_by_role("link", name=name)).to_be_visible()
    assert any(url.endswith(("scan.nii.gz", "scan.nii")) for url in seen.requests)


def test_the_image_shows_the_nodule_and_keys_control_it(
    opened: Callable[..., tuple[Page, Seen]], done: dict[str, Any], server: str
) -> None:
    page, _ = opened(f"#/jobs/{done['job_id']}", scheme="dark")
    ready(page)
    place = page.get_by_label("At the crosshair")
    first = max(httpx.get(server + done["links"]["results"]).json()["detections"], key=lambda each: each["confidence"])
    words = words_of(first["coordinates_lps"])
    expect(place).to_contain_text(words)
    before = picture(page, "results-dark")
    stage = page.locator(".stage").bounding_box()
    assert stage
    image = before[int(stage["y"]) : int(stage["y"] + stage["height"]), : int(stage["width"])]
    ringed = (abs(image - (255, 180, 84)) < 12).all(axis=2).sum()
    assert ringed > 100  # the selected nodule's rings
    grey = (np.ptp(image, axis=2) < 4) & (image[..., 0] > 20)
    assert grey.mean() > 0.1  # the CT
    page.keyboard.press("]")  # one slice towards the head
    expect(place).not_to_contain_text(words)
    row = page.get_by_role("button", name=f"Show nodule {first['id'] + 1}")
    row.focus()
    page.keyboard.press("Enter")
    expect(place).to_contain_text(words)
    heat = page.get_by_label("Heatmap", exact=True)
    expect(heat).to_have_value("0")  # a visible heatmap would hide the nodule
    plain = planes(page, "no-heat")

    def changed(name: str) -> float:
        share: float = (abs(planes(page, name) - plain).max(axis=2) > 20).mean()
        return share

    page.keyboard.press("h")
    expect(heat).to_have_value("0.5")
    until(lambda: changed("heat") > 0.005)
    page.keyboard.press("h")
    assert changed("heat-off") < 0.001
    page.keyboard.press("2")
    expect(page.get_by_role("button", name="Axial")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Confidence at least").fill("100")
    expect(page.locator("tr[data-nodule]")).to_have_count(0)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Shortcuts")).to_be_visible()


def _strongest(server: str, job: dict[str, Any]) -> dict[str, Any]:
    """The finding with the highest confidence, which the page selects first."""
    report = httpx.get(server + job["links"]["results"]).json()
    found: dict[str, Any] = max(report["detections"], key=lambda each: each["confidence"])
    return found


def _corners(server: str, job: dict[str, Any], found: dict[str, Any], across: int) -> np.ndarray[Any, Any]:
    """The corners of the mask's voxels in the slice through the finding, LPS mm (n, 3). `across`: the slice's axis."""
    outlines = httpx.get(f"{server}{job['links']['self']}/outlines").json()
    (mask,) = (one for one in outlines["masks"] if one["number"] == found["id"] + 1)
    bits = np.unpackbits(np.frombuffer(base64.b64decode(mask["bits"]), np.uint8), count=int(np.prod(mask["shape"])))
    voxels = np.argwhere(bits.reshape(mask["shape"])) + mask["origin"]
    affine = np.array(outlines["affine"])
    volume = len(voxels) * abs(np.linalg.det(affine[:3, :3]))
    assert volume == pytest.approx(found["properties"]["volume_mm3"], rel=0.2)
    axis = int(np.argmax(abs(affine[across, :3])))
    seen = voxels[voxels[:, axis] == found["coordinates_voxel"][axis]]
    corners: np.ndarray[Any, Any] = np.concatenate([seen - 0.5, seen + 0.5]) @ affine[:3, :3].T + affine[:3, 3]
    return corners * (-1, -1, 1)


def _orange(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The first and last row and column of the selected finding's outline or ring, without the letters at the edges."""
    alike: Any = (abs(image - (255, 180, 84)) < 12).all(axis=2)
    rows, columns = np.nonzero(np.pad(alike[30:-30, 30:-30], 30))
    assert len(rows) > 10
    return np.array([(rows.min(), columns.min()), (rows.max(), columns.max())])


@pytest.mark.parametrize(("key", "across"), [("2", 2), ("3", 1), ("4", 0)], ids=["axial", "coronal", "sagittal"])
def test_the_outline_matches_the_mask(
    opened: Callable[..., tuple[Page, Seen]], done: dict[str, Any], server: str, key: str, across: int
) -> None:
    corners = _corners(server, done, _strongest(server, done), across)
    page, _ = opened(f"#/jobs/{done['job_id']}", scheme="dark")
    ready(page)
    for pressed in ("r", "i", key):  # hide the rings and the inset
        page.keyboard.press(pressed)
    image = planes(page, f"outline-{across}")
    (top, left), (bottom, right) = _orange(image)
    stage = page.locator(".stage").bounding_box()
    assert stage
    ends = [(left, bottom), (right, top)]
    places = []
    for x, y in ends:
        page.mouse.click(stage["x"] + 4 + int(x), stage["y"] + 4 + int(y))
        places.append(lps(page))
        page.wait_for_timeout(700)  # so that two clicks are no double click
    for side in {0, 1, 2} - {across}:
        drawn = sorted(place[side] for place in places)
        assert drawn == pytest.approx([corners[:, side].min(), corners[:, side].max()], abs=0.4)
    page.keyboard.press("o")
    assert not (abs(planes(page, "no-outline")[30:-30, 30:-30] - (255, 180, 84)) < 12).all(axis=2).any()


def test_the_inset_magnifies_the_selected_finding(
    opened: Callable[..., tuple[Page, Seen]], whole: dict[str, Any], server: str
) -> None:
    first = _strongest(server, whole)
    corners = _corners(server, whole, first, 2)
    page, _ = opened(f"#/jobs/{whole['job_id']}", scheme="dark")
    ready(page)
    page.keyboard.press("r")
    page.keyboard.press("2")
    both = planes(page, "inset")
    page.keyboard.press("i")
    expect(page.get_by_role("button", name="Inset")).to_have_attribute("aria-pressed", "false")
    alone = planes(page, "no-inset")
    rows, columns = np.nonzero((abs(both - alone) > 30).any(axis=2))
    top, left = rows.min(), columns.min()
    side = rows.max() - top + 1
    assert columns.max() - left + 1 == pytest.approx(side, abs=1)
    field = np.clip(2.5 * first["diameter_mm"], 30, 90)
    inset = both[top : top + side, left : left + side]
    extent = np.ptp(corners[:, [1, 0]], axis=0)
    assert np.ptp(_orange(np.pad(inset, ((30, 30), (30, 30), (0, 0)))), axis=0) / (side / field) == pytest.approx(
        extent, abs=0.6
    )
    # The inset shows the surroundings of the finding in the same orientation as the plane.
    marks = _orange(alone)
    scale = float(np.mean(np.ptp(marks, axis=0) / extent))
    stage = page.locator(".stage").bounding_box()
    assert stage
    here = lps(page)
    page.keyboard.press("o")
    page.mouse.click(stage["x"] + stage["width"] * 0.2, stage["y"] + stage["height"] * 0.2)  # moves the crosshair away
    page.keyboard.press("i")
    both = planes(page, "inset-plain")
    at = marks.mean(axis=0) + (np.arange(-20, 21)[:, None] / 20 * 0.4 * field * scale)
    around = both[np.ix_(*at.T.astype(int))][..., 2]
    steps = (side / 2 + np.arange(-20, 21) / 20 * 0.4 * side).astype(int)
    seen = both[top : top + side, left : left + side][np.ix_(steps, steps)][..., 2]

    def alike(image: np.ndarray[Any, Any]) -> float:
        return float(np.corrcoef(image.ravel(), around.ravel())[0, 1])

    assert alike(seen) > 0.8
    assert alike(seen) > max(alike(seen[::-1]), alike(seen[:, ::-1]), alike(seen[::-1, ::-1])) + 0.02
    # A click in the inset moves the crosshair to the finding. The ring has a title.
    assert lps(page) != here
    page.mouse.click(stage["x"] + 4 + left + side / 2, stage["y"] + 4 + top + side / 2)
    assert lps(page) == pytest.approx(here, abs=0.2)
    page.keyboard.press("r")
    y, x = marks.mean(axis=0)
    page.mouse.move(stage["x"] + 4 + x, stage["y"] + 4 + y)
    where = f"{first['location']['side']} lung, {first['location']['third']} third"
    words = re.compile(rf"Nodule {first['id'] + 1}, {where}, \d\.\d mm")
    expect(page.locator(".stage")).to_have_attribute("title", words)
    expect(page.locator(f'tr[data-nodule="{first["id"] + 1}"]')).to_contain_text(where)
    # A slice without the finding has no inset.
    for _ in range(12):
        page.keyboard.press("]")
    missed = planes(page, "inset-missed")
    page.keyboard.press("i")
    assert not (abs(planes(page, "no-inset-missed") - missed) > 3).any()


def test_a_pinch_zooms_the_image(opened: Callable[..., tuple[Page, Seen]], done: dict[str, Any]) -> None:
    page, _ = opened(f"#/jobs/{done['job_id']}", TABLET)
    ready(page)
    page.keyboard.press("2")
    before, here = planes(page, "fingers-before"), lps(page)
    stage = page.locator(".stage").bounding_box()
    assert stage
    x, y = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, *apart: float) -> None:
        points = [{"x": x + sign * one / 2, "y": y, "id": sign} for one in apart for sign in (0, 1)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 100)
    touch("touchMove", 150)
    touch("touchMove", 200)
    touch("touchEnd")
    assert lps(page)[2] == here[2]  # the slice is the same; the first finger moved the crosshair
    assert (abs(planes(page, "fingers") - before).max(axis=2) > 30).mean() > 0.05
    page.keyboard.press("f")
    assert (abs(planes(page, "fingers-fitted") - before).max(axis=2) > 30).mean() < 0.02  # only the crosshair differs


def test_a_review_made_with_keys_is_saved(
    opened: Callable[..., tuple[Page, Seen]], server: str, scan: tuple[Path, PhantomNodule], tmp_path: Path
) -> None:
    path = scan[0]
    job = finished(server, submit(server, path.name, path.read_bytes()))
    review = f"{server}{job['links']['self']}/review"
    total = httpx.get(review).json()["progress"]["total"]
    page, seen = opened(f"#/jobs/{job['job_id']}", scheme="dark")
    ready(page)
    progress = page.locator(".review").get_by_role("status")
    expect(progress).to_have_text(f"0 of {total} read")
    page.keyboard.press("n")
    expect(page.get_by_label("Reason")).to_have_value("other")
    page.keyboard.press("n")
    expect(page.get_by_label("Reason")).to_have_value("vessel")
    expect(progress).to_have_text(f"1 of {total} read")
    page.keyboard.press("y")
    expect(page.get_by_role("button", name="Accept", exact=True)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Reason")).to_be_hidden()
    page.get_by_label("Type").select_option("ground-glass")
    page.get_by_label("Comment").fill("grows")
    page.keyboard.press("Tab")
    expect(page.get_by_text("By local,")).to_be_visible()
    for read in range(2, total + 1):
        page.keyboard.press("u")
        page.keyboard.press("n")
        expect(progress).to_have_text(f"{read} of {total} read")
    page.keyboard.press("a")  # adds a nodule at the crosshair
    expect(progress).to_have_text(f"{total + 1} of {total + 1} read", timeout=SLOW)
    picture(page, "review-dark")
    assert violations(page) == []
    page.reload()
    ready(page)
    expect(progress).to_have_text(f"{total + 1} of {total + 1} read")
    expect(page.get_by_label("Comment")).to_have_value("grows")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Reviewed (JSON)").click()
    saved.value.save_as(tmp_path / "saved.json")
    assert saved.value.suggested_filename == "block_reviewed.json"
    report = json.loads((tmp_path / "saved.json").read_text())
    first, own = report["detections"]
    assert (first["properties"]["nodule_type"], first["review"]["comment"]) == ("ground-glass", "grows")
    assert own["confidence"] is None
    # Another reader changes the review. The page does not overwrite it.
    now = httpx.get(review)
    theirs = {"findings": [{"finding": "1", "verdict": "rejected", "reason": "scar"}]}
    httpx.put(review, headers={"If-Match": now.headers["etag"]}, json=theirs).raise_for_status()
    page.get_by_role("button", name="Reject", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("changed since")
    expect(page.get_by_label("Reason")).to_have_value("scar")
    assert httpx.get(review).json()["findings"][0]["reason"] == "scar"
    seen.problems[:] = [text for text in seen.problems if "412" not in text]


def test_the_counts_are_of_the_reviewed_findings_and_have_no_category_after_a_change(
    opened: Callable[..., tuple[Page, Seen]], server: str, scan: tuple[Path, PhantomNodule]
) -> None:
    job = finished(server, submit(server, scan[0].name, scan[0].read_bytes()))
    page, _ = opened(f"#/jobs/{job['job_id']}")
    ready(page)
    expect(page.get_by_text("Nodule probability")).to_be_visible()
    counts = page.get_by_label("Findings").locator(".figures strong")
    expect(counts).to_have_text(["1", "1", "0", "0", "4B"])
    page.keyboard.press("n")
    expect(counts).to_have_text(["0", "0", "0", "0", "\N{EN DASH}"])
    expect(page.get_by_text(re.compile("^Before the review: 1 nodule"))).to_be_visible()
    page.keyboard.press("a")
    expect(counts).to_have_text(["1", "0", "0", "0", "\N{EN DASH}"])
    page.keyboard.press("y")
    expect(counts).to_have_text(["2", "1", "0", "0", "\N{EN DASH}"])


def test_patient_data_is_sent_with_one_scan_only(
    opened: Callable[..., tuple[Page, Seen]], server: str, scan: tuple[Path, PhantomNodule]
) -> None:
    page, _ = opened()
    page.locator("summary", has_text="Patient").click()
    page.get_by_label("Age", exact=True).fill("62")
    page.get_by_label("Sex").select_option("female")
    for yes in ("Emphysema", "Cancer before"):
        page.get_by_label(yes).select_option("no")
    for name in ("Immunosuppressed", "Lung cancer in the family"):
        page.get_by_label(name).select_option("no")
    page.get_by_label("Examination").select_option("for another reason")
    picture(page, "patient-light")
    assert violations(page) == []
    page.get_by_label("Scan files").set_input_files(scan[0])
    ready(page)
    report = httpx.get(f"{server}{JOBS}/{page.url.rsplit('/', 1)[-1]}/results").json()
    first = max(report["detections"], key=lambda each: each["confidence"])["guidelines"]
    assert first["brock"]["2a"]["upper_lobe"] > 0
    assert first["fleischner"]["high_risk"]
    expect(page.get_by_text("upper lobe", exact=False)).to_be_visible()
    picture(page, "patient-results-light")
    page.get_by_role("link", name="All scans").click()
    expect(page.get_by_label("Age", exact=True)).to_have_value("")


def test_distances_are_measured_on_the_image_and_saved(
    opened: Callable[..., tuple[Page, Seen]], done: dict[str, Any], server: str
) -> None:
    page, _ = opened(f"#/jobs/{done['job_id']}", scheme="dark")
    ready(page)
    stage = page.locator(".stage").bounding_box()
    assert stage
    ends = [(stage["x"] + stage["width"] * x, stage["y"] + stage["height"] * y) for x, y in ((0.2, 0.4), (0.35, 0.55))]
    places = []
    for end in ends:
        page.mouse.click(*end)
        places.append(lps(page))
    expected = float(np.linalg.norm(np.subtract(places[0], places[1])))
    assert expected > 5
    page.keyboard.press("m")
    expect(page.get_by_role("button", name="Measure")).to_have_attribute("aria-pressed", "true")
    page.mouse.move(*ends[0])
    page.mouse.down()
    page.mouse.move(*ends[1], steps=3)
    page.mouse.up()
    measured = page.get_by_role("list", name="Measured distances").get_by_role("button").first
    expect(measured).to_contain_text(" mm")
    assert float(measured.inner_text().removesuffix(" mm")) == pytest.approx(expected, abs=0.3)
    assert lps(page) == places[1]  # the crosshair has not moved
    picture(page, "measured-dark")
    review = f"{server}{done['links']['self']}/review"
    until(lambda: httpx.get(review).json()["distances"])
    (kept,) = httpx.get(review).json()["distances"]
    assert (kept["plane"], kept["length_mm"]) == ("axial", pytest.approx(expected, abs=0.3))
    page.reload()
    ready(page)
    expect(measured).to_have_text(measured.inner_text())
    page.get_by_role("button", name="Remove", exact=False).first.wait_for()
    page.get_by_role("list", name="Measured distances").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("list", name="Measured distances")).to_be_hidden()
    until(lambda: not httpx.get(review).json()["distances"])


def test_the_wheel_scrolls_and_zoom_and_window_can_be_changed(
    opened: Callable[..., tuple[Page, Seen]], done: dict[str, Any]
) -> None:
    page, _ = opened(f"#/jobs/{done['job_id']}", scheme="dark")
    ready(page)
    stage = page.locator(".stage").bounding_box()
    assert stage
    axial = (stage["x"] + stage["width"] * 0.3, stage["y"] + stage["height"] * 0.5)
    page.mouse.move(*axial)
    before = lps(page)
    page.mouse.wheel(0, 100)
    place = page.get_by_label("At the crosshair")
    expect(place).not_to_contain_text(words_of(before))
    assert lps(page)[2] < before[2]  # towards the feet
    page.keyboard.press("z")  # zooms to the selected nodule
    page.mouse.click(stage["x"] + stage["width"] * 0.31, axial[1])
    assert lps(page) == pytest.approx(before, abs=0.5)
    page.keyboard.press("z")
    page.mouse.wheel(0, 100)
    expect(place).not_to_contain_text(words_of(before))
    here, whole = lps(page), planes(page, "whole")
    page.get_by_role("button", name="Larger").click()
    assert lps(page) == here
    assert (abs(planes(page, "larger") - whole).max(axis=2) > 30).mean() > 0.05
    page.keyboard.press("f")
    assert (abs(planes(page, "fitted") - whole).max(axis=2) > 30).mean() < 0.001
    lung = page.get_by_role("button", name="Lung", exact=True)
    expect(lung).to_have_attribute("aria-pressed", "true")
    page.mouse.move(*axial)
    page.mouse.down(button="right")
    page.mouse.move(axial[0] + 40, axial[1] + 60, steps=4)
    page.mouse.up(button="right")
    expect(lung).to_have_attribute("aria-pressed", "false")
    level, width = page.get_by_label("Level"), page.get_by_label("Width")
    assert (level.input_value(), width.input_value()) != ("-600", "1500")
    page.keyboard.press("w")
    expect(lung).to_have_attribute("aria-pressed", "true")
    assert (level.input_value(), width.input_value()) == ("-600", "1500")
    preset = planes(page, "lung")
    width.fill("300")
    width.press("Enter")  # a custom window; keys control the image again
    expect(lung).to_have_attribute("aria-pressed", "false")
    assert (abs(planes(page, "own") - preset).max(axis=2) > 30).mean() > 0.05
    page.keyboard.press("w")
    expect(lung).to_have_attribute("aria-pressed", "true")


def _followed(report: dict[str, Any], move: tuple[float, float, float]) -> dict[str, Any]:
    """A comparison with a prior whose points lie `move` mm from those of the present scan."""
    first = max(report["detections"], key=lambda each: each["confidence"])
    here = np.array(first["coordinates_lps"])
    seen = {key: first[key] for key in ("diameter_mm", "properties")} | {"label": str(first["id"] + 1)}

    def lattice(sign: int) -> dict[str, Any]:
        low = here - 100
        nodes = [
            low + 200 * np.array([x, y, z]) + sign * np.array(move) for z in (0, 1) for y in (0, 1) for x in (0, 1)
        ]
        places = np.ravel(nodes).tolist()
        return {"origin": low.tolist(), "step": [200, 200, 200], "shape": [2, 2, 2], "places": places}

    growth = {
        "trend": "growing",
        "volume_change_percent": 55.0,
        "doubling_time_days": 142.0,
        "doubling_time_days_95": [90.0, None],
    }
    nodule = {
        "number": 0,
        "status": "matched",
        "baseline": {**seen, "coordinates_lps": (here + move).tolist()},
        "followup": {**seen, "coordinates_lps": here.tolist()},
        "expected_lps": here.tolist(),
        "growth": growth,
        "lung_rads": {"category": "4B"},
    }
    return {
        "interval": {"days": 90, "reason": None},
        "registration": {"method": "deformable", "lung_overlap": 0.97, "warnings": []},
        "repeatability": {"volume_change_percent_95": 27.0, "source": "a study"},
        "nodules": [nodule],
        "lung_rads": {"category": "4B", "management": "look", "assumptions": ["screening"], "reason": None},
        "notes": [],
        "links": {"to_baseline": lattice(1), "to_followup": lattice(-1)},
    }


def test_a_prior_is_shown_beside_the_scan_and_scrolls_with_it(
    opened: Callable[..., tuple[Page, Seen]], done: dict[str, Any], server: str, scan: tuple[Path, PhantomNodule]
) -> None:
    move = (3.0, 4.0, -5.0)
    prior = finished(server, submit(server, "prior.nii.gz", scan[0].read_bytes()))
    page, _ = opened(f"#/jobs/{done['job_id']}")
    ready(page)
    asked: list[Any] = []
    answer = _followed(httpx.get(server + done["links"]["results"]).json(), move)

    def answered(route: Route) -> None:  # the synthetic block has no lungs to register
        asked.append(route.request.post_data_json)
        route.fulfill(json=answer)

    page.route("**/followup", answered)
    page.keyboard.press("p")
    expect(page.get_by_label("Prior", exact=True)).to_be_focused()
    page.get_by_label("Prior", exact=True).select_option(prior["job_id"])
    page.get_by_label("Days between").fill("90")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator(".exam .stage[data-ready]").nth(1).wait_for()
    assert asked == [{"prior": prior["job_id"], "days": 90}]
    assert page.url.endswith(f"#/jobs/{done['job_id']}/prior/{prior['job_id']}/days/90")
    expect(page.locator("tr[data-followed]")).to_contain_text("142 d (90 to ?)")
    now, place = answer["nodules"][0]["followup"]["coordinates_lps"], page.get_by_label("At the crosshair")
    expect(place.nth(1)).to_contain_text(words_of(now))
    assert np.subtract(lps(page, 0), lps(page, 1)) == pytest.approx(move, abs=0.2)
    page.keyboard.press("]")
    expect(place.nth(1)).not_to_contain_text(words_of(now))
    assert 0 < lps(page, 1)[2] - now[2] <= 2.5  # one slice, not one for each image
    page.keyboard.press("j")
    expect(place.nth(1)).to_contain_text(words_of(now))
    assert np.subtract(lps(page, 0), lps(page, 1)) == pytest.approx(move, abs=0.2)
    picture(page, "prior-light")
    assert violations(page) == []
    page.set_viewport_size({"width": TABLET[0], "height": TABLET[1]})
    for panel in (0, 1):
        box = page.locator(".stage").nth(panel).bounding_box()
        assert box
        assert box["height"] > 200
    picture(page, "prior-tablet")


def test_an_uploaded_prior_is_analysed_and_compared(
    opened: Callable[..., tuple[Page, Seen]], done: dict[str, Any], server: str, scan: tuple[Path, PhantomNodule]
) -> None:
    page, _ = opened(f"#/jobs/{done['job_id']}")
    ready(page)
    answer = _followed(httpx.get(server + done["links"]["results"]).json(), (0.0, 0.0, 0.0))
    asked: list[Any] = []

    def answered(route: Route) -> None:  # the synthetic block has no lungs to register
        asked.append(route.request.post_data_json)
        route.fulfill(json=answer)

    page.route("**/followup", answered)
    panel = page.locator(".prior")

    def drop(name: str) -> None:
        file = {"name": name, "mimeType": "", "buffer": scan[0].read_bytes()}
        panel.get_by_label("Scan files").set_input_files(file)  # type: ignore[arg-type]

    page.keyboard.press("p")
    page.get_by_label("Comment").fill("a comment that is not yet saved")
    drop("earlier.nii.gz")
    expect(panel.get_by_text("earlier is analysed.")).to_be_visible(timeout=SLOW)
    expect(page.get_by_label("Comment")).to_have_value(
        "a comment that is not yet saved"
    )  # the page still shows this job
    expect(page.get_by_label("Prior", exact=True)).to_contain_text("earlier")
    picture(page, "prior-dropped-light")
    assert violations(page) == []
    page.get_by_label("Days between").fill("90")
    drop("before.nii.gz")
    page.locator(".exam .stage[data-ready]").nth(1).wait_for()
    expect(page.get_by_role("heading", name="Prior: before")).to_be_visible()
    assert [one["days"] for one in asked] == [90]
    prior = httpx.get(f"{server}{JOBS}/{asked[0]['prior']}").json()
    assert (prior["scan_id"], prior["status"]) == ("before", "completed")
    expect(page.locator("summary", has_text="Compare with another prior")).to_be_visible()


def test_the_worklist_shows_the_progress_and_the_reader_of_each_review(
    opened: Callable[..., tuple[Page, Seen]], server: str, scan: tuple[Path, PhantomNodule]
) -> None:
    job = finished(server, submit(server, "worklist.nii.gz", scan[0].read_bytes()))
    review = f"{server}{job['links']['self']}/review"
    total = httpx.get(review).json()["progress"]["total"]
    page, _ = opened()
    page.get_by_label("Name", exact=True).fill("worklist")
    read = page.locator(".joblist .read")
    expect(read).to_have_text(f"0 of {total}", timeout=SLOW)
    page.locator("#jobs-state").select_option("to read")
    expect(read).to_have_count(1)
    said = {"findings": [{"finding": str(number), "verdict": "accepted"} for number in range(1, total + 1)]}
    httpx.put(review, headers={"If-Match": '"0"'}, json=said).raise_for_status()
    page.reload()
    page.get_by_label("Name", exact=True).fill("worklist")
    expect(read).to_have_text(f"{total} of {total}, local", timeout=SLOW)
    picture(page, "worklist-light")
    page.locator("#jobs-state").select_option("to read")
    expect(read).to_have_count(0)


def test_a_slab_is_a_maximum_intensity_projection(
    opened: Callable[..., tuple[Page, Seen]], done: dict[str, Any]
) -> None:
    page, _ = opened(f"#/jobs/{done['job_id']}", scheme="dark")
    ready(page)
    for key in ("r", "o", "2"):
        page.keyboard.press(key)
    thin = before = planes(page, "slice")
    for thickness in (5, 8, 10):
        page.keyboard.press("s")
        expect(page.get_by_role("button", name=f"{thickness} mm")).to_have_attribute("aria-pressed", "true")
        now = planes(page, f"slab-{thickness}")
        grey = (np.ptp(now, axis=2) < 4) & (np.ptp(before, axis=2) < 4)
        not_darker: Any = (now >= before - 3).all(axis=2)
        assert not_darker[grey].mean() > 0.99
        assert now[grey].mean() > before[grey].mean() + 0.3
        before = now
    page.keyboard.press("s")
    assert (abs(planes(page, "slice-again") - thin) > 3).mean() < 0.001


def test_the_slider_selects_the_slice(opened: Callable[..., tuple[Page, Seen]], done: dict[str, Any]) -> None:
    page, _ = opened(f"#/jobs/{done['job_id']}", scheme="dark")
    ready(page)
    slider = page.get_by_label("Axial slice")
    slider.fill("3")
    expect(slider).to_have_attribute("aria-valuetext", f"3 of {slider.get_attribute('max')}")
    before = lps(page)
    slider.press("ArrowRight")
    assert lps(page)[:2] == before[:2]
    assert lps(page)[2] > before[2]  # towards the head


def test_the_api_description_loads_from_the_service_alone(opened: Callable[..., tuple[Page, Seen]]) -> None:
    page, _ = opened("docs")
    page.locator(".opblock").first.wait_for()
    assert page.locator(".opblock").count() > 10


def test_a_browser_without_webgl_shows_the_slices(browser: Browser, server: str, done: dict[str, Any]) -> None:
    page = browser.new_page()
    page.set_default_timeout(SLOW)
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(f"{server}/#/jobs/{done['job_id']}")
    expect(page.get_by_alt_text("Slices through the strongest findings")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("WebGL")
    picture(page, "no-webgl")
    page.close()


def test_a_mass_is_announced_and_shown(opened: Callable[..., tuple[Page, Seen]], server: str, tmp_path: Path) -> None:
    job = finished(server, submit(server, "mass.nii", save_nifti(mass(), tmp_path / "mass.nii").read_bytes()))
    page, _ = opened(f"#/jobs/{job['job_id']}", scheme="dark")
    ready(page)
    expect(page.get_by_role("note").filter(has_text="a mass of")).to_be_visible()
    place = page.get_by_label("At the crosshair")
    before = place.inner_text()
    page.keyboard.press("]")
    expect(place).not_to_have_text(before)
    page.get_by_role("button", name="Show mass").click()
    expect(place).to_have_text(before)
    picture(page, "mass-dark")
    assert violations(page) == []


@pytest.mark.parametrize(("scheme", "size"), [("light", DESKTOP), ("dark", TABLET)], ids=["desktop", "tablet"])
def test_pages_have_no_accessibility_violations(
    opened: Callable[..., tuple[Page, Seen]], done: dict[str, Any], scheme: str, size: tuple[int, int]
) -> None:
    if not AXE.is_file():
        pytest.skip("needs axe-core: npm --prefix web ci")
    page, _ = opened("", size, scheme)
    page.locator(".joblist a").first.wait_for()
    name = f"{scheme}-{size[0]}"
    picture(page, f"start-{name}")
    assert not violations(page)
    page.goto(f"{page.url.split('#')[0]}#/jobs/{done['job_id']}")
    ready(page)
    picture(page, f"results-{name}")
    assert not violations(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.get_by_text("Research use only.")).to_be_in_viewport()
    page.keyboard.press("?")
    assert not violations(page)


def test_the_chosen_theme_is_kept(opened: Callable[..., tuple[Page, Seen]]) -> None:
    page, _ = opened()
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Dark theme").click()
    dark = page.evaluate(ground)
    page.reload()
    assert page.evaluate(ground) == dark != light


def test_an_unreadable_file_shows_the_error_of_the_service(opened: Callable[..., tuple[Page, Seen]]) -> None:
    page, _ = opened()
    page.get_by_label("Scan files").set_input_files({"name": "notes.nii", "mimeType": "", "buffer": b"no scan"})
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("notes", timeout=SLOW)
    picture(page, "failed-light")
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("button", name="Remove it").click()
    page.locator(".jobs").wait_for()
    expect(page.get_by_role("link", name="notes")).to_have_count(0)


def test_a_folder_of_dicom_becomes_one_job(opened: Callable[..., tuple[Page, Seen]], tmp_path: Path) -> None:
    folder = tmp_path / "series"
    write_series(folder, CHEST)
    page, _ = opened()
    page.get_by_label("DICOM folder").set_input_files(folder)
    expect(page.get_by_role("heading", name="series")).to_be_visible(timeout=SLOW)
    ready(page)
    expect(page.locator(".heading")).to_contain_text("24 \u00d7 20 \u00d7 12 voxels of 1.5 \u00d7 2 \u00d7 2.5 mm")


def test_the_page_asks_for_the_key_and_pages_the_list_of_jobs(browser: Browser, tmp_path: Path) -> None:
    key = f"pivot_{secrets.token_urlsafe(32)}"
    keys = json.dumps({"reader": hashed(key)})
    with served(tmp_path, PIVOT_AUTH="key", PIVOT_API_KEYS=keys, PIVOT_DEVICES="none") as (address, _):
        for number in range(10):
            files = {"file": (f"scan{number}.nii", b"waits")}
            httpx.post(address + JOBS, files=files, headers={"X-API-Key": key}).raise_for_status()
        page = browser.new_page()
        page.set_default_timeout(SLOW)
        page.goto(address)
        page.get_by_label("Key", exact=True).fill("wrong")
        page.get_by_role("button", name="Continue").click()
        page.get_by_label("Key", exact=True).fill(key)
        page.get_by_role("button", name="Continue").click()
        links = page.locator(".joblist a")
        expect(links).to_have_text([f"scan{number}" for number in range(9, 1, -1)])
        page.get_by_label("Name", exact=True).fill("SCAN9")
        expect(links).to_have_text(["scan9"])
        page.get_by_label("Name", exact=True).fill("")
        page.get_by_role("button", name="Size").click()
        expect(page.get_by_role("button", name="Next", exact=True)).to_be_visible()
        page.get_by_role("button", name="Submitted").click()
        page.get_by_role("button", name="Older", exact=True).click()
        expect(links).to_have_text(["scan1", "scan0"])
        frames: list[str] = []
        page.on("websocket", lambda followed: followed.on("framereceived", lambda frame: frames.append(str(frame))))
        links.first.click()
        expect(page.get_by_role("status")).to_have_text("Waiting for its turn")
        until(lambda: page.title() and frames)  # calling the page lets Playwright deliver its events
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Cancel it").click()
        expect(page.get_by_role("status")).to_have_text("This job was cancelled.")
        page.close()


def test_a_scan_dropped_on_the_page_is_uploaded(
    opened: Callable[..., tuple[Page, Seen]], scan: tuple[Path, PhantomNodule]
) -> None:
    page, _ = opened()
    content = list(scan[0].read_bytes())
    drop = page.evaluate_handle(
        """content => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(content)], "dropped.nii.gz"));
            return data;
        }""",
        content,
    )
    page.locator(".zone").dispatch_event("drop", {"dataTransfer": drop})
    expect(page.get_by_role("heading", name="dropped")).to_be_visible(timeout=SLOW)

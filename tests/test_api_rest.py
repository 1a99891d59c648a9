"""The REST interface: uploads, refusals, results and expiry."""

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from src.api import jobs, supervisor
from src.api.database import jobs as jobs_table
from src.api.jobs import STATES
from src.api.security import hashed
from src.detection.pipeline import InferencePipeline
from src.errors import BadConfig
from src.guidelines.patient import load_patient

from .api_service import JOBS, Api, api_on, hostile_zips, nifti

BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}
QUICK = b"inference: {patch_size: [32, 32, 32]}\noutput: {save_visualization: false, formats: {detections: both}}"


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with api_on(tmp_path_factory.mktemp("api"), submissions_per_minute=10_000) as api:
        yield api


@pytest.fixture
def api(shared_api: Api) -> Iterator[Api]:
    """The shared service, with all jobs deleted."""
    yield shared_api
    shared_api.clear()


def _part(name: str, content: str = "x") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{content}\r\n'.encode()


def test_a_job_from_upload_to_removal(api: Api) -> None:
    sent = api.submit(config=QUICK)
    assert sent.status_code == 202
    job = sent.json()
    assert sent.headers["location"] == job["links"]["self"] == f"{JOBS}/{job['job_id']}"
    assert (job["status"], job["progress"], job["scan_id"]) == ("queued", 0, "scan")
    early = api.client.get(job["links"]["results"])
    assert early.status_code == 409
    assert early.json()["state"] == "queued"
    assert early.headers["content-type"] == "application/problem+json"
    assert api.client.get(job["links"]["files"]).json() == {"files": []}
    assert api.client.get(f"{job['links']['self']}/outlines").status_code == 409

    assert api.work().id == job["job_id"]
    done = api.state(job["job_id"])
    assert (done["status"], done["progress"], done["error"]) == ("completed", 100, None)
    assert done["windows_done"] == done["windows_total"] > 1
    report = api.client.get(job["links"]["results"]).json()
    assert report["scan_id"] == "scan"
    assert report["metadata"]["shape"] == [40, 40, 40]

    files = {file["kind"]: file for file in api.client.get(job["links"]["files"]).json()["files"]}
    assert {kind: file["name"] for kind, file in files.items()} == {
        "detections": "scan_detections.json",
        "table": "scan_detections.csv",
        "findings": "scan_findings.csv",
        "heatmap": "scan_heatmap.nii.gz",
        "scan": "scan.nii",
    }
    assert api.client.get(files["scan"]["url"]).content == nifti()
    assert api.client.get(files["detections"]["url"]).json() == report
    outlines = api.client.get(f"{job['links']['self']}/outlines").json()
    assert outlines["affine"][0] == pytest.approx([2, 0, 0, 0])
    assert len(outlines["masks"]) <= report["summary"]["num_detections"] + len(report["masses"])

    assert api.client.delete(job["links"]["self"]).status_code == 204
    assert api.client.get(job["links"]["self"]).status_code == 404
    assert api.left() == []


def test_files_support_ranges_and_conditional_requests(api: Api) -> None:
    job = api.submit(config=QUICK).json()
    api.work()
    url = next(f["url"] for f in api.client.get(job["links"]["files"]).json()["files"] if f["kind"] == "scan")
    whole = api.client.get(url)
    assert whole.headers["accept-ranges"] == "bytes"
    part = api.client.get(url, headers={"range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, nifti()[4:10])
    assert part.headers["etag"] == whole.headers["etag"]
    assert api.client.get(url, headers={"range": "bytes=4-9", "if-range": '"other"'}).status_code == 200
    assert api.client.get(url, headers={"range": "bytes=99999999-"}).status_code == 416
    assert api.client.get(url, headers={"if-none-match": whole.headers["etag"]}).status_code == 304
    assert api.client.get(url, headers={"if-none-match": '"other"'}).status_code == 200
    assert "attachment" in api.client.get(f"{url}?download=1").headers["content-disposition"]
    api.client.delete(job["links"]["self"])


CASES = {
    "no form": (b"x", {"content-type": "text/plain"}, 400, "BadRequest"),
    "no boundary": (b"x", {"content-type": "multipart/form-data"}, 400, "BadRequest"),
    "malformed": (b"nonsense", BOUNDARY, 400, "BadRequest"),
    "cut short": (_part("file"), BOUNDARY, 400, "BadRequest"),
    "no file": (_part("config") + b"--b--\r\n", BOUNDARY, 400, "BadRequest"),
    "two files": (_part("file") * 2 + b"--b--\r\n", BOUNDARY, 400, "BadRequest"),
    "an unknown part": (_part("file") + _part("study_date") + b"--b--\r\n", BOUNDARY, 400, "BadRequest"),
    "a nameless part": (b"--b\r\nX: y\r\n\r\nz\r\n--b--\r\n", BOUNDARY, 400, "BadRequest"),
    "a study beside a file": (_part("file") + _part("study", "1.2.3") + b"--b--\r\n", BOUNDARY, 400, "BadRequest"),
    "a study, but no DICOMweb server": (_part("study", "1.2.3") + b"--b--\r\n", BOUNDARY, 400, "BadRequest"),
    "no study's UID": (_part("study", "1.2.x") + b"--b--\r\n", BOUNDARY, 422, "BadScan"),
    "an empty scan": (_part("file", "") + b"--b--\r\n", BOUNDARY, 422, "BadScan"),
    "no known format": (_part("file", "text") + b"--b--\r\n", BOUNDARY, 422, "BadScan"),
    "no YAML": (_part("file", "NRRD") + _part("config", "a: [") + b"--b--\r\n", BOUNDARY, 422, "BadConfig"),
    "an alias": (
        _part("file", "NRRD") + _part("config", "output: &a {x: [1]}\ninput: *a") + b"--b--\r\n",
        BOUNDARY,
        422,
        "BadConfig",
    ),
    "a list": (_part("file", "NRRD") + _part("config", "- a") + b"--b--\r\n", BOUNDARY, 422, "BadConfig"),
    "a misspelt key": (
        _part("file", "NRRD") + _part("config", "outputs: {}") + b"--b--\r\n",
        BOUNDARY,
        422,
        "BadConfig",
    ),
    "another model": (
        _part("file", "NRRD") + _part("config", "model: {checkpoint: /etc/passwd}") + b"--b--\r\n",
        BOUNDARY,
        422,
        "BadConfig",
    ),
    "huge patches": (
        _part("file", "NRRD") + _part("config", "inference: {patch_size: [2048, 2048, 2048]}") + b"--b--\r\n",
        BOUNDARY,
        422,
        "BadConfig",
    ),
    "no number": (
        _part("file", "NRRD") + _part("config", "input: {clip_range: [.nan, 400]}") + b"--b--\r\n",
        BOUNDARY,
        422,
        "BadConfig",
    ),
    "a huge config": (_part("file", "NRRD") + _part("config", "#" * 300_000) + b"--b--\r\n", BOUNDARY, 413, "TooLarge"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_refused_request_leaves_nothing(api: Api, case: str) -> None:
    body, headers, status, kind = CASES[case]
    answer = api.client.post(JOBS, content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {**answer.json(), "type": f"urn:pivot:{kind}", "status": status}
    assert list(api.settings.jobs.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../../etc/passwd.nii", "passwd.nii"),
        ("C:\\scans\\a b.nii", "a_b.nii"),
        (".hidden.nii", "hidden.nii"),
        ("ö" * 300 + ".NII", "ö" * 75 + ".nii"),
        ("name", "name.nii"),
        ("a\r\nb.nii", None),
    ],
)
def test_a_files_name_cannot_leave_its_folder(api: Api, name: str, kept: str | None) -> None:
    job = api.submit(name=name).json()
    assert kept is None or api.left() == [kept]
    api.client.delete(f"{JOBS}/{job['job_id']}")
    api.client.delete(f"{JOBS}/{job['job_id']}")
    assert api.left() == []


def test_a_scan_that_the_worker_refuses_leaves_nothing(api: Api, tmp_path: Path) -> None:
    for problem, content in hostile_zips(tmp_path).items():
        number = api.submit(content, "scan.zip").json()["job_id"]
        job = api.work()
        assert job.state == "failed"
        assert job.error is not None
        assert problem in job.error["detail"]
        assert job.error["detail"].startswith("scan.zip: ")
        assert str(api.settings.data) not in job.error["detail"]
        assert job.error == {**job.error, "type": "urn:pivot:BadScan", "status": 422}
        assert api.client.get(f"{JOBS}/{number}/results").json()["error"] == job.error
        assert api.left() == []
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_repeated_submission_returns_the_same_job(api: Api) -> None:
    key = {"Idempotency-Key": "one"}
    first, again = api.submit(headers=key), api.submit(headers=key)
    assert again.status_code == 202
    assert again.json()["job_id"] == first.json()["job_id"]
    assert api.left() == ["scan.nii"]
    other = api.submit(nifti(41), headers=key)
    assert (other.status_code, other.json()["type"]) == (422, "urn:pivot:KeyReused")
    assert api.submit(headers={"Idempotency-Key": "x" * 201}).status_code == 400


def test_the_list_is_paged_and_filtered(api: Api) -> None:
    numbers = [api.submit().json()["job_id"] for _ in range(5)]
    seen, url = [], f"{JOBS}?limit=2"
    while url:
        page = api.client.get(url).json()
        seen.append([job["job_id"] for job in page["jobs"]])
        url = page["next"]
    assert seen == [numbers[:2:-1], numbers[2:0:-1], numbers[:1]]
    api.client.delete(f"{JOBS}/{numbers[3]}")
    cancelled = api.client.get(f"{JOBS}?status=cancelled").json()["jobs"]
    assert [job["job_id"] for job in cancelled] == [numbers[3]]
    assert api.client.get(f"{JOBS}?limit=0").status_code == 400
    assert api.client.get(f"{JOBS}?cursor=x").status_code == 400


KEYS = {"ward": hashed("secret"), "other": hashed("other")}


@pytest.mark.parametrize(
    ("settings", "host", "name", "headers", "status"),
    [
        ({}, "127.0.0.1", "localhost:8000", {}, 200),
        ({}, "::1", "[::1]:8000", {}, 200),
        ({}, "10.0.0.9", "localhost", {}, 401),
        ({}, "127.0.0.1", "evil.example", {}, 401),  # its name resolves to this machine
        ({}, "127.0.0.1", "localhost", {"x-forwarded-for": "127.0.0.1"}, 401),  # a proxy on this machine
        ({}, "127.0.0.1", "localhost", {"origin": "http://evil.example"}, 403),
        ({}, "127.0.0.1", "localhost", {"origin": "http://localhost"}, 200),
        ({"cors_origins": ("http://good.example",)}, "127.0.0.1", "localhost", {"origin": "http://good.example"}, 200),
        ({"auth": "none"}, "10.0.0.9", "server", {}, 200),
        ({"auth": "key"}, "127.0.0.1", "localhost", {}, 401),
        ({"auth": "key"}, "127.0.0.1", "localhost", {"authorization": "Bearer secret"}, 200),
        ({}, "10.0.0.9", "server", {"x-api-key": "secret"}, 200),
        ({}, "10.0.0.9", "server", {b"x-api-key": "sécret".encode()}, 401),
        ({"auth": "none"}, "10.0.0.9", "server", {"x-api-key": "wrong"}, 401),
    ],
)
def test_access_depends_on_address_host_and_key(
    tmp_path: Path, settings: dict[str, Any], host: str, name: str, headers: dict[Any, Any], status: int
) -> None:
    with api_on(tmp_path, host, name, **{"api_keys": KEYS, **settings}) as api:
        answer = api.client.get(JOBS, headers=headers)
        assert answer.status_code == status
        assert api.client.get("/metrics", headers=headers).status_code == status
        assert (answer.headers.get("www-authenticate") == "Bearer") == (status == 401)
        assert api.client.get("/healthz").status_code == 200
        assert "access-control-allow-origin" not in api.client.get("/healthz").headers


def test_a_job_is_visible_only_to_its_key(tmp_path: Path) -> None:
    with api_on(tmp_path, "10.0.0.9", "server", api_keys=KEYS) as api:
        mine, other = {"x-api-key": "secret"}, {"authorization": "bearer other"}
        address = api.submit(headers=mine).headers["location"]
        for path in (address, f"{address}/results", f"{address}/files", f"{address}/files/scan.nii"):
            assert api.client.get(path, headers=other).status_code == 404
        assert api.client.delete(address, headers=other).status_code == 404
        assert api.client.get(JOBS, headers=other).json()["jobs"] == []
        assert api.client.get(address, headers=mine).status_code == 200


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({"submissions_per_minute": 1}, 429),
        ({"queued_jobs": 1}, 429),
        ({"uploads": 1}, 503),
        ({"free_bytes": 2**60}, 503),
        ({"upload_bytes": 1000}, 413),
    ],
)
def test_a_full_service_refuses_uploads(tmp_path: Path, settings: dict[str, Any], status: int) -> None:
    with api_on(tmp_path, **settings) as api:
        if status == 429:
            assert api.submit().status_code == 202
        api.service.arriving |= {str(number): "other" for number in range(settings.get("uploads", 0))}
        answer = api.submit()
        assert answer.status_code == status
        assert status == 413 or int(answer.headers["retry-after"]) > 0
        assert len(api.left()) == (status == 429)
        ready = api.client.get("/readyz")
        assert ready.status_code == (503 if "free_bytes" in settings else 200)


def test_only_expired_jobs_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with api_on(tmp_path, retention_hours=1e-9) as api:
        old, new = (api.submit(config=QUICK).json()["job_id"] for _ in range(2))
        assert api.work().id == old
        (api.settings.jobs / "crashed" / "input").mkdir(parents=True)
        supervisor.sweep(api.service)
        assert {folder.name for folder in api.settings.jobs.iterdir()} == {
            new,
            "crashed",
        }  # the upload may still be running
        monkeypatch.setattr(supervisor, "ORPHAN_SECONDS", -1 - api.settings.upload_seconds)
        api.service.arriving["crashed"] = "somebody"
        supervisor.sweep(api.service)
        assert {folder.name for folder in api.settings.jobs.iterdir()} == {new, "crashed"}
        del api.service.arriving["crashed"]
        supervisor.sweep(api.service)
        assert {folder.name for folder in api.settings.jobs.iterdir()} == {new}
        assert api.client.get(f"{JOBS}/{old}").status_code == 404
        assert api.state(new)["status"] == "queued"


def test_a_running_upload_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ORPHAN_SECONDS", -math.inf)  # every upload takes longer
    content = nifti()
    with api_on(tmp_path) as api, api.connect(f"{JOBS}/stream") as socket:
        socket.send_json({"event": "start", "filename": "scan.nii", "size": len(content), "config": QUICK.decode()})
        socket.send_bytes(content[:999])
        while not api.left():
            time.sleep(0.01)
        supervisor.sweep(api.service)
        assert api.left() == [".partial"]
        socket.send_bytes(content[999:])
        assert socket.receive_json()["status"] == "queued"
        supervisor.sweep(api.service)
        assert api.work().state == "completed"


def test_an_upload_to_another_server_is_kept_for_the_longest_upload_time(tmp_path: Path) -> None:
    with api_on(tmp_path) as api:
        (api.settings.jobs / "elsewhere" / "input").mkdir(parents=True)
        api.service.seen["elsewhere"] = time.monotonic() - api.settings.upload_seconds
        supervisor.sweep(api.service)
        assert [folder.name for folder in api.settings.jobs.iterdir()] == ["elsewhere"]
        api.service.seen["elsewhere"] -= 2 * supervisor.ORPHAN_SECONDS
        supervisor.sweep(api.service)
        assert list(api.settings.jobs.iterdir()) == []


def test_files_that_a_killed_worker_left_of_an_ended_job_are_removed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    number = api.submit(config=QUICK).json()["job_id"]
    done = api.work()
    for left in ("input", "attempt", "attempt.tmp"):
        (api.settings.jobs / number / left).mkdir()
    monkeypatch.setattr(supervisor, "ORPHAN_SECONDS", -1 - api.settings.upload_seconds)
    supervisor.sweep(api.service)
    assert [path.name for path in (api.settings.jobs / number).iterdir()] == [done.result]
    assert api.client.get(f"{JOBS}/{number}/results").status_code == 200


def test_a_broken_database_is_answered_with_503(tmp_path: Path) -> None:
    with api_on(tmp_path) as api:
        with api.service.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE jobs RENAME TO gone")
        answer = api.client.get(JOBS)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert api.client.get("/readyz").json()["database"] == "unreachable"
        assert list(api.settings.jobs.iterdir()) == []


def test_metrics_and_headers_name_no_scan(api: Api) -> None:
    job = api.submit(name="MUELLER_HANS.nii").json()
    api.client.get(job["links"]["self"])
    metrics = api.client.get("/metrics")
    assert 'pivot_jobs{state="queued"} 1.0' in metrics.text
    assert f'pivot_http_requests_total{{method="GET",route="{JOBS}/{{job_id}}",status="200"}}' in metrics.text
    assert "MUELLER" not in metrics.text + json.dumps(job["links"])
    assert job["job_id"] not in metrics.text
    for answer in (metrics, api.client.get("/nowhere"), api.client.get("/")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_the_api_description_requests_nothing_from_other_sites(api: Api) -> None:
    page = api.client.get("/docs")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="(docs[^"]+)"', page.text)
    assert len(named) == 3
    for name in named:
        part = api.client.get(f"/{name}")
        assert (part.status_code, len(part.content) > 50) == (200, True)
    assert 'url: "openapi.json"' in api.client.get("/docs/start.js").text
    assert api.client.get("/docs/none.js").status_code == 404


def test_openapi_describes_the_form_and_the_problems(api: Api) -> None:
    described = api.client.get("/openapi.json").json()
    post = described["paths"][JOBS]["post"]
    assert post["requestBody"]["content"]["multipart/form-data"]["schema"]["oneOf"] == [
        {"required": ["file"]},
        {"required": ["study"]},
    ]
    assert {"202", "400", "401", "413", "422", "429", "503"} <= post["responses"].keys()
    assert described["components"]["schemas"]["JobOut"]["examples"]
    assert described["components"]["schemas"]["JobOut"]["properties"]["status"]["enum"] == list(STATES)


def test_the_root_shows_the_page_or_how_to_build_it(api: Api) -> None:
    answer = api.client.get("/")
    assert answer.status_code == 200
    assert "PIVOT" in answer.text


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"PIVOT_UPLOAD_BYTES": "much"}, "PIVOT_UPLOAD_BYTES: "),
        ({"PIVOT_API_KEYS": '{"ward": "hunter2"}'}, "PIVOT_API_KEYS: "),
        ({"PIVOT_AUTH": "key"}, "nobody could use the service"),
    ],
)
def test_errors_about_settings_show_no_secrets(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], reason: str
) -> None:
    from src.api.settings import load_settings  # noqa: PLC0415

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadConfig) as caught:
        load_settings()
    assert reason in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_settings_are_read_from_lists_with_commas_and_keys_from_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from src.api import keys  # noqa: PLC0415
    from src.api.settings import load_settings  # noqa: PLC0415

    assert keys.main(["ward"]) == 0
    key, hashes = (line.split(":", 1)[1].strip() for line in capsys.readouterr().out.splitlines())
    monkeypatch.setenv("PIVOT_API_KEYS", hashes)
    monkeypatch.setenv("PIVOT_DEVICES", "cuda:0,cuda:1")
    settings = load_settings()
    assert settings.devices == ("cuda:0", "cuda:1")
    assert settings.api_keys == {"ward": hashed(key)}
    monkeypatch.setenv("PIVOT_DEVICES", "none")
    assert load_settings().devices == ()


def test_jobs_are_counted_by_state(api: Api) -> None:
    assert set(jobs.counts(api.service.engine)) == set(STATES)


def test_patient_data_is_used_and_then_deleted(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    patients: list[Any] = []
    predict = InferencePipeline.predict

    def spy(self: InferencePipeline, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        patients.append(load_patient(options["patient"]))
        return predict(self, *arguments, **options)

    monkeypatch.setattr(InferencePipeline, "predict", spy)
    files: dict[str, Any] = {"file": ("scan.nii", nifti()), "config": QUICK, "patient": b"age: 62\nsex: female"}
    job = api.client.post(JOBS, files=files).json()
    assert "age" not in json.dumps(job)
    api.work()
    assert (patients[0].age, patients[0].sex, patients[0].emphysema) == (62, "female", None)
    assert api.client.get(job["links"]["results"]).json()["metadata"]["guidelines"]["patient"] is True
    assert ".patient.json" not in api.left()
    with api.service.engine.connect() as connection:
        assert "female" not in str(connection.execute(select(jobs_table)).all())
    api.submit(config=QUICK)
    api.work()
    assert patients[1] == load_patient(None)


@pytest.mark.parametrize(
    "patient", [b"age: 621", b"sex: yes", b"name: Mustermann", b"[Mustermann", b"- Mustermann", b"\xff"]
)
def test_an_invalid_patient_is_refused_without_repeating_its_values(api: Api, patient: bytes) -> None:
    refused = api.client.post(JOBS, files={"file": ("scan.nii", nifti()), "patient": patient})
    assert refused.status_code == 422
    assert "patient" in refused.json()["detail"]
    assert not any(word in refused.text for word in ("621", "Mustermann"))
    assert api.left() == []

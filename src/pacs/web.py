"""Fetches the best chest CT series of a study from a DICOMweb server (QIDO-RS, WADO-RS), instance by instance."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydicom.dataset import Dataset

from ..dicom_io.deidentify import deidentify
from ..errors import BadScan, PivotError, lacking
from ..quiet import quiet_libraries
from .answers import Client, TooLong
from .sending import open_web
from .series_choice import SeriesCandidate, candidate, choose
from .settings import SeriesRules
from .spool import check_uid

__all__ = ["pull_study"]


@quiet_libraries()
def pull_study(
    url: str,
    study: str,
    folder: str | Path,
    *,
    rules: SeriesRules | None = None,
    key: bytes | None = None,
    login: str | None = None,
) -> Path:
    """Fetch the preferred series of a study into a new folder in `folder`. Return its path.

    Of the other series, only headers are requested. With a `key`, each instance is de-identified before it is written,
    and the folder is named by the new StudyInstanceUID. `login` is `user:password` or a bearer token.

    Raises:
        BadScan: `study` is no UID, the study does not exist, no series fits the rules, or the server sent fewer
            instances than it states, or others than requested. Nothing is written.
        BadConfig: the URL is malformed.
        PivotError: the server gives no valid DICOMweb response.
    """
    client = open_web(url, login)
    check_uid("the study UID", study)
    try:
        return _pull(client, study, Path(folder), rules or SeriesRules(), key)
    except PivotError:
        raise
    except Exception as error:  # a malformed response can make the libraries raise anything
        if lacking(error):
            raise
        msg = f"{url} does not answer as a DICOMweb server ({_plain(error)}): check the URL and the login"
        raise PivotError(msg) from error


def _pull(client: Client, study: str, folder: Path, rules: SeriesRules, key: bytes | None) -> Path:
    series = client.search_for_series(study_instance_uid=study, get_remaining=True)
    best, decisions = choose([_candidate(client, study, Dataset.from_json(one)) for one in series], rules)
    if best is None:
        why = "; ".join(f"{one['series']}: {one['refused']}" for one in decisions) or "the server has no such study"
        msg = f"study {study}: no series to run ({why})"
        raise BadScan(msg)
    return _fetch(client, study, best, folder, key)


def _candidate(client: Client, study: str, series: Dataset) -> SeriesCandidate:
    uid = check_uid("the SeriesInstanceUID that the server tells", str(series.SeriesInstanceUID))
    instances: list[Any] = client.search_for_instances(study_instance_uid=study, series_instance_uid=uid)
    first = Dataset.from_json(instances[0])
    instance = check_uid("the SOPInstanceUID that the server tells", str(first.SOPInstanceUID))
    header = client.retrieve_instance_metadata(study, uid, instance)
    return candidate(uid, [Dataset.from_json(header, bulk_data_uri_handler=_left_there)], len(instances))


def _left_there(_uri: str) -> None:
    """Defaults for pixels and other attributes that the server omits from a header."""


def _fetch(client: Client, study: str, best: SeriesCandidate, folder: Path, key: bytes | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".partial.", dir=folder) as draft:
        count, name = 0, study
        for count, dataset in enumerate(client.iter_series(study, best.uid), start=1):
            _check_asked_for(dataset, study, best)
            if key is not None:
                deidentify(dataset, key)
                name = str(dataset.StudyInstanceUID)
            dataset.save_as(Path(draft) / f"{count:05d}.dcm", enforce_file_format=True)
            if count > best.slices:
                break
        if count != best.slices:
            some = "more than" if count > best.slices else f"only {count} of"
            msg = f"study {study}: {some} {best.slices} instances of series {best.uid} arrived: try again"
            raise BadScan(msg)
        place = folder / name
        shutil.rmtree(place, ignore_errors=True)  # of an earlier pull
        return shutil.copytree(draft, place)


def _check_asked_for(dataset: Dataset, study: str, best: SeriesCandidate) -> None:
    for name, wanted in (("StudyInstanceUID", study), ("SeriesInstanceUID", best.uid)):
        if str(dataset.get(name, "")) != wanted:
            msg = f"study {study}: the server sent an instance with another {name} than was asked for"
            raise BadScan(msg)


def _plain(error: Exception) -> str:
    if isinstance(error, TooLong):
        return str(error)
    response = getattr(error, "response", None)
    return f"status {response.status_code}" if response is not None else type(error).__name__

"""Limits for the responses of a DICOMweb server: their length, and how much compressed content is inflated."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter

from ..data.part10 import read_dicom

__all__ = ["Adapter", "Client", "TooLong"]

MOST_JSON = 2**26  # bytes of a list or a header
MOST_INSTANCE = 2**29  # bytes; the default of the listener
PIECE = 2**16  # bytes that are inflated at once
INSTANCES = 'multipart/related; type="application/dicom"; transfer-syntax=*'  # as stored, without decompression


class TooLong(requests.RequestException):
    """A response is longer than the request allows."""


class Adapter(HTTPAdapter):
    """Limits the length of each response. The length that a response states is not trusted."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:  # noqa: ANN401
        """Behaves as in requests, except that reading a response beyond the limit raises `TooLong`."""
        response = super().send(request, *args, **options)
        response.raw = _Counted(response.raw, MOST_INSTANCE if _has_instances(response) else MOST_JSON)
        return response


class _Counted:
    """The body of a response; `count` is the number of bytes read since it was last set to 0."""

    def __init__(self, raw: Any, most: int) -> None:  # noqa: ANN401 - of urllib3
        self._raw, self._most, self.count = raw, most, 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._raw, name)

    def stream(self, amount: int = PIECE, *, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yield the bytes, inflated if the server deflated them."""
        for piece in self._raw.stream(min(amount, PIECE), decode_content=decode_content):
            self.count += len(piece)
            if self.count > self._most:
                self._raw.close()
                msg = f"it sends more than {self._most >> 20} MiB, longer than an instance or a list may be"
                raise TooLong(msg)
            yield piece


class Client(DICOMwebClient):
    """A client that reads instances with PIVOT's own reader, because pydicom's inflates without limit."""

    def _http_get_multipart_application_dicom(
        self,
        url: str,
        media_types: object = None,  # noqa: ARG002 - always as stored
        params: dict[str, Any] | None = None,
        stream: bool = False,  # noqa: FBT001, FBT002, ARG002 - always
    ) -> Iterator[Dataset]:
        response = self._http_get(url, params=params, headers={"Accept": INSTANCES}, stream=True)
        if not _has_instances(response):
            msg = "no instances"
            raise ValueError(msg)
        if (
            not response.headers["Content-Type"].lower().startswith("multipart/")
        ):  # some servers send one object, no list
            return iter([read_dicom(BytesIO(response.content))])
        return self._instances(response)

    def _instances(self, response: requests.Response) -> Iterator[Dataset]:
        for part in self._decode_multipart_message(response, stream=True):
            response.raw.count = 0
            yield read_dicom(BytesIO(part))


def _has_instances(response: requests.Response) -> bool:
    kind = str(response.headers.get("Content-Type", "")).lower().partition(";")[0].strip()
    return kind in ("multipart/related", "application/dicom")

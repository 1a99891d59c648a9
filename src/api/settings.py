"""The service's settings: environment variables that begin with `PIVOT_`, or files in /run/secrets."""

import logging
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from ..config import Device
from ..errors import BadConfig
from ..files import shipped
from ..processes import memory_of_machine

__all__ = ["Settings", "load_settings"]

log = logging.getLogger("pivot")
MEMORY_SHARE = 0.8  # of the machine's memory, for all workers together
SECRETS = Path("/run/secrets")  # where Docker and Kubernetes mount them
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
Names = Annotated[tuple[str, ...], NoDecode]  # written with commas


def _default_data() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share", "pivot")


class Settings(BaseSettings):
    """The settings. Each field `x` is the variable `PIVOT_X`."""

    model_config = SettingsConfigDict(
        env_prefix="PIVOT_",
        frozen=True,
        hide_input_in_errors=True,
        secrets_dir=SECRETS if SECRETS.is_dir() else None,
    )

    data: Path = Field(default_factory=_default_data)  # folder of the uploads, results and the SQLite file
    database_url: str = ""  # postgresql+psycopg://...; empty: SQLite in the data folder
    checkpoint: Path | None = None  # the model; None: the shipped weights
    log: Literal["debug", "info", "warning", "error"] = "warning"  # of the workers
    devices: Annotated[tuple[Device, ...], NoDecode] = ("auto",)  # one worker for each; empty: none
    ray: str = ""  # address of a Ray cluster for the workers, instead of `devices`

    auth: Literal["loopback", "key", "none"] = "loopback"  # who needs no key: this machine, nobody, everybody
    api_keys: dict[str, str] = {}  # name to `sha256:...`, as `python -m src.api.keys NAME` prints
    trusted_proxies: Names = ()  # addresses or networks whose X-Forwarded-For is trusted
    cors_origins: Names = ()  # web sites that may call the service from a browser

    dicomweb_url: str = ""  # the DICOMweb server for fetching studies; empty: none
    dicomweb_login: str | None = None  # its `user:password` or bearer token

    upload_bytes: Positive = 2**30
    upload_seconds: Seconds = 1800.0
    upload_rate: Positive = 2**14  # the least bytes a second from a client
    uploads: Positive = 8  # at the same time, in one server process
    uploads_per_key: Positive = 4  # at the same time, for one key or address
    message_bytes: Positive = 2**30  # of incomplete WebSocket messages, in one server process
    connections: Positive = 500  # to one server process
    streams: Positive = 200  # WebSockets that follow a job, in one server process
    submissions_per_minute: Positive = 120  # for one key or address
    queued_jobs: Positive = 200  # for one key
    free_bytes: Positive = 2 * 2**30  # must stay free on the disk
    window_voxels: Positive = 2**25  # the largest inference.batch_size x patch_size of a client

    memory_bytes: Positive | None = None  # for one worker, and for its reader; None: a share of the machine's memory
    job_seconds: Seconds = 3600.0
    lease_seconds: Seconds = 30.0  # without a heartbeat for this long, another worker takes the job
    attempts: Positive = 5  # workers that may die with a job before it is given up
    retention_hours: Seconds = 168.0  # after a job's end

    @field_validator("devices", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [part for part in value.replace(",", " ").split() if part != "none"] if isinstance(value, str) else value

    @field_validator("api_keys")
    @classmethod
    def _hashed(cls, keys: dict[str, str]) -> dict[str, str]:
        if bad := [name for name, value in keys.items() if not re.fullmatch("sha256:[0-9a-f]{64}", value)]:
            msg = f"the keys of {', '.join(bad)} are not hashed: `python -m src.api.keys NAME` prints the hash"
            raise ValueError(msg)
        return keys

    @model_validator(mode="after")
    def _keys_exist(self) -> Self:
        if self.auth == "key" and not self.api_keys:
            msg = "auth is `key`, but api_keys is empty: nobody could use the service"
            raise ValueError(msg)
        return self

    @property
    def url(self) -> str:
        """The database's URL."""
        return self.database_url or f"sqlite:///{self.data.absolute() / 'jobs.sqlite'}"

    @property
    def model_file(self) -> Path:
        """The checkpoint for jobs."""
        return self.checkpoint or shipped("checkpoints/best_model.pth")

    @property
    def memory(self) -> int | None:
        """The bytes that a worker may use; None if the machine's memory is unknown."""
        machine = memory_of_machine()
        if self.memory_bytes or machine is None:
            return self.memory_bytes
        return int(MEMORY_SHARE * machine / max(1, len(self.devices)))

    def make_folders(self) -> None:
        """Make the data folder, readable by this user only.

        Raises:
            BadConfig: the folder cannot be created or written to.
        """
        for folder in (self.data, self.jobs):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if folder.stat().st_mode & 0o077:
                    folder.chmod(0o700)
            except OSError as error:
                if folder.is_dir():
                    log.warning("others can read %s, and its mode cannot be changed: %s", folder, error.strerror)
                    continue
                msg = f"PIVOT_DATA: cannot use the folder {folder} ({error.strerror}): give one that can be written to"
                raise BadConfig(msg) from None

    @property
    def jobs(self) -> Path:
        """The folder with a folder for each job."""
        return self.data / "jobs"


def load_settings() -> Settings:
    """The settings from the environment.

    Raises:
        BadConfig: a variable has a wrong value. The message names it, and shows no secret.
    """
    try:
        return Settings()
    except (SettingsError, OSError, UnicodeDecodeError) as error:
        name = re.search(r'field "(\w+)"', str(error))
        what = f"PIVOT_{name[1].upper()} is not JSON" if name else f"{SECRETS} cannot be read"
        msg = f"the settings of the service cannot be used: {what}"
        raise BadConfig(msg) from None
    except ValidationError as error:
        lines = [
            f"  PIVOT_{'.'.join(map(str, item['loc'])).upper() or 'settings'}: {item['msg']}" for item in error.errors()
        ]
        raise BadConfig("\n".join(["the settings of the service cannot be used:", *lines])) from None

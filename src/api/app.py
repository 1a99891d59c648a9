"""The HTTP service: `uvicorn src.api.app:app`."""

from ..errors import not_built

__all__ = ["app"]  # noqa: F822 - see below


def __getattr__(name: str) -> object:
    # Told when the server asks for `app`, so that nothing starts that cannot answer.
    if name == "app":
        not_built("the HTTP and WebSocket service", "run `python -m src.inference.main` instead")
    raise AttributeError(name)

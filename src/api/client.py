"""The client of the HTTP service. Loads no torch."""

from ..errors import not_built

__all__ = ["InferenceClient"]


class InferenceClient:
    """A connection to the service at `base_url`.

    Raises:
        NotBuilt: always, until the service exists.
    """

    def __init__(self, base_url: str) -> None:
        not_built(f"the service that {base_url} would be", "call src.inference.main.batch_inference")

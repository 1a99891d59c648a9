"""Make an API key: `python -m src.api.keys NAME` prints the key, once, and its entry for the settings."""

import argparse
import json
import secrets
import sys

from .security import hashed

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Print a new key for NAME and its hash."""
    parser = argparse.ArgumentParser(prog="python -m src.api.keys", description="make an API key for the service")
    parser.add_argument("name", help="the key's owner; jobs belong to this name")
    name = parser.parse_args(arguments).name
    key = f"pivot_{secrets.token_urlsafe(32)}"
    sys.stdout.write(
        f"key, for the client alone:  {key}\nPIVOT_API_KEYS, with others: {json.dumps({name: hashed(key)})}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

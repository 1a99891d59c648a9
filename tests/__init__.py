"""The tests; `conftest` holds the shared fixtures."""

"""Runs the migrations on the connection that `database` opened."""

from alembic import context

__all__: list[str] = []

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=context.config.attributes["metadata"],
    transactional_ddl=False,  # the caller's transaction holds them all
)
context.run_migrations()

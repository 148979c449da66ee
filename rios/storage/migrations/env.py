"""What Alembic runs: the steps, on the connection and in the transaction that `rios.storage.migrate` gives it."""

from alembic import context

from rios.storage.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()

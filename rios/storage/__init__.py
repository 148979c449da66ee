"""What outlives a process: tables, engines and migrations, on SQLite and PostgreSQL."""

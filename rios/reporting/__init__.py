"""Notebooks as reports: executed by papermill, shown as HTML that opens offline (floor 3)."""

"""The words of rios: errors, events, configuration, logs (floor 0)."""

"""Who may do what: roles, tokens, the audit log, and where they are kept."""

"""The HTTP door of a network: authentication, limits, schemas and routes. No business rule is in it."""

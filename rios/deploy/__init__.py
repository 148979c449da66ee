"""Deployments: what users ask for, and the sandboxes that run it."""

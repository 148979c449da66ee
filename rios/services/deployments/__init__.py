"""Deployments: applications and models with a life cycle, in sandboxes, healthy, scaled and paid for."""

"""The verbs of the product (floor 3)."""

"""The chain, by one protocol: in process, or any node by its URL."""

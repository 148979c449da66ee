"""The chain adapter, on the embedded chain and on anvil."""

"""What the Ethereum libraries do to the process on import is undone."""

from __future__ import annotations

import subprocess
import sys

import pytest

BOMB = """
import json, sys
before = sys.getrecursionlimit()
{use}
assert sys.getrecursionlimit() == before, sys.getrecursionlimit()
try:
    json.loads("[" * 100_000)
except RecursionError:
    print("alive")
"""


@pytest.mark.parametrize(
    "use",
    [
        "from rios.billing.chain.embedded import EmbeddedChain; EmbeddedChain()",
        "from rios.billing.chain.evm_store import EvmStore",
        "from rios.billing.chain.evm_values import canonical",
        "from rios.billing.keystore import KeySigner; KeySigner.random().sign_message(b'x')",
    ],
)
def test_nested_json_kills_nobody(use: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOMB.format(use=use)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "alive\n", done.stderr

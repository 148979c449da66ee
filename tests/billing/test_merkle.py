"""The tree of earnings: OpenZeppelin's own library builds the same, and nothing else passes its proofs."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from rios.billing.merkle import MerkleTree, leaf_hash, root_by, verify_multiproof, verify_proof
from rios.words.errors import InvalidAmount, InvalidRequest, NotProvable
from rios.words.ids import Address
from rios.words.money import WEI_MAX, Wei
from tests.campaigns import ROOT

AMOUNTS = st.dictionaries(
    st.binary(min_size=20, max_size=20).map(lambda raw: Address(f"0x{raw.hex()}")),
    st.one_of(st.integers(0, 10), st.integers(0, WEI_MAX)).map(Wei),
    min_size=1,
    max_size=20,
)
# Asks @openzeppelin/merkle-tree for trees over lists of [address, amount] and multiproofs of some of their accounts.
ORACLE = """
const { StandardMerkleTree } = require('@openzeppelin/merkle-tree');
const cases = JSON.parse(require('fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify(cases.map(({ values, chosen }) => {
  const tree = StandardMerkleTree.of(values, ['address', 'uint256']);
  const multi = tree.getMultiProof(chosen);
  return { nodes: tree.dump().tree, proofs: values.map((_, i) => tree.getProof(i)), multi };
})));
"""


def _random_amounts(rng: random.Random, count: int) -> dict[Address, Wei]:
    return {
        Address(f"0x{rng.randbytes(20).hex()}"): Wei(rng.getrandbits(rng.choice((1, 60, 128, 256))))
        for _ in range(count)
    }


@pytest.fixture(scope="session")
def library() -> Path:
    """The folder in which node finds OpenZeppelin's library, installed by its lock file where it is not."""
    contracts = ROOT / "contracts"
    if not (contracts / "node_modules" / "@openzeppelin" / "merkle-tree").exists():
        subprocess.run(["npm", "ci"], cwd=contracts, check=True, capture_output=True, timeout=240)
    return contracts


def _oracle(library: Path, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    command = ["node", "-e", ORACLE]
    found = subprocess.run(
        command, input=json.dumps(cases), capture_output=True, text=True, timeout=240, cwd=library, check=False
    )
    assert found.returncode == 0, found.stderr
    trees: list[dict[str, Any]] = json.loads(found.stdout)
    return trees


@pytest.mark.needs("node")
@pytest.mark.needs("npm")
def test_openzeppelins_library_builds_the_same_trees(library: Path) -> None:
    rng = random.Random(7)
    amounts = [_random_amounts(rng, count) for count in (*range(1, 18), 31, 32, 33, 100)]
    chosen = [rng.sample(list(one), rng.randint(1, len(one))) for one in amounts]
    cases = [
        {"values": [[a, str(w)] for a, w in one.items()], "chosen": [list(one).index(a) for a in some]}
        for one, some in zip(amounts, chosen, strict=True)
    ]
    for one, some, theirs in zip(amounts, chosen, _oracle(library, cases), strict=True):
        ours = MerkleTree.of(one, keccak=keccak)
        assert [f"0x{node.hex()}" for node in ours.nodes] == theirs["nodes"]
        for account, proof in zip(one, theirs["proofs"], strict=True):
            assert [f"0x{node.hex()}" for node in ours.proof(account)] == proof
        claim = ours.multiproof(some)
        assert [[a, str(w)] for a, w in zip(claim.accounts, claim.amounts_wei, strict=True)] == theirs["multi"][
            "leaves"
        ]
        assert [f"0x{node.hex()}" for node in claim.proof] == theirs["multi"]["proof"]
        assert list(claim.flags) == theirs["multi"]["proofFlags"]


def test_a_known_tree() -> None:
    """The example of the library's README: two accounts with 5 and 2.5 ROS."""
    tree = MerkleTree.of(
        {
            Address("0x1111111111111111111111111111111111111111"): Wei(5 * 10**18),
            Address("0x2222222222222222222222222222222222222222"): Wei(25 * 10**17),
        }
    )
    assert tree.root.hex() == "d4dee0beab2d53f2cc83e567171bd2820e49898130a22622b10ead383e90bd77"
    assert tree.total_wei == 75 * 10**17
    assert repr(tree) == f"<MerkleTree of 2 accounts, root 0x{tree.root.hex()}>"


@settings(max_examples=60, deadline=None)
@given(AMOUNTS, st.data())
def test_every_leaf_is_proven_and_no_other(amounts: dict[Address, Wei], data: st.DataObject) -> None:
    tree = MerkleTree.of(amounts, keccak=keccak)
    assert tree == MerkleTree.of(dict(reversed(amounts.items())), keccak=keccak)
    account = data.draw(st.sampled_from(sorted(amounts)))
    amount, proof = amounts[account], tree.proof(account)
    assert verify_proof(tree.root, account, amount, proof, keccak=keccak)
    assert verify_proof(tree.root, account, amount, proof)
    assert not verify_proof(tree.root, account, amount ^ 1, proof, keccak=keccak)
    other = f"0x{int(account, 16) ^ 1:040x}"
    assert not verify_proof(tree.root, other, amount, proof, keccak=keccak)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        assert not verify_proof(tree.root, account, amount, proof[:place] + proof[place + 1 :], keccak=keccak)
        assert not verify_proof(tree.root, account, amount, (*proof, bytes(32)), keccak=keccak)


@settings(max_examples=60, deadline=None)
@given(AMOUNTS, st.data())
def test_several_leaves_are_proven_together(amounts: dict[Address, Wei], data: st.DataObject) -> None:
    tree = MerkleTree.of(amounts, keccak=keccak)
    chosen = data.draw(st.lists(st.sampled_from(sorted(amounts)), min_size=1, unique=True))
    claim = tree.multiproof(chosen)
    assert sorted(claim.accounts) == sorted(chosen)
    assert verify_multiproof(tree.root, claim, keccak=keccak)
    assert verify_multiproof(tree.root, tree.multiproof(list(reversed(chosen))), keccak=keccak)
    place = data.draw(st.integers(0, len(chosen) - 1))
    changed = list(claim.amounts_wei)
    changed[place] = Wei(changed[place] ^ 1)
    for wrong in (
        dataclasses.replace(claim, amounts_wei=tuple(changed)),
        dataclasses.replace(claim, amounts_wei=claim.amounts_wei[1:]),
        dataclasses.replace(claim, flags=(*claim.flags, True)),
        dataclasses.replace(claim, flags=(*claim.flags, False)),
        dataclasses.replace(claim, proof=(*claim.proof, tree.root)),
        dataclasses.replace(claim, accounts=(), amounts_wei=(), proof=(tree.root,), flags=()),
    ):
        assert not verify_multiproof(tree.root, wrong, keccak=keccak)


@pytest.mark.parametrize(
    ("paired", "proof"), [((True,), ()), ((False, False), (b"\1" * 32,) * 2), ((True, True), (b"\1" * 32,) * 2)]
)
def test_flags_that_ask_for_what_is_not_there_prove_nothing(paired: tuple[bool, ...], proof: tuple[bytes, ...]) -> None:
    account = Address("0x" + "1" * 40)
    claim = MerkleTree.of({account: Wei(1)}).multiproof([account])
    assert not verify_multiproof(b"", dataclasses.replace(claim, flags=paired, proof=proof))


def test_an_inner_node_is_no_leaf() -> None:
    """64 bytes that hash to an inner node are no account and amount, for leaves are hashed twice."""
    one, two = Address("0x" + "1" * 40), Address("0x" + "2" * 40)
    tree = MerkleTree.of({one: Wei(1), two: Wei(2)})
    pair = b"".join(sorted(tree.nodes[1:]))
    assert keccak(pair) == tree.root
    assert keccak(keccak(pair)) != tree.root
    assert root_by(leaf_hash(one, 1), tree.proof(one)) == tree.root


def test_what_is_no_leaf_is_refused() -> None:
    account = Address("0x" + "a" * 40)
    tree = MerkleTree.of({account: Wei(1)})
    with pytest.raises(InvalidRequest, match="at least one account"):
        MerkleTree.of({})
    with pytest.raises(InvalidRequest, match="two spellings"):
        MerkleTree.of({account: Wei(1), Address("0x" + "A" * 40): Wei(1)})
    with pytest.raises(InvalidRequest, match="no address"):
        MerkleTree.of({Address("0x12"): Wei(1)})
    with pytest.raises(InvalidAmount, match="negative"):
        MerkleTree.of({account: Wei(-1)})
    with pytest.raises(NotProvable, match="has no leaf"):
        tree.proof(Address("0x" + "b" * 40))
    with pytest.raises(NotProvable, match="has no leaf"):
        tree.multiproof([Address("0x" + "b" * 40)])
    for accounts in ([], [account, account]):
        with pytest.raises(InvalidRequest, match="each named once"):
            tree.multiproof(accounts)

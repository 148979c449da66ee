// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {RiosSettlement} from "../../src/RiosSettlement.sol";
import {IRiosSettlement} from "../../src/interfaces/IRiosSettlement.sol";
import {Fixture} from "../base/Fixture.sol";
import {SettlementTest} from "../base/SettlementTest.sol";
import {Trees} from "../base/Trees.sol";

contract RiosSettlementTest is SettlementTest {
    bytes32 private constant ROOT = keccak256("root");

    function _fund(uint256 amount) private {
        token.mint(address(settlement), amount);
    }

    function _current() private view returns (uint256 epoch, bytes32 root) {
        (epoch, root,,,) = settlement.current();
    }

    /// @dev Alice and Bob, each with a sum.
    function _pair(uint256 epoch, uint256 forAlice, uint256 forBob) private returns (bytes32[] memory nodes) {
        return _settle(epoch, _two(alice, bob), _two(forAlice, forBob));
    }

    function _crowd(uint256 count, uint256 seed)
        private
        pure
        returns (address[] memory accounts, uint256[] memory sums)
    {
        accounts = new address[](count);
        sums = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            accounts[i] = Fixture.account(i);
            sums[i] = uint256(keccak256(abi.encode(seed, i))) % (1e6 * ROS) + 1;
        }
    }

    function test_needs_a_token() public {
        vm.expectRevert(IRiosSettlement.ZeroAddress.selector);
        new RiosSettlement(IERC20(address(0)), admin, ADMIN_DELAY, WINDOW);
    }

    function test_starts_without_a_root() public view {
        vm.assertEq(address(settlement.token()), address(token));
        vm.assertEq(settlement.challengeWindow(), WINDOW);
        vm.assertEq(settlement.latestEpoch(), 0);
        (uint256 epoch, bytes32 root) = _current();
        vm.assertEq(epoch, 0);
        vm.assertEq(root, 0);
    }

    function test_only_posters_post() public {
        bytes32 role = settlement.POSTER_ROLE();
        vm.prank(mallory);
        _expectMissing(mallory, role);
        settlement.post(1, ROOT, 0, LEDGER);
    }

    function test_no_post_while_paused() public {
        vm.prank(pauser);
        settlement.pause();
        vm.expectRevert(Pausable.EnforcedPause.selector);
        _post(1, ROOT, 0);
        vm.prank(pauser);
        settlement.unpause();
        _post(1, ROOT, 0);
    }

    function testFuzz_epochs_follow(uint256 epoch) public {
        vm.assume(epoch != 2);
        _postFinal(1, ROOT, 0);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.WrongEpoch.selector, epoch, 2));
        _post(epoch, ROOT, 0);
    }

    function test_no_post_over_a_pending_root() public {
        _post(1, ROOT, 0);
        uint256 due = block.timestamp + WINDOW;
        _pass(WINDOW - 1);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.RootPending.selector, 1, due));
        _post(2, ROOT, 0);
        _pass(1);
        _post(2, ROOT, 0);
    }

    function test_totals_never_fall() public {
        _fund(10);
        _postFinal(1, ROOT, 10);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.TotalFell.selector, 9, 10));
        _post(2, ROOT, 9);
        _post(2, ROOT, 10);
    }

    function testFuzz_never_above_the_funds(uint256 funds, uint256 excess) public {
        funds = _between(funds, 2, CAP);
        excess = _between(excess, 1, type(uint128).max);
        bytes32[] memory nodes = _pair(1, funds / 2, funds - funds / 2);
        settlement.claim(alice, funds / 2, Trees.proof(nodes, 0));
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.UnderFunded.selector, funds + excess, funds));
        _post(2, ROOT, funds + excess);
        _post(2, ROOT, funds);
    }

    function test_a_root_waits() public {
        _fund(10);
        uint256 due = block.timestamp + WINDOW;
        vm.expectEmit(address(settlement));
        emit IRiosSettlement.RootPosted(1, ROOT, 10, LEDGER, due);
        _post(1, ROOT, 10);
        vm.assertEq(settlement.latestEpoch(), 1);
        _pass(WINDOW - 1);
        (uint256 epoch,) = _current();
        vm.assertEq(epoch, 0);
        _pass(1);
        (uint256 found, bytes32 root, uint256 total, bytes32 ledgerHash, uint256 activeAt) = settlement.current();
        vm.assertEq(found, 1);
        vm.assertEq(root, ROOT);
        vm.assertEq(total, 10);
        vm.assertEq(ledgerHash, LEDGER);
        vm.assertEq(activeAt, due);
    }

    function test_no_window() public {
        settlement = _deploy(0);
        _post(1, ROOT, 0);
        (uint256 epoch,) = _current();
        vm.assertEq(epoch, 1);
        _post(2, ROOT, 0);
    }

    function test_only_challengers_challenge() public {
        _post(1, ROOT, 0);
        bytes32 role = settlement.CHALLENGER_ROLE();
        vm.prank(mallory);
        _expectMissing(mallory, role);
        settlement.challenge(1, "no");
    }

    function test_nothing_to_challenge() public {
        vm.prank(challenger);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.RootNotPending.selector, 0));
        settlement.challenge(0, "no");
    }

    function test_too_late_to_challenge() public {
        _postFinal(1, ROOT, 0);
        vm.prank(challenger);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.RootNotPending.selector, 1));
        settlement.challenge(1, "late");
    }

    function test_challenge_of_another_epoch() public {
        _postFinal(1, ROOT, 0);
        _post(2, ROOT, 0);
        vm.prank(challenger);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.RootNotPending.selector, 1));
        settlement.challenge(1, "no");
    }

    function test_challenge() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        uint256 due = block.timestamp;
        _fund(100);
        _post(2, ROOT, 107);
        vm.expectEmit(address(settlement));
        emit IRiosSettlement.RootChallenged(2, challenger, "row 7");
        vm.prank(challenger);
        settlement.challenge(2, "row 7");
        vm.assertEq(settlement.latestEpoch(), 1);
        _pass(WINDOW);
        (uint256 epoch, bytes32 root, uint256 total,, uint256 activeAt) = settlement.current();
        vm.assertEq(epoch, 1);
        vm.assertEq(root, nodes[0]);
        vm.assertEq(total, 7);
        vm.assertEq(activeAt, due);
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.UnknownEpoch.selector, 2));
        settlement.rootOf(2);
    }

    function test_post_after_a_challenge() public {
        _pair(1, 3, 4);
        for (uint256 i = 0; i < 3; ++i) {
            _fund(1);
            _post(2, ROOT, 8);
            vm.prank(challenger);
            settlement.challenge(2, "again");
        }
        bytes32[] memory nodes = _pair(2, 5, 4);
        settlement.claim(alice, 5, Trees.proof(nodes, 0));
        vm.assertEq(token.balanceOf(alice), 5);
        vm.assertEq(settlement.latestEpoch(), 2);
    }

    function test_no_claim_before_a_final_root() public {
        vm.expectRevert(IRiosSettlement.InvalidProof.selector);
        settlement.claim(alice, 1, new bytes32[](0));
        _fund(1);
        _post(1, Trees.leaf(alice, 1), 1);
        vm.expectRevert(IRiosSettlement.InvalidProof.selector);
        settlement.claim(alice, 1, new bytes32[](0));
    }

    function testFuzz_wrong_proofs(uint256 count, uint256 index, uint256 spoil, bytes32 junk) public {
        count = _between(count, 2, 40);
        index = _between(index, 0, count - 1);
        (address[] memory accounts, uint256[] memory sums) = _crowd(count, spoil);
        bytes32[] memory nodes = _settle(1, accounts, sums);
        bytes32[] memory proof = Trees.proof(nodes, index);
        uint256 level = spoil % proof.length;
        vm.assume(junk != proof[level]);
        proof[level] = junk;
        vm.expectRevert(IRiosSettlement.InvalidProof.selector);
        settlement.claim(accounts[index], sums[index], proof);
    }

    function test_nothing_new() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.NothingToClaim.selector, alice));
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
    }

    function test_a_leaf_that_fell() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        nodes = _pair(2, 2, 5);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.NothingToClaim.selector, alice));
        settlement.claim(alice, 2, Trees.proof(nodes, 0));
    }

    function test_leaves_above_the_total() public {
        bytes32[] memory nodes = Trees.build(_leaves(3, 4));
        _fund(100);
        _postFinal(1, nodes[0], 6);
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.TotalExceeded.selector, 4, 3));
        settlement.claim(bob, 4, Trees.proof(nodes, 1));
    }

    function _leaves(uint256 forAlice, uint256 forBob) private view returns (bytes32[] memory leaves) {
        leaves = new bytes32[](2);
        (leaves[0], leaves[1]) = (Trees.leaf(alice, forAlice), Trees.leaf(bob, forBob));
    }

    function testFuzz_claims_pay_differences(uint256 count, uint256 seed) public {
        count = _between(count, 1, 30);
        (address[] memory accounts, uint256[] memory sums) = _crowd(count, seed);
        uint256 total = 0;
        for (uint256 epoch = 1; epoch <= 3; ++epoch) {
            bytes32[] memory nodes = _settle(epoch, accounts, sums);
            for (uint256 i = 0; i < count; ++i) {
                if ((seed >> i) % (epoch + 1) == 0) {
                    uint256 due = sums[i] - settlement.claimed(accounts[i]);
                    vm.expectEmit(address(settlement));
                    emit IRiosSettlement.Claimed(accounts[i], due, sums[i], epoch);
                    settlement.claim(accounts[i], sums[i], Trees.proof(nodes, i));
                    total += due;
                    vm.assertEq(token.balanceOf(accounts[i]), sums[i]);
                    vm.assertEq(settlement.claimed(accounts[i]), sums[i]);
                }
                sums[i] += epoch * 1e18 + i;
            }
            vm.assertEq(settlement.totalClaimed(), total);
        }
    }

    function test_claim_while_a_root_is_pending() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        _fund(10);
        bytes32[] memory next = Trees.build(_leaves(8, 9));
        _post(2, next[0], 17);
        vm.expectRevert(IRiosSettlement.InvalidProof.selector);
        settlement.claim(alice, 8, Trees.proof(next, 0));
        vm.expectEmit(address(settlement));
        emit IRiosSettlement.Claimed(alice, 3, 3, 1);
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        _pass(WINDOW);
        settlement.claim(alice, 8, Trees.proof(next, 0));
        vm.assertEq(token.balanceOf(alice), 8);
    }

    function test_claim_while_paused() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        vm.prank(pauser);
        settlement.pause();
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        vm.assertEq(token.balanceOf(alice), 3);
    }

    function test_proofs_of_openzeppelins_tree() public {
        string memory json = Fixture.json();
        uint256[7] memory counts = [uint256(1), 2, 3, 7, 64, 100, 1000];
        for (uint256 k = 0; k < counts.length; ++k) {
            uint256 count = counts[k];
            settlement = _deploy(0);
            _fund(Fixture.total(count));
            _post(1, Fixture.root(json, count), Fixture.total(count));
            (uint256 i, bytes32[] memory proof) = Fixture.single(json, count);
            settlement.claim(Fixture.account(i), Fixture.cumulative(i), proof);
            vm.assertEq(settlement.claimed(Fixture.account(i)), Fixture.cumulative(i));
        }
    }

    function test_claimMany_lengths() public {
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.LengthMismatch.selector, 2, 1));
        settlement.claimMany(_two(alice, bob), _one(uint256(1)), new bytes32[](0), new bool[](1));
    }

    function test_claimMany_wrong_proof() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(nodes, _all(2));
        vm.expectRevert(IRiosSettlement.InvalidProof.selector);
        settlement.claimMany(_two(alice, bob), _two(4, 3), proof, flags);
    }

    function test_claimMany_above_the_total() public {
        bytes32[] memory nodes = Trees.build(_leaves(3, 4));
        _fund(100);
        _postFinal(1, nodes[0], 6);
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(nodes, _all(2));
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.TotalExceeded.selector, 7, 6));
        settlement.claimMany(_two(alice, bob), _two(3, 4), proof, flags);
    }

    function test_claimMany_of_none() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(nodes, new bool[](2));
        settlement.claimMany(new address[](0), new uint256[](0), proof, flags);
        vm.assertEq(settlement.totalClaimed(), 0);
    }

    function testFuzz_claimMany_of_a_subset(uint256 count, uint256 seed) public {
        count = _between(count, 1, 60);
        (address[] memory accounts, uint256[] memory sums) = _crowd(count, seed);
        bytes32[] memory nodes = _settle(1, accounts, sums);
        bool[] memory chosen = new bool[](count);
        uint256 size = 0;
        for (uint256 i = 0; i < count; ++i) {
            chosen[i] = uint256(keccak256(abi.encode(seed, "chosen", i))) % 3 > 0;
            if (chosen[i]) ++size;
        }
        address[] memory some = new address[](size);
        uint256[] memory theirs = new uint256[](size);
        uint256 total = 0;
        for (uint256 i = 0; i < count; ++i) {
            if (!chosen[i]) continue;
            (some[--size], theirs[size]) = (accounts[i], sums[i]);
            total += sums[i];
        }
        (some, theirs) = _reversed(some, theirs);
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(nodes, chosen);
        settlement.claimMany(some, theirs, proof, flags);
        vm.assertEq(settlement.totalClaimed(), total);
        for (uint256 i = 0; i < count; ++i) {
            vm.assertEq(token.balanceOf(accounts[i]), chosen[i] ? sums[i] : 0);
        }
    }

    function _reversed(address[] memory accounts, uint256[] memory sums)
        private
        pure
        returns (address[] memory turned, uint256[] memory too)
    {
        uint256 count = accounts.length;
        (turned, too) = (new address[](count), new uint256[](count));
        for (uint256 i = 0; i < count; ++i) {
            (turned[i], too[i]) = (accounts[count - 1 - i], sums[count - 1 - i]);
        }
    }

    function test_claimMany_passes_over() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(nodes, _all(2));
        vm.recordLogs();
        settlement.claimMany(_two(alice, bob), _two(3, 4), proof, flags);
        vm.assertEq(vm.getRecordedLogs().length, 2, "one claim and one transfer");
        vm.assertEq(token.balanceOf(alice), 3);
        vm.assertEq(token.balanceOf(bob), 4);
        settlement.claimMany(_two(alice, bob), _two(3, 4), proof, flags);
        vm.assertEq(settlement.totalClaimed(), 7);
    }

    function test_multiproofs_of_openzeppelins_tree() public {
        string memory json = Fixture.json();
        uint256[4] memory counts = [uint256(1), 7, 100, 1000];
        for (uint256 k = 0; k < counts.length; ++k) {
            uint256 count = counts[k];
            settlement = _deploy(0);
            _fund(Fixture.total(count));
            _post(1, Fixture.root(json, count), Fixture.total(count));
            for (uint256 index = 0; index < (count + 249) / 250; ++index) {
                Fixture.Chunk memory chunk = Fixture.chunk(json, count, index);
                settlement.claimMany(chunk.accounts, chunk.cumulatives, chunk.proof, chunk.flags);
            }
            vm.assertEq(settlement.totalClaimed(), Fixture.total(count));
            vm.assertEq(token.balanceOf(address(settlement)), 0);
        }
    }

    function test_unknown_epochs() public {
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.UnknownEpoch.selector, 0));
        settlement.rootOf(0);
        _postFinal(1, ROOT, 0);
        _postFinal(2, ROOT, 0);
        _postFinal(3, ROOT, 0);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.UnknownEpoch.selector, 1));
        settlement.rootOf(1);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.UnknownEpoch.selector, 4));
        settlement.rootOf(4);
        _post(4, ROOT, 0);
        vm.prank(challenger);
        settlement.challenge(4, "no");
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.UnknownEpoch.selector, 2));
        settlement.rootOf(2);
    }

    function test_last_two_roots() public {
        _fund(9);
        uint256 first = block.timestamp + WINDOW;
        _postFinal(1, ROOT, 4);
        _post(2, keccak256("second"), 9);
        (uint256 epoch, bytes32 root, uint256 total, bytes32 ledgerHash, uint256 activeAt) = settlement.rootOf(1);
        vm.assertEq(epoch, 1);
        vm.assertEq(root, ROOT);
        vm.assertEq(total, 4);
        vm.assertEq(ledgerHash, LEDGER);
        vm.assertEq(activeAt, first);
        (epoch, root, total, ledgerHash, activeAt) = settlement.rootOf(2);
        vm.assertEq(epoch, 2);
        vm.assertEq(root, keccak256("second"));
        vm.assertEq(total, 9);
        vm.assertEq(ledgerHash, LEDGER);
        vm.assertEq(activeAt, block.timestamp + WINDOW);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {RiosEscrow} from "../src/RiosEscrow.sol";
import {RiosSettlement} from "../src/RiosSettlement.sol";
import {RiosStaking} from "../src/RiosStaking.sol";
import {IRiosEscrow} from "../src/interfaces/IRiosEscrow.sol";
import {IRiosSettlement} from "../src/interfaces/IRiosSettlement.sol";
import {EvilToken} from "./base/EvilToken.sol";
import {Permits} from "./base/Permits.sol";
import {SettlementTest} from "./base/SettlementTest.sol";
import {Trees} from "./base/Trees.sol";

/// @title What somebody would try
contract AttacksTest is SettlementTest {
    uint48 private constant DELAY = 1 days;

    RiosEscrow private escrow;
    RiosStaking private staking;
    EvilToken private evil;

    function setUp() public override {
        super.setUp();
        evil = new EvilToken();
        _with(IERC20(address(token)));
    }

    /// @dev All contracts anew, on this token.
    function _with(IERC20 money) private {
        escrow = new RiosEscrow(money, admin, ADMIN_DELAY, DELAY);
        settlement = new RiosSettlement(money, admin, ADMIN_DELAY, WINDOW);
        staking = new RiosStaking(money, admin, ADMIN_DELAY, DELAY, admin);
        _grant(address(escrow), escrow.CHARGER_ROLE(), poster);
        _grant(address(escrow), escrow.PAUSER_ROLE(), pauser);
        _grant(address(settlement), settlement.POSTER_ROLE(), poster);
        _grant(address(settlement), settlement.CHALLENGER_ROLE(), challenger);
        _grant(address(settlement), settlement.PAUSER_ROLE(), pauser);
        _grant(address(staking), staking.SLASHER_ROLE(), poster);
        vm.prank(admin);
        escrow.setSettlement(address(settlement));
    }

    function _withEvil() private {
        _with(IERC20(address(evil)));
    }

    function _depositEvil(address user, uint256 amount) private {
        evil.mint(user, amount);
        vm.prank(user);
        evil.approve(address(escrow), type(uint256).max);
        vm.prank(user);
        escrow.deposit(amount);
    }

    function _deposit(address user, uint256 amount) private {
        token.mint(user, amount);
        vm.startPrank(user);
        token.approve(address(escrow), amount);
        escrow.deposit(amount);
        vm.stopPrank();
    }

    function _repelled() private view {
        vm.assertTrue(evil.tries() > 0, "it called back");
        vm.assertEq(evil.successes(), 0, "and was turned away");
    }

    // Reentrancy

    function test_reentrancy_deposit() public {
        _withEvil();
        // The token itself is the user, so that what it calls back is in its own name.
        evil.mint(address(evil), 10);
        vm.prank(address(evil));
        evil.approve(address(escrow), 10);
        evil.arm(address(escrow), abi.encodeCall(escrow.deposit, (5)));
        vm.prank(address(evil));
        escrow.deposit(5);
        _repelled();
        vm.assertEq(escrow.balanceOf(address(evil)), 5);
        vm.assertEq(evil.balanceOf(address(escrow)), escrow.totalBalance());
    }

    function test_reentrancy_withdraw() public {
        _withEvil();
        _depositEvil(bob, 10);
        evil.mint(address(evil), 10);
        vm.startPrank(address(evil));
        evil.approve(address(escrow), 10);
        escrow.deposit(10);
        escrow.requestWithdrawal(10);
        _pass(DELAY);
        evil.arm(address(escrow), abi.encodeCall(escrow.withdraw, ()));
        escrow.withdraw();
        vm.stopPrank();
        _repelled();
        vm.assertEq(evil.balanceOf(address(evil)), 10);
        vm.assertEq(evil.balanceOf(address(escrow)), escrow.balanceOf(bob));
    }

    function test_reentrancy_charge() public {
        _withEvil();
        _grant(address(escrow), escrow.CHARGER_ROLE(), address(evil));
        _depositEvil(bob, 10);
        evil.arm(address(escrow), abi.encodeCall(escrow.charge, ("other", 1, _one(bob), _one(uint256(4)))));
        vm.prank(poster);
        escrow.charge("batch", 1, _one(bob), _one(uint256(4)));
        _repelled();
        vm.assertEq(evil.balanceOf(address(settlement)), 4);
        vm.assertEq(escrow.balanceOf(bob), 6);
    }

    function test_reentrancy_claim() public {
        _withEvil();
        evil.mint(address(settlement), 7);
        bytes32[] memory nodes = _tree(3, 4);
        _postFinal(1, nodes[0], 7);
        bytes32[] memory proof = Trees.proof(nodes, 0);
        evil.arm(address(settlement), abi.encodeCall(settlement.claim, (alice, 3, proof)));
        settlement.claim(alice, 3, proof);
        _repelled();
        vm.assertEq(evil.balanceOf(alice), 3);
        vm.assertEq(settlement.totalClaimed(), 3);
    }

    function test_reentrancy_claimMany() public {
        _withEvil();
        evil.mint(address(settlement), 7);
        bytes32[] memory nodes = _tree(3, 4);
        _postFinal(1, nodes[0], 7);
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(nodes, _all(2));
        // Bob's transfer has not begun when this comes, but his claim is marked as paid.
        evil.arm(address(settlement), abi.encodeCall(settlement.claim, (bob, 4, Trees.proof(nodes, 1))));
        settlement.claimMany(_two(alice, bob), _two(3, 4), proof, flags);
        _repelled();
        vm.assertEq(evil.balanceOf(alice), 3);
        vm.assertEq(evil.balanceOf(bob), 4);
        vm.assertEq(settlement.totalClaimed(), 7);
    }

    function test_reentrancy_staking() public {
        _withEvil();
        evil.mint(address(staking), 10); // of others
        evil.mint(address(evil), 10);
        vm.startPrank(address(evil));
        evil.approve(address(staking), 10);
        staking.stake(10);
        staking.requestUnstake(10);
        _pass(DELAY);
        evil.arm(address(staking), abi.encodeCall(staking.withdraw, ()));
        staking.withdraw();
        vm.stopPrank();
        _repelled();
        vm.assertEq(evil.balanceOf(address(evil)), 10);
    }

    // Replayed claim

    function _tree(uint256 forAlice, uint256 forBob) private view returns (bytes32[] memory) {
        bytes32[] memory leaves = new bytes32[](2);
        (leaves[0], leaves[1]) = (Trees.leaf(alice, forAlice), Trees.leaf(bob, forBob));
        return Trees.build(leaves);
    }

    function _pair(uint256 epoch, uint256 forAlice, uint256 forBob) private returns (bytes32[] memory) {
        return _settle(epoch, _two(alice, bob), _two(forAlice, forBob));
    }

    function test_replayed_claim() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        bytes32[] memory proof = Trees.proof(nodes, 0);
        settlement.claim(alice, 3, proof);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.NothingToClaim.selector, alice));
        settlement.claim(alice, 3, proof);
        (bytes32[] memory many, bool[] memory flags) = Trees.multiproof(nodes, _all(2));
        settlement.claimMany(_two(alice, bob), _two(3, 4), many, flags);
        vm.assertEq(token.balanceOf(alice), 3);
    }

    function test_replayed_claim_of_an_old_root() public {
        bytes32[] memory old = _pair(1, 3, 4);
        _pair(2, 5, 6);
        vm.expectRevert(IRiosSettlement.InvalidProof.selector);
        settlement.claim(alice, 3, Trees.proof(old, 0));
    }

    function test_replayed_charge() public {
        _deposit(alice, 10);
        vm.startPrank(poster);
        escrow.charge("batch", 1, _one(alice), _one(uint256(4)));
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.BatchUsed.selector, bytes32("batch")));
        escrow.charge("batch", 2, _one(alice), _one(uint256(1)));
        vm.stopPrank();
        vm.assertEq(escrow.balanceOf(alice), 6);
    }

    // Forged proof

    function testFuzz_forged_amount(uint256 amount) public {
        vm.assume(amount != 3);
        bytes32[] memory nodes = _pair(1, 3, 4);
        vm.expectRevert(IRiosSettlement.InvalidProof.selector);
        settlement.claim(alice, amount, Trees.proof(nodes, 0));
    }

    function testFuzz_forged_account(address account) public {
        vm.assume(account != alice);
        bytes32[] memory nodes = _pair(1, 3, 4);
        vm.expectRevert(IRiosSettlement.InvalidProof.selector);
        settlement.claim(account, 3, Trees.proof(nodes, 0));
    }

    /// @dev An inner node is the hash of 64 bytes, and so is a leaf before its second hash. With one hash the two children
    /// of a node, one of which happens to look like an address, would pass for an account and its sum.
    function test_forged_leaf_from_a_node() public {
        bytes32 left = bytes32(uint256(uint160(mallory)));
        bytes32 right = bytes32(uint256(1e6 * ROS));
        bytes32[] memory leaves = new bytes32[](2);
        (leaves[0], leaves[1]) = (keccak256(abi.encode(left, right)), Trees.leaf(bob, 4));
        bytes32[] memory nodes = Trees.build(leaves);
        token.mint(address(settlement), 1e6 * ROS);
        _postFinal(1, nodes[0], 1e6 * ROS);
        vm.expectRevert(IRiosSettlement.InvalidProof.selector);
        settlement.claim(mallory, 1e6 * ROS, Trees.proof(nodes, 0));
    }

    function test_forged_multiproof() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        (bytes32[] memory proof,) = Trees.multiproof(nodes, _all(2));
        // One flag too many, none of them, and none of the leaves: nothing of it may pass as a proof of Mallory's leaf.
        for (uint256 count = 0; count < 3; ++count) {
            (bool ok,) = address(settlement)
                .call(abi.encodeCall(settlement.claimMany, (_one(mallory), _one(uint256(7)), proof, new bool[](count))));
            vm.assertTrue(!ok, "refused");
        }
        vm.assertEq(settlement.totalClaimed(), 0);
    }

    function test_forged_multiproof_of_one_leaf_twice() public {
        bytes32 leaf = Trees.leaf(alice, 3);
        bytes32[] memory leaves = new bytes32[](2);
        (leaves[0], leaves[1]) = (leaf, leaf); // a poster that lists one account twice
        bytes32[] memory nodes = Trees.build(leaves);
        token.mint(address(settlement), 6);
        _postFinal(1, nodes[0], 6);
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(nodes, _all(2));
        settlement.claimMany(_two(alice, alice), _two(3, 3), proof, flags);
        vm.assertEq(token.balanceOf(alice), 3);
    }

    // Over-funded root

    function test_overfunded_root() public {
        token.mint(address(settlement), 6);
        bytes32 root = _tree(3, 4)[0];
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.UnderFunded.selector, 7, 6));
        _post(1, root, 7);
    }

    function test_overpromising_root() public {
        bytes32[] memory nodes = _tree(3, 1000);
        token.mint(address(settlement), 1000);
        _postFinal(1, nodes[0], 7);
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.TotalExceeded.selector, 1000, 7));
        settlement.claim(bob, 1000, Trees.proof(nodes, 1));
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        vm.assertEq(token.balanceOf(address(settlement)), 997);
    }

    function test_paid_money_is_gone() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        vm.expectRevert(abi.encodeWithSelector(IRiosSettlement.UnderFunded.selector, 8, 7));
        _post(2, nodes[0], 8);
        token.mint(address(settlement), 1);
        _post(2, nodes[0], 8);
    }

    // Griefed pause

    function test_griefed_pause() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        _deposit(alice, 10);
        vm.prank(alice);
        escrow.requestWithdrawal(10);
        vm.startPrank(pauser);
        escrow.pause();
        settlement.pause();
        vm.stopPrank();
        _pass(DELAY);
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(nodes, _all(2));
        settlement.claimMany(_two(alice, bob), _two(3, 4), proof, flags);
        vm.prank(alice);
        escrow.withdraw();
        vm.assertEq(token.balanceOf(alice), 13);
        vm.assertEq(token.balanceOf(bob), 4);
    }

    function test_rogue_pauser() public {
        bytes32 role = escrow.PAUSER_ROLE();
        vm.prank(pauser);
        escrow.pause();
        vm.startPrank(admin);
        IAccessControl(address(escrow)).revokeRole(role, pauser);
        IAccessControl(address(escrow)).grantRole(role, admin);
        escrow.unpause();
        vm.stopPrank();
        vm.prank(pauser);
        _expectMissing(pauser, role);
        escrow.pause();
    }

    function test_only_pausers() public {
        bytes32 role = settlement.PAUSER_ROLE();
        vm.prank(mallory);
        _expectMissing(mallory, role);
        settlement.pause();
        vm.prank(pauser);
        settlement.pause();
        vm.prank(mallory);
        _expectMissing(mallory, role);
        settlement.unpause();
    }

    // Griefed challenge

    function test_griefed_challenge() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        for (uint256 i = 0; i < 5; ++i) {
            _post(2, keccak256(abi.encode(i)), 7);
            vm.prank(challenger);
            settlement.challenge(2, "out of spite");
            _pass(WINDOW);
        }
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        bytes32 role = settlement.CHALLENGER_ROLE();
        vm.prank(admin);
        IAccessControl(address(settlement)).revokeRole(role, challenger);
        nodes = _pair(2, 5, 6);
        settlement.claim(bob, 6, Trees.proof(nodes, 1));
        vm.assertEq(token.balanceOf(bob), 6);
    }

    // Front-run

    function test_front_run_permit() public {
        uint256 key = 0xB0B;
        address owner = vm.addr(key);
        token.mint(owner, 9);
        (uint8 v, bytes32 r, bytes32 s) = Permits.sign(token, key, address(escrow), 9, block.timestamp);
        vm.prank(mallory);
        token.permit(owner, address(escrow), 9, block.timestamp, v, r, s);
        vm.prank(owner);
        escrow.depositWithPermit(9, block.timestamp, v, r, s);
        vm.assertEq(escrow.balanceOf(owner), 9);
    }

    function test_front_run_claimMany() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        vm.prank(mallory);
        settlement.claim(bob, 4, Trees.proof(nodes, 1));
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(nodes, _all(2));
        settlement.claimMany(_two(alice, bob), _two(3, 4), proof, flags);
        vm.assertEq(token.balanceOf(alice), 3);
        vm.assertEq(token.balanceOf(bob), 4);
    }

    function test_front_run_claim() public {
        bytes32[] memory nodes = _pair(1, 3, 4);
        vm.prank(mallory);
        settlement.claim(alice, 3, Trees.proof(nodes, 0));
        vm.assertEq(token.balanceOf(alice), 3);
        vm.assertEq(token.balanceOf(mallory), 0);
    }

    /// @dev A hold was placed off-chain; the user asks for everything in the same block as the charge comes.
    function test_front_run_charge_by_a_request() public {
        _deposit(alice, 10);
        vm.prank(alice);
        escrow.requestWithdrawal(10);
        _pass(DELAY - 1);
        vm.prank(poster);
        escrow.charge("batch", 1, _one(alice), _one(uint256(8)));
        _pass(1);
        vm.prank(alice);
        escrow.withdraw();
        vm.assertEq(token.balanceOf(alice), 2);
    }

    /// @dev Without lowering requests, a request that a charge has eaten would stand for deposits that come later.
    function test_front_run_holds_by_an_old_request() public {
        _deposit(alice, 10);
        vm.prank(alice);
        escrow.requestWithdrawal(10);
        vm.prank(poster);
        escrow.charge("batch", 1, _one(alice), _one(uint256(10)));
        _pass(DELAY);
        _deposit(alice, 10);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.NoWithdrawal.selector, alice));
        escrow.withdraw();
    }

    function test_front_run_slash() public {
        token.mint(alice, 10);
        vm.startPrank(alice);
        token.approve(address(staking), 10);
        staking.stake(10);
        staking.requestUnstake(4);
        _pass(DELAY);
        staking.withdraw();
        vm.stopPrank();
        vm.prank(poster);
        staking.slash(alice, 10, keccak256("evidence"), "ipfs://evidence");
        vm.assertEq(token.balanceOf(admin), 6);
        vm.assertEq(token.balanceOf(alice), 4);
    }
}

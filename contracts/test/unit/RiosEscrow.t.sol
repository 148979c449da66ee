// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Errors} from "@openzeppelin/contracts/interfaces/draft-IERC6093.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {RiosEscrow} from "../../src/RiosEscrow.sol";
import {IRiosEscrow} from "../../src/interfaces/IRiosEscrow.sol";
import {EscrowTest} from "../base/EscrowTest.sol";
import {Permits} from "../base/Permits.sol";

contract RiosEscrowTest is EscrowTest {
    uint256 private constant KEY = 0xB0B;

    function _pending(address user, uint256 amount, uint256 availableAt) private view {
        (uint256 asked, uint256 from) = escrow.pendingWithdrawal(user);
        vm.assertEq(asked, amount, "requested");
        vm.assertEq(from, availableAt, "available at");
    }

    function test_needs_a_token() public {
        vm.expectRevert(IRiosEscrow.ZeroAddress.selector);
        new RiosEscrow(IERC20(address(0)), admin, ADMIN_DELAY, DELAY);
    }

    function test_knows_its_terms() public view {
        vm.assertEq(address(escrow.token()), address(token));
        vm.assertEq(escrow.defaultAdmin(), admin);
        vm.assertEq(escrow.withdrawalDelay(), DELAY);
    }

    function test_no_deposit_while_paused() public {
        _pause();
        vm.prank(alice);
        vm.expectRevert(Pausable.EnforcedPause.selector);
        escrow.deposit(1);
        vm.prank(pauser);
        escrow.unpause();
        _deposit(alice, 1);
    }

    function test_no_empty_deposit() public {
        vm.expectRevert(IRiosEscrow.ZeroAmount.selector);
        escrow.deposit(0);
    }

    function test_no_deposit_without_allowance() public {
        token.mint(alice, 5);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(escrow), 0, 5));
        escrow.deposit(5);
        vm.assertEq(escrow.balanceOf(alice), 0);
    }

    function testFuzz_deposit(uint256 first, uint256 second) public {
        first = _between(first, 1, CAP / 2);
        second = _between(second, 1, CAP / 2);
        _deposit(alice, first);
        token.mint(alice, second);
        vm.startPrank(alice);
        token.approve(address(escrow), second);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.Deposited(alice, alice, second);
        escrow.deposit(second);
        vm.stopPrank();
        vm.assertEq(escrow.balanceOf(alice), first + second);
        vm.assertEq(escrow.totalBalance(), first + second);
        vm.assertEq(token.balanceOf(address(escrow)), first + second);
    }

    function test_no_deposit_for_nobody() public {
        vm.expectRevert(IRiosEscrow.ZeroAddress.selector);
        escrow.depositFor(address(0), 1);
    }

    function test_deposit_for_another() public {
        token.mint(bob, 7);
        vm.startPrank(bob);
        token.approve(address(escrow), 7);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.Deposited(alice, bob, 7);
        escrow.depositFor(alice, 7);
        vm.stopPrank();
        vm.assertEq(escrow.balanceOf(alice), 7);
        vm.assertEq(escrow.balanceOf(bob), 0);
        vm.assertEq(token.balanceOf(bob), 0);
    }

    function test_deposit_with_permit() public {
        address owner = vm.addr(KEY);
        token.mint(owner, 9);
        (uint8 v, bytes32 r, bytes32 s) = Permits.sign(token, KEY, address(escrow), 9, block.timestamp);
        vm.prank(owner);
        escrow.depositWithPermit(9, block.timestamp, v, r, s);
        vm.assertEq(escrow.balanceOf(owner), 9);
        vm.assertEq(token.allowance(owner, address(escrow)), 0);
    }

    function test_spoilt_permit_with_allowance() public {
        token.mint(alice, 9);
        vm.startPrank(alice);
        token.approve(address(escrow), 9);
        escrow.depositWithPermit(9, block.timestamp, 27, bytes32(uint256(1)), bytes32(uint256(1)));
        vm.stopPrank();
        vm.assertEq(escrow.balanceOf(alice), 9);
    }

    function test_spoilt_permit() public {
        token.mint(alice, 9);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IERC20Errors.ERC20InsufficientAllowance.selector, address(escrow), 0, 9));
        escrow.depositWithPermit(9, block.timestamp, 27, bytes32(uint256(1)), bytes32(uint256(1)));
    }

    function test_no_empty_request() public {
        vm.expectRevert(IRiosEscrow.ZeroAmount.selector);
        escrow.requestWithdrawal(0);
    }

    function test_no_request_above_the_balance() public {
        _deposit(alice, 10);
        _request(alice, 6);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.InsufficientBalance.selector, alice, 10, 11));
        escrow.requestWithdrawal(5);
        _request(alice, 4);
    }

    function test_requests_add_up() public {
        _deposit(alice, 10);
        _request(alice, 3);
        _pending(alice, 3, block.timestamp + DELAY);
        _pass(DELAY);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.WithdrawalRequested(alice, 4, 7, block.timestamp + DELAY);
        _request(alice, 4);
        _pending(alice, 7, block.timestamp + DELAY);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.WithdrawalNotDue.selector, alice, block.timestamp + DELAY));
        escrow.withdraw();
        vm.assertEq(escrow.balanceOf(alice), 10);
    }

    function test_nothing_to_cancel() public {
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.NoWithdrawal.selector, alice));
        escrow.cancelWithdrawal();
    }

    function test_cancel() public {
        _deposit(alice, 10);
        _request(alice, 3);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.WithdrawalCancelled(alice, 3);
        vm.prank(alice);
        escrow.cancelWithdrawal();
        _pending(alice, 0, 0);
        vm.assertEq(escrow.balanceOf(alice), 10);
    }

    function test_nothing_to_withdraw() public {
        _deposit(alice, 10);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.NoWithdrawal.selector, alice));
        escrow.withdraw();
    }

    function testFuzz_withdraw_too_early(uint256 wait) public {
        wait = _between(wait, 0, DELAY - 1);
        _deposit(alice, 10);
        _request(alice, 3);
        uint256 due = block.timestamp + DELAY;
        _pass(wait);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.WithdrawalNotDue.selector, alice, due));
        escrow.withdraw();
    }

    function test_withdraw_while_paused() public {
        _deposit(alice, 10);
        _deposit(bob, 5);
        _request(alice, 3);
        _pause();
        _pass(DELAY);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.Withdrawn(alice, 3);
        vm.prank(alice);
        escrow.withdraw();
        vm.assertEq(token.balanceOf(alice), 3);
        vm.assertEq(escrow.balanceOf(alice), 7);
        vm.assertEq(escrow.totalBalance(), 12);
        _pending(alice, 0, 0);
    }

    function test_only_chargers_charge() public {
        bytes32 role = escrow.CHARGER_ROLE();
        vm.prank(mallory);
        _expectMissing(mallory, role);
        escrow.charge("batch", 1, _one(alice), _one(uint256(1)));
    }

    function test_no_charge_while_paused() public {
        _deposit(alice, 10);
        _pause();
        vm.expectRevert(Pausable.EnforcedPause.selector);
        _charge("batch", alice, 1);
    }

    function test_charge_needs_a_settlement() public {
        RiosEscrow fresh = new RiosEscrow(IERC20(address(token)), admin, ADMIN_DELAY, DELAY);
        _grant(address(fresh), fresh.CHARGER_ROLE(), charger);
        vm.prank(charger);
        vm.expectRevert(IRiosEscrow.SettlementNotSet.selector);
        fresh.charge("batch", 1, _one(alice), _one(uint256(0)));
    }

    function test_charge_lengths() public {
        vm.prank(charger);
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.LengthMismatch.selector, 2, 1));
        escrow.charge("batch", 1, _two(alice, bob), _one(uint256(1)));
    }

    function test_batches_are_done_once() public {
        _deposit(alice, 10);
        _charge("batch", alice, 1);
        vm.assertTrue(escrow.batchUsed("batch"), "used");
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.BatchUsed.selector, bytes32("batch")));
        _charge("batch", alice, 1);
        _charge("another", alice, 1);
        vm.assertEq(escrow.balanceOf(alice), 8);
    }

    function test_charge_above_a_balance() public {
        _deposit(alice, 10);
        _deposit(bob, 5);
        vm.prank(charger);
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.InsufficientBalance.selector, bob, 5, 6));
        escrow.charge("batch", 1, _two(alice, bob), _two(1, 6));
        vm.assertEq(escrow.balanceOf(alice), 10);
        vm.assertTrue(!escrow.batchUsed("batch"), "not used");
    }

    function test_charge() public {
        _deposit(alice, 10);
        _deposit(bob, 5);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.Charged("batch", 7, alice, 4);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.Charged("batch", 7, bob, 5);
        vm.prank(charger);
        escrow.charge("batch", 7, _two(alice, bob), _two(4, 5));
        vm.assertEq(escrow.balanceOf(alice), 6);
        vm.assertEq(escrow.balanceOf(bob), 0);
        vm.assertEq(escrow.totalBalance(), 6);
        vm.assertEq(token.balanceOf(payee), 9);
        vm.assertEq(token.balanceOf(address(escrow)), 6);
    }

    function test_charge_leaves_a_covered_request() public {
        _deposit(alice, 10);
        _request(alice, 6);
        _charge("batch", alice, 4);
        _pending(alice, 6, block.timestamp + DELAY);
    }

    function test_charge_lowers_a_request() public {
        _deposit(alice, 10);
        _request(alice, 6);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.WithdrawalReduced(alice, 1, 5);
        _charge("batch", alice, 5);
        _pending(alice, 5, block.timestamp + DELAY);
    }

    function test_charge_drops_a_request() public {
        _deposit(alice, 10);
        _request(alice, 6);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.WithdrawalReduced(alice, 6, 0);
        _charge("batch", alice, 10);
        _pending(alice, 0, 0);
    }

    function test_only_chargers_credit() public {
        bytes32 role = escrow.CHARGER_ROLE();
        vm.prank(mallory);
        _expectMissing(mallory, role);
        escrow.credit("batch", _one(mallory), _one(uint256(1)));
    }

    function test_credit_shares_the_batches() public {
        _deposit(alice, 10);
        _charge("batch", alice, 1);
        vm.prank(charger);
        vm.expectRevert(abi.encodeWithSelector(IRiosEscrow.BatchUsed.selector, bytes32("batch")));
        escrow.credit("batch", _one(alice), _one(uint256(1)));
    }

    function test_credit_while_paused() public {
        _pause();
        token.mint(charger, 9);
        vm.startPrank(charger);
        token.approve(address(escrow), 9);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.Credited("refunds", alice, 4);
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.Credited("refunds", bob, 5);
        escrow.credit("refunds", _two(alice, bob), _two(4, 5));
        vm.stopPrank();
        vm.assertEq(escrow.balanceOf(alice), 4);
        vm.assertEq(escrow.balanceOf(bob), 5);
        vm.assertEq(escrow.totalBalance(), 9);
        vm.assertEq(token.balanceOf(address(escrow)), 9);
    }

    function test_only_the_admin_sets_the_settlement() public {
        bytes32 role = escrow.DEFAULT_ADMIN_ROLE();
        vm.prank(mallory);
        _expectMissing(mallory, role);
        escrow.setSettlement(mallory);
    }

    function test_settlement_is_somebody() public {
        vm.prank(admin);
        vm.expectRevert(IRiosEscrow.ZeroAddress.selector);
        escrow.setSettlement(address(0));
    }

    function test_settlement_is_set() public {
        vm.expectEmit(address(escrow));
        emit IRiosEscrow.SettlementSet(payee, bob);
        vm.prank(admin);
        escrow.setSettlement(bob);
        vm.assertEq(escrow.settlement(), bob);
    }
}

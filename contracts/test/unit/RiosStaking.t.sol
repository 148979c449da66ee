// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {RiosStaking} from "../../src/RiosStaking.sol";
import {IRiosStaking} from "../../src/interfaces/IRiosStaking.sol";
import {StakingTest} from "../base/StakingTest.sol";

contract RiosStakingTest is StakingTest {
    function _holds(address account, uint256 bonded, uint256 unbonding) private view {
        (uint256 leaving,) = staking.unbondingOf(account);
        vm.assertEq(staking.stakeOf(account), bonded, "bonded");
        vm.assertEq(leaving, unbonding, "unbonding");
    }

    function test_needs_a_token() public {
        vm.expectRevert(IRiosStaking.ZeroAddress.selector);
        new RiosStaking(IERC20(address(0)), admin, ADMIN_DELAY, DELAY, treasury);
    }

    function test_needs_a_place_for_slashed_stakes() public {
        vm.expectRevert(IRiosStaking.ZeroAddress.selector);
        new RiosStaking(IERC20(address(token)), admin, ADMIN_DELAY, DELAY, address(0));
    }

    function test_knows_its_terms() public view {
        vm.assertEq(address(staking.token()), address(token));
        vm.assertEq(staking.unbondingDelay(), DELAY);
        vm.assertEq(staking.slashedTo(), treasury);
        vm.assertEq(staking.defaultAdmin(), admin);
    }

    function test_no_empty_stake() public {
        vm.expectRevert(IRiosStaking.ZeroAmount.selector);
        staking.stake(0);
    }

    function testFuzz_stake(uint256 first, uint256 second) public {
        first = _between(first, 1, CAP / 2);
        second = _between(second, 1, CAP / 2);
        _stake(alice, first);
        token.mint(alice, second);
        vm.startPrank(alice);
        token.approve(address(staking), second);
        vm.expectEmit(address(staking));
        emit IRiosStaking.Staked(alice, second, first + second);
        staking.stake(second);
        vm.stopPrank();
        _holds(alice, first + second, 0);
        vm.assertEq(staking.totalStaked(), first + second);
        vm.assertEq(token.balanceOf(address(staking)), first + second);
    }

    function test_no_empty_unstake() public {
        vm.expectRevert(IRiosStaking.ZeroAmount.selector);
        staking.requestUnstake(0);
    }

    function test_no_unstake_above_the_stake() public {
        _stake(alice, 10);
        _unstake(alice, 4);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IRiosStaking.InsufficientStake.selector, alice, 6, 7));
        staking.requestUnstake(7);
    }

    function test_unstakes_add_up() public {
        _stake(alice, 10);
        _unstake(alice, 3);
        _pass(DELAY);
        vm.expectEmit(address(staking));
        emit IRiosStaking.UnstakeRequested(alice, 4, 7, block.timestamp + DELAY);
        _unstake(alice, 4);
        _holds(alice, 3, 7);
        vm.assertEq(staking.totalStaked(), 10);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IRiosStaking.UnbondingNotDue.selector, alice, block.timestamp + DELAY));
        staking.withdraw();
    }

    function test_nothing_to_withdraw() public {
        _stake(alice, 10);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IRiosStaking.NothingUnbonding.selector, alice));
        staking.withdraw();
    }

    function testFuzz_withdraw_too_early(uint256 wait) public {
        wait = _between(wait, 0, DELAY - 1);
        _stake(alice, 10);
        _unstake(alice, 3);
        uint256 due = block.timestamp + DELAY;
        _pass(wait);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IRiosStaking.UnbondingNotDue.selector, alice, due));
        staking.withdraw();
    }

    function test_withdraw() public {
        _stake(alice, 10);
        _unstake(alice, 3);
        _pass(DELAY);
        vm.expectEmit(address(staking));
        emit IRiosStaking.Withdrawn(alice, 3);
        vm.prank(alice);
        staking.withdraw();
        _holds(alice, 7, 0);
        vm.assertEq(token.balanceOf(alice), 3);
        vm.assertEq(staking.totalStaked(), 7);
    }

    function test_only_slashers_slash() public {
        _stake(alice, 10);
        bytes32 role = staking.SLASHER_ROLE();
        vm.prank(mallory);
        _expectMissing(mallory, role);
        staking.slash(alice, 1, EVIDENCE, URI);
    }

    function test_no_slash_without_evidence() public {
        _stake(alice, 10);
        vm.prank(slasher);
        vm.expectRevert(IRiosStaking.NoEvidence.selector);
        staking.slash(alice, 1, 0, URI);
    }

    function test_no_empty_slash() public {
        _stake(alice, 10);
        vm.expectRevert(IRiosStaking.ZeroAmount.selector);
        _slash(alice, 0);
    }

    function test_nothing_at_stake() public {
        vm.expectRevert(abi.encodeWithSelector(IRiosStaking.NothingAtStake.selector, alice));
        _slash(alice, 1);
    }

    function test_slash_takes_what_leaves_first() public {
        _stake(alice, 10);
        _unstake(alice, 4);
        vm.expectEmit(address(staking));
        emit IRiosStaking.Slashed(alice, EVIDENCE, 2, 4, URI);
        _slash(alice, 6);
        _holds(alice, 4, 0);
        vm.assertEq(token.balanceOf(treasury), 6);
    }

    function testFuzz_slash(uint256 bonded, uint256 unbonding, uint256 amount) public {
        bonded = _between(bonded, 0, CAP / 2);
        unbonding = _between(unbonding, 1, CAP / 2);
        amount = _between(amount, 1, 2 * CAP);
        _stake(alice, bonded + unbonding);
        _unstake(alice, unbonding);
        _stake(bob, 5);
        _slash(alice, amount);
        uint256 taken = amount < bonded + unbonding ? amount : bonded + unbonding;
        (uint256 leaving,) = staking.unbondingOf(alice);
        vm.assertEq(token.balanceOf(treasury), taken);
        vm.assertEq(staking.stakeOf(alice) + leaving, bonded + unbonding - taken);
        vm.assertEq(staking.totalStaked(), bonded + unbonding - taken + 5);
        vm.assertEq(token.balanceOf(address(staking)), staking.totalStaked());
    }
}

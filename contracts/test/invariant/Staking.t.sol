// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RiosStaking} from "../../src/RiosStaking.sol";
import {IRiosStaking} from "../../src/interfaces/IRiosStaking.sol";
import {StakingTest} from "../base/StakingTest.sol";
import {Vm} from "../base/Vm.sol";

/// @dev Stakes, leaves, slashes and waits in any order, and rebuilds the stakes from the events alone.
contract StakingHandler is StakingTest {
    address[3] public people;
    mapping(address account => uint256) public bonded;
    mapping(address account => uint256) public unbonding;
    uint256 public slashed;

    constructor() {
        StakingTest.setUp();
        people = [alice, bob, carol];
        vm.recordLogs();
    }

    /// @dev Done already; the fuzzer calls this too.
    function setUp() public override {}

    function target() external view returns (RiosStaking) {
        return staking;
    }

    modifier rebuilt() {
        _;
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(staking)) _apply(logs[i]);
        }
    }

    function stake(uint256 who, uint256 amount) external rebuilt {
        _stake(people[who % 3], _between(amount, 1, 1e6 * ROS));
    }

    function requestUnstake(uint256 who, uint256 amount) external rebuilt {
        address account = people[who % 3];
        uint256 available = staking.stakeOf(account);
        if (available == 0) return;
        _unstake(account, _between(amount, 1, available));
    }

    function withdraw(uint256 who, uint256 wait) external rebuilt {
        address account = people[who % 3];
        vm.warp(block.timestamp + wait % (2 * DELAY));
        (uint256 amount, uint256 availableAt) = staking.unbondingOf(account);
        if (amount == 0 || block.timestamp < availableAt) vm.expectRevert();
        vm.prank(account);
        staking.withdraw();
    }

    function slash(uint256 who, uint256 amount) external rebuilt {
        address account = people[who % 3];
        amount = _between(amount, 1, 2e6 * ROS);
        if (bonded[account] + unbonding[account] == 0) vm.expectRevert();
        _slash(account, amount);
    }

    function donate(uint256 amount) external rebuilt {
        token.mint(address(staking), amount % ROS);
    }

    function _apply(Vm.Log memory log) private {
        address account = address(uint160(uint256(log.topics[1])));
        if (log.topics[0] == IRiosStaking.Staked.selector) {
            (, bonded[account]) = abi.decode(log.data, (uint256, uint256));
        } else if (log.topics[0] == IRiosStaking.UnstakeRequested.selector) {
            (uint256 amount, uint256 total,) = abi.decode(log.data, (uint256, uint256, uint256));
            bonded[account] -= amount;
            unbonding[account] = total;
        } else if (log.topics[0] == IRiosStaking.Withdrawn.selector) {
            unbonding[account] -= abi.decode(log.data, (uint256));
        } else if (log.topics[0] == IRiosStaking.Slashed.selector) {
            (uint256 fromBonded, uint256 fromUnbonding,) = abi.decode(log.data, (uint256, uint256, string));
            bonded[account] -= fromBonded;
            unbonding[account] -= fromUnbonding;
            slashed += fromBonded + fromUnbonding;
        }
    }
}

contract StakingInvariants is StakingTest {
    StakingHandler private handler;

    function setUp() public override {
        handler = new StakingHandler();
        staking = handler.target();
        token = handler.money();
    }

    function targetContracts() external view returns (address[] memory) {
        return _one(address(handler));
    }

    function invariant_every_stake_is_backed_and_told() external view {
        uint256 sum = 0;
        for (uint256 i = 0; i < 3; ++i) {
            address account = handler.people(i);
            (uint256 leaving,) = staking.unbondingOf(account);
            vm.assertEq(handler.bonded(account), staking.stakeOf(account), "bonded");
            vm.assertEq(handler.unbonding(account), leaving, "unbonding");
            sum += staking.stakeOf(account) + leaving;
        }
        vm.assertEq(sum, staking.totalStaked(), "the sum of stakes");
        vm.assertLe(sum, token.balanceOf(address(staking)), "backed by tokens");
        vm.assertEq(token.balanceOf(treasury), handler.slashed(), "slashed stakes");
    }
}

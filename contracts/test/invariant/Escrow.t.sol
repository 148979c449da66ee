// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RiosEscrow} from "../../src/RiosEscrow.sol";
import {IRiosEscrow} from "../../src/interfaces/IRiosEscrow.sol";
import {EscrowTest} from "../base/EscrowTest.sol";
import {Vm} from "../base/Vm.sol";

/// @dev Does what users, charger, pauser and time may do, in any order, and rebuilds the balances from the events alone.
contract EscrowHandler is EscrowTest {
    address[4] public people;
    mapping(address user => uint256) public balances;
    mapping(address user => uint256) public requests;
    uint256 public paidIn;
    uint256 public paidOut;
    uint256 private _batches;

    constructor() {
        EscrowTest.setUp();
        people = [alice, bob, carol, mallory];
        vm.recordLogs();
    }

    /// @dev Done already; the fuzzer calls this too.
    function setUp() public override {}

    function target() external view returns (RiosEscrow) {
        return escrow;
    }

    modifier rebuilt() {
        _;
        _replay();
    }

    function deposit(uint256 who, uint256 whose, uint256 amount) external rebuilt {
        address payer = people[who % 4];
        amount = _between(amount, 1, 1e6 * ROS);
        token.mint(payer, amount);
        vm.startPrank(payer);
        token.approve(address(escrow), amount);
        if (escrow.paused()) vm.expectRevert();
        escrow.depositFor(people[whose % 4], amount);
        vm.stopPrank();
    }

    function request(uint256 who, uint256 amount) external rebuilt {
        address user = people[who % 4];
        uint256 free = escrow.balanceOf(user) - requests[user];
        if (free == 0) return;
        _request(user, _between(amount, 1, free));
    }

    function cancel(uint256 who) external rebuilt {
        address user = people[who % 4];
        if (requests[user] == 0) vm.expectRevert();
        vm.prank(user);
        escrow.cancelWithdrawal();
    }

    function withdraw(uint256 who, uint256 wait) external rebuilt {
        address user = people[who % 4];
        vm.warp(block.timestamp + wait % (2 * DELAY));
        (uint256 amount, uint256 availableAt) = escrow.pendingWithdrawal(user);
        if (amount == 0 || block.timestamp < availableAt) vm.expectRevert();
        vm.prank(user);
        escrow.withdraw();
    }

    function charge(uint256 first, uint256 second, bool tooMuch) external rebuilt {
        (uint256 a, uint256 b) = (escrow.balanceOf(alice), escrow.balanceOf(bob));
        (a, b) = (first % (a + 1), tooMuch ? b + 1 : second % (b + 1));
        bool refused = tooMuch || escrow.paused();
        vm.prank(charger);
        if (refused) vm.expectRevert();
        escrow.charge(bytes32(++_batches), 1, _two(alice, bob), _two(a, b));
        if (refused) vm.getRecordedLogs(); // forge records what was undone as well
    }

    function credit(uint256 who, uint256 amount) external rebuilt {
        amount = _between(amount, 0, 1e6 * ROS);
        token.mint(charger, amount);
        vm.startPrank(charger);
        token.approve(address(escrow), amount);
        escrow.credit(bytes32(++_batches), _one(people[who % 4]), _one(amount));
        vm.stopPrank();
    }

    function donate(uint256 amount) external rebuilt {
        token.mint(address(escrow), amount % ROS);
    }

    function pause(bool on) external rebuilt {
        if (on == escrow.paused()) return;
        vm.prank(pauser);
        if (on) escrow.pause();
        else escrow.unpause();
    }

    function _replay() private {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].emitter == address(escrow)) _apply(logs[i]);
        }
    }

    function _apply(Vm.Log memory log) private {
        bytes32 what = log.topics[0];
        if (what == IRiosEscrow.Deposited.selector) {
            _move(log.topics[1], int256(abi.decode(log.data, (uint256))));
        } else if (what == IRiosEscrow.Credited.selector) {
            _move(log.topics[2], int256(abi.decode(log.data, (uint256))));
        } else if (what == IRiosEscrow.Charged.selector) {
            _move(log.topics[3], -int256(abi.decode(log.data, (uint256))));
        } else if (what == IRiosEscrow.Withdrawn.selector) {
            _move(log.topics[1], -int256(abi.decode(log.data, (uint256))));
            requests[_address(log.topics[1])] = 0;
        } else if (what == IRiosEscrow.WithdrawalRequested.selector) {
            (, uint256 total,) = abi.decode(log.data, (uint256, uint256, uint256));
            requests[_address(log.topics[1])] = total;
        } else if (what == IRiosEscrow.WithdrawalReduced.selector) {
            (, uint256 total) = abi.decode(log.data, (uint256, uint256));
            requests[_address(log.topics[1])] = total;
        } else if (what == IRiosEscrow.WithdrawalCancelled.selector) {
            requests[_address(log.topics[1])] -= abi.decode(log.data, (uint256));
        }
    }

    function _move(bytes32 user, int256 amount) private {
        balances[_address(user)] = uint256(int256(balances[_address(user)]) + amount);
        if (amount > 0) paidIn += uint256(amount);
        else paidOut += uint256(-amount);
    }

    function _address(bytes32 topic) private pure returns (address) {
        return address(uint160(uint256(topic)));
    }
}

contract EscrowInvariants is EscrowTest {
    EscrowHandler private handler;

    function setUp() public override {
        handler = new EscrowHandler();
        escrow = handler.target();
        token = handler.money();
    }

    function targetContracts() external view returns (address[] memory) {
        return _one(address(handler));
    }

    function invariant_every_balance_is_backed() external view {
        uint256 sum = 0;
        for (uint256 i = 0; i < 4; ++i) {
            sum += escrow.balanceOf(handler.people(i));
        }
        vm.assertEq(sum, escrow.totalBalance(), "the sum of balances");
        vm.assertLe(sum, token.balanceOf(address(escrow)), "backed by tokens");
        vm.assertEq(handler.paidIn() - handler.paidOut(), sum, "in less out");
    }

    function invariant_events_tell_every_balance() external view {
        for (uint256 i = 0; i < 4; ++i) {
            address user = handler.people(i);
            (uint256 requested,) = escrow.pendingWithdrawal(user);
            vm.assertEq(handler.balances(user), escrow.balanceOf(user), "balance");
            vm.assertEq(handler.requests(user), requested, "request");
            vm.assertLe(requested, escrow.balanceOf(user), "no request above a balance");
        }
    }
}

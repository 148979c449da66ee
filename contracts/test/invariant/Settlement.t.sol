// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RiosSettlement} from "../../src/RiosSettlement.sol";
import {IRiosSettlement} from "../../src/interfaces/IRiosSettlement.sol";
import {Fixture} from "../base/Fixture.sol";
import {SettlementTest} from "../base/SettlementTest.sol";
import {Trees} from "../base/Trees.sol";
import {Vm} from "../base/Vm.sol";

/// @dev Earns, funds, posts, challenges, claims and waits in any order, and rebuilds what was paid from the events alone.
contract SettlementHandler is SettlementTest {
    uint256 private constant WORKERS = 7;

    mapping(address account => uint256) public paid;
    uint256 public paidInAll;
    uint256 public funded;
    uint256[] private _earned = new uint256[](WORKERS);
    // Of the final root and of the one that may still be pending.
    uint256[] private _standing = new uint256[](WORKERS);
    uint256[] private _posted = new uint256[](WORKERS);

    constructor() {
        SettlementTest.setUp();
        vm.recordLogs();
    }

    /// @dev Done already; the fuzzer calls this too.
    function setUp() public override {}

    function target() external view returns (RiosSettlement) {
        return settlement;
    }

    modifier rebuilt() {
        _;
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            if (logs[i].topics[0] != IRiosSettlement.Claimed.selector) continue;
            (uint256 amount, uint256 cumulative,) = abi.decode(logs[i].data, (uint256, uint256, uint256));
            address account = address(uint160(uint256(logs[i].topics[1])));
            paid[account] += amount;
            paidInAll += amount;
            vm.assertEq(paid[account], cumulative, "amounts add up to the sum");
        }
    }

    function earn(uint256 who, uint256 amount) external rebuilt {
        amount = _between(amount, 1, 1000 * ROS);
        _earned[who % WORKERS] += amount;
        token.mint(address(settlement), amount);
        funded += amount;
    }

    function earnWithoutFunds(uint256 who, uint256 amount) external rebuilt {
        uint256[] memory sums = _earned;
        sums[who % WORKERS] += funded - _sum(_earned) + _between(amount, 1, 1000 * ROS);
        (uint256 next, bool possible) = _next();
        if (!possible) return;
        vm.expectPartialRevert(IRiosSettlement.UnderFunded.selector);
        _post(next, _tree(sums)[0], _sum(sums));
    }

    function post() external rebuilt {
        (uint256 next, bool possible) = _next();
        if (!possible) vm.expectRevert();
        _post(next, _tree(_earned)[0], _sum(_earned));
        if (!possible) return;
        _standing = _posted;
        _posted = _earned;
    }

    function challenge() external rebuilt {
        uint256 epoch = settlement.latestEpoch();
        bool pending = _pending();
        vm.prank(challenger);
        if (!pending) vm.expectRevert();
        settlement.challenge(epoch, "so it seems");
        if (pending) _posted = _standing;
    }

    function claim(uint256 who) external rebuilt {
        who %= WORKERS;
        uint256[] memory sums = _pending() ? _standing : _posted;
        bool nothing = sums[who] == settlement.claimed(Fixture.account(who));
        (uint256 epoch,,,,) = settlement.current();
        bytes32[] memory proof = Trees.proof(_tree(sums), who);
        if (nothing || epoch == 0) vm.expectRevert();
        settlement.claim(Fixture.account(who), sums[who], proof);
    }

    function claimMore(uint256 who, uint256 more) external rebuilt {
        who %= WORKERS;
        uint256[] memory sums = _pending() ? _standing : _posted;
        bytes32[] memory proof = Trees.proof(_tree(sums), who);
        vm.expectRevert(IRiosSettlement.InvalidProof.selector);
        settlement.claim(Fixture.account(who), sums[who] + _between(more, 1, ROS), proof);
    }

    function claimMany(uint256 whom) external rebuilt {
        uint256[] memory sums = _pending() ? _standing : _posted;
        (uint256 epoch,,,,) = settlement.current();
        if (epoch == 0) return;
        bool[] memory chosen = new bool[](WORKERS);
        uint256 count = 0;
        for (uint256 i = 0; i < WORKERS; ++i) {
            chosen[i] = (whom >> i) & 1 == 1;
            if (chosen[i]) ++count;
        }
        address[] memory accounts = new address[](count);
        uint256[] memory theirs = new uint256[](count);
        for (uint256 i = WORKERS; i > 0; --i) {
            if (chosen[i - 1]) (accounts[--count], theirs[count]) = (Fixture.account(i - 1), sums[i - 1]);
        }
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(_tree(sums), chosen);
        settlement.claimMany(accounts, theirs, proof, flags);
    }

    function wait(uint256 duration) external rebuilt {
        vm.warp(block.timestamp + duration % (2 * WINDOW));
    }

    function pause(bool on) external rebuilt {
        if (on == settlement.paused()) return;
        vm.prank(pauser);
        if (on) settlement.pause();
        else settlement.unpause();
    }

    function _pending() private view returns (bool) {
        uint256 latest = settlement.latestEpoch();
        (uint256 epoch,,,,) = settlement.current();
        return epoch != latest;
    }

    function _next() private view returns (uint256 epoch, bool possible) {
        return (settlement.latestEpoch() + 1, !_pending() && !settlement.paused());
    }

    function _sum(uint256[] memory sums) private pure returns (uint256 sum) {
        for (uint256 i = 0; i < sums.length; ++i) {
            sum += sums[i];
        }
    }

    function _tree(uint256[] memory sums) private pure returns (bytes32[] memory) {
        bytes32[] memory leaves = new bytes32[](WORKERS);
        for (uint256 i = 0; i < WORKERS; ++i) {
            leaves[i] = Trees.leaf(Fixture.account(i), sums[i]);
        }
        return Trees.build(leaves);
    }
}

contract SettlementInvariants is SettlementTest {
    SettlementHandler private handler;

    function setUp() public override {
        handler = new SettlementHandler();
        settlement = handler.target();
        token = handler.money();
    }

    function targetContracts() external view returns (address[] memory) {
        return _one(address(handler));
    }

    function invariant_never_more_than_was_funded() external view {
        (,, uint256 total,,) = settlement.current();
        uint256 claimed = settlement.totalClaimed();
        vm.assertLe(claimed, total, "claimed within the total");
        vm.assertLe(total, handler.funded(), "the total within the funds");
        vm.assertEq(claimed + token.balanceOf(address(settlement)), handler.funded(), "not a wei astray");
    }

    function invariant_events_tell_every_payout() external view {
        uint256 sum = 0;
        for (uint256 i = 0; i < 7; ++i) {
            address account = Fixture.account(i);
            vm.assertEq(handler.paid(account), settlement.claimed(account), "claimed");
            vm.assertEq(token.balanceOf(account), settlement.claimed(account), "to the account alone");
            sum += settlement.claimed(account);
        }
        vm.assertEq(sum, settlement.totalClaimed(), "the sum of claims");
        vm.assertEq(handler.paidInAll(), sum, "of the events");
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RiosTest} from "../base/RiosTest.sol";

contract TokenHandler is RiosTest {
    address[4] public people;

    constructor() {
        RiosTest.setUp();
        people = [alice, bob, carol, mallory];
    }

    /// @dev Done already; the fuzzer calls this too.
    function setUp() public override {}

    function mint(uint256 who, uint256 amount) external {
        amount = _between(amount, 0, CAP / 4);
        if (token.totalSupply() + amount > CAP) vm.expectRevert();
        token.mint(people[who % 4], amount);
    }

    function transfer(uint256 who, uint256 whom, uint256 amount) external {
        address from = people[who % 4];
        amount %= token.balanceOf(from) + 1;
        vm.prank(from);
        token.transfer(people[whom % 4], amount);
    }

    function delegate(uint256 who, uint256 whom) external {
        vm.prank(people[who % 4]);
        token.delegate(people[whom % 4]);
    }
}

contract TokenInvariants is RiosTest {
    TokenHandler private handler;

    function setUp() public override {
        handler = new TokenHandler();
        token = handler.money();
    }

    function targetContracts() external view returns (address[] memory) {
        return _one(address(handler));
    }

    function invariant_supply_and_votes() external view {
        uint256 sum = 0;
        for (uint256 i = 0; i < 4; ++i) {
            sum += token.balanceOf(handler.people(i));
            uint256 votes = 0;
            for (uint256 j = 0; j < 4; ++j) {
                if (token.delegates(handler.people(j)) == handler.people(i)) {
                    votes += token.balanceOf(handler.people(j));
                }
            }
            vm.assertEq(token.getVotes(handler.people(i)), votes, "votes");
        }
        vm.assertEq(token.totalSupply(), sum, "the sum of balances");
        vm.assertLe(sum, CAP, "the cap");
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {RiosStaking} from "../../src/RiosStaking.sol";
import {RiosTest} from "./RiosTest.sol";

/// @title A staking contract with its roles given out
abstract contract StakingTest is RiosTest {
    uint48 internal constant DELAY = 7 days;
    bytes32 internal constant EVIDENCE = keccak256("two answers to one question");
    string internal constant URI = "ipfs://evidence";

    address internal immutable slasher = _person("slasher");
    address internal immutable treasury = _person("treasury");

    RiosStaking internal staking;

    function setUp() public virtual override {
        super.setUp();
        staking = new RiosStaking(IERC20(address(token)), admin, ADMIN_DELAY, DELAY, treasury);
        _grant(address(staking), staking.SLASHER_ROLE(), slasher);
    }

    function _stake(address account, uint256 amount) internal {
        token.mint(account, amount);
        vm.startPrank(account);
        token.approve(address(staking), amount);
        staking.stake(amount);
        vm.stopPrank();
    }

    function _unstake(address account, uint256 amount) internal {
        vm.prank(account);
        staking.requestUnstake(amount);
    }

    function _slash(address account, uint256 amount) internal {
        vm.prank(slasher);
        staking.slash(account, amount, EVIDENCE, URI);
    }
}

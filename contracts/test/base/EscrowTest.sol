// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {RiosEscrow} from "../../src/RiosEscrow.sol";
import {RiosTest} from "./RiosTest.sol";

/// @title An escrow with its roles given out
abstract contract EscrowTest is RiosTest {
    uint48 internal constant DELAY = 1 days;

    address internal immutable charger = _person("charger");
    address internal immutable payee = _person("settlement");

    RiosEscrow internal escrow;

    function setUp() public virtual override {
        super.setUp();
        escrow = new RiosEscrow(IERC20(address(token)), admin, ADMIN_DELAY, DELAY);
        _grant(address(escrow), escrow.CHARGER_ROLE(), charger);
        _grant(address(escrow), escrow.PAUSER_ROLE(), pauser);
        vm.prank(admin);
        escrow.setSettlement(payee);
    }

    function _deposit(address user, uint256 amount) internal {
        token.mint(user, amount);
        vm.startPrank(user);
        token.approve(address(escrow), amount);
        escrow.deposit(amount);
        vm.stopPrank();
    }

    function _request(address user, uint256 amount) internal {
        vm.prank(user);
        escrow.requestWithdrawal(amount);
    }

    function _charge(bytes32 batchId, address user, uint256 amount) internal {
        vm.prank(charger);
        escrow.charge(batchId, 1, _one(user), _one(amount));
    }

    function _pause() internal {
        vm.prank(pauser);
        escrow.pause();
    }
}

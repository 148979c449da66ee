// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {RiosSettlement} from "../../src/RiosSettlement.sol";
import {RiosTest} from "./RiosTest.sol";
import {Trees} from "./Trees.sol";

/// @title A settlement contract with its roles given out
abstract contract SettlementTest is RiosTest {
    uint48 internal constant WINDOW = 1 hours;
    bytes32 internal constant LEDGER = keccak256("head of the ledger");

    address internal immutable poster = _person("poster");
    address internal immutable challenger = _person("challenger");

    RiosSettlement internal settlement;

    function setUp() public virtual override {
        super.setUp();
        settlement = _deploy(WINDOW);
    }

    function _deploy(uint48 window) internal returns (RiosSettlement made) {
        made = new RiosSettlement(IERC20(address(token)), admin, ADMIN_DELAY, window);
        _grant(address(made), made.POSTER_ROLE(), poster);
        _grant(address(made), made.CHALLENGER_ROLE(), challenger);
        _grant(address(made), made.PAUSER_ROLE(), pauser);
    }

    function _post(uint256 epoch, bytes32 root, uint256 total) internal {
        vm.prank(poster);
        settlement.post(epoch, root, total, LEDGER);
    }

    /// @dev Posts a root and waits until it is final.
    function _postFinal(uint256 epoch, bytes32 root, uint256 total) internal {
        _post(epoch, root, total);
        _pass(WINDOW);
    }

    /// @dev Pays in what is new, posts the tree of these earnings and waits until it is final.
    function _settle(uint256 epoch, address[] memory accounts, uint256[] memory sums)
        internal
        returns (bytes32[] memory nodes)
    {
        uint256 total = 0;
        bytes32[] memory leaves = new bytes32[](accounts.length);
        for (uint256 i = 0; i < accounts.length; ++i) {
            leaves[i] = Trees.leaf(accounts[i], sums[i]);
            total += sums[i];
        }
        uint256 funded = settlement.totalClaimed() + token.balanceOf(address(settlement));
        if (total > funded) token.mint(address(settlement), total - funded);
        nodes = Trees.build(leaves);
        _postFinal(epoch, nodes[0], total);
    }

    function _all(uint256 count) internal pure returns (bool[] memory chosen) {
        chosen = new bool[](count);
        for (uint256 i = 0; i < count; ++i) {
            chosen[i] = true;
        }
    }
}

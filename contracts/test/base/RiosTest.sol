// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IAccessControl} from "@openzeppelin/contracts/access/IAccessControl.sol";
import {RosToken} from "../../src/RosToken.sol";
import {Vm} from "./Vm.sol";

/// @title A token, named people, and small helps
abstract contract RiosTest {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint256 internal constant ROS = 1e18;
    uint256 internal constant CAP = 1e9 * ROS;
    uint48 internal constant ADMIN_DELAY = 2 days;
    uint256 internal constant START = 1_800_000_000;

    address internal immutable admin = _person("admin");
    address internal immutable pauser = _person("pauser");
    address internal immutable alice = _person("alice");
    address internal immutable bob = _person("bob");
    address internal immutable carol = _person("carol");
    address internal immutable mallory = _person("mallory");

    RosToken internal token;

    function setUp() public virtual {
        vm.warp(START);
        token = new RosToken(admin, ADMIN_DELAY, CAP);
        _grant(address(token), token.MINTER_ROLE(), address(this));
    }

    function money() external view returns (RosToken) {
        return token;
    }

    function _person(string memory name) internal returns (address person) {
        person = address(uint160(uint256(keccak256(bytes(name)))));
        vm.label(person, name);
    }

    function _grant(address target, bytes32 role, address account) internal {
        vm.prank(admin);
        IAccessControl(target).grantRole(role, account);
    }

    /// @dev The refusal of a caller who lacks a role.
    function _expectMissing(address account, bytes32 role) internal {
        vm.expectRevert(abi.encodeWithSelector(IAccessControl.AccessControlUnauthorizedAccount.selector, account, role));
    }

    function _between(uint256 value, uint256 lowest, uint256 highest) internal pure returns (uint256) {
        return lowest + value % (highest - lowest + 1);
    }

    function _pass(uint256 duration) internal {
        vm.warp(block.timestamp + duration);
    }

    function _one(address account) internal pure returns (address[] memory accounts) {
        accounts = new address[](1);
        accounts[0] = account;
    }

    function _one(uint256 amount) internal pure returns (uint256[] memory amounts) {
        amounts = new uint256[](1);
        amounts[0] = amount;
    }

    function _two(address first, address second) internal pure returns (address[] memory accounts) {
        accounts = new address[](2);
        (accounts[0], accounts[1]) = (first, second);
    }

    function _two(uint256 first, uint256 second) internal pure returns (uint256[] memory amounts) {
        amounts = new uint256[](2);
        (amounts[0], amounts[1]) = (first, second);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {IRiosPausable} from "./interfaces/IRiosPausable.sol";

/// @title Roles under an admin that changes in two steps, and a pause
/// @dev Pausable comes last: the first state variables of a heir share the slot of its flag.
abstract contract RiosPausable is IRiosPausable, AccessControlDefaultAdminRules, Pausable {
    /// @inheritdoc IRiosPausable
    bytes32 public constant PAUSER_ROLE = keccak256("PAUSER_ROLE");

    /// @inheritdoc IRiosPausable
    function pause() external onlyRole(PAUSER_ROLE) {
        _pause();
    }

    /// @inheritdoc IRiosPausable
    function unpause() external onlyRole(PAUSER_ROLE) {
        _unpause();
    }
}

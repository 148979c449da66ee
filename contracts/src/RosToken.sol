// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {IRosToken} from "./interfaces/IRosToken.sol";

/// @title ROS
contract RosToken is IRosToken, ERC20Permit, ERC20Votes, AccessControlDefaultAdminRules {
    /// @inheritdoc IRosToken
    bytes32 public constant MINTER_ROLE = keccak256("MINTER_ROLE");

    /// @inheritdoc IRosToken
    uint256 public immutable cap;

    /// @param admin The first admin; it changes in two steps, with a delay.
    /// @param adminDelay Seconds between these steps.
    /// @param cap_ The supply that is never exceeded, in wei.
    constructor(address admin, uint48 adminDelay, uint256 cap_)
        ERC20("ROS", "ROS")
        ERC20Permit("ROS")
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        uint256 highest = super._maxSupply();
        if (cap_ > highest) revert CapTooHigh(cap_, highest);
        cap = cap_;
    }

    /// @inheritdoc IRosToken
    function mint(address to, uint256 amount) external onlyRole(MINTER_ROLE) {
        _mint(to, amount);
    }

    /// @notice The next nonce of `owner`, shared by permits and votes by signature.
    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }

    /// @dev ERC20Votes checks each mint against this, so the cap costs a transfer nothing.
    function _maxSupply() internal view override returns (uint256) {
        return cap;
    }
}

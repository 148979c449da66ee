// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title The token in which a network of rios is paid
/// @notice ERC-20 with permit (ERC-2612), votes (ERC-5805, clock: block number) and a supply that never exceeds its cap.
interface IRosToken is IERC20 {
    /// @notice Votes are counted in 208 bits: a supply above that could not vote.
    /// @param cap The cap that was asked for.
    /// @param highest The highest cap possible.
    error CapTooHigh(uint256 cap, uint256 highest);

    /// @notice The role that may mint.
    function MINTER_ROLE() external view returns (bytes32);

    /// @notice The supply that is never exceeded, in wei. A mint beyond it reverts with ERC20ExceededSafeSupply.
    function cap() external view returns (uint256);

    /// @notice Makes new tokens, up to the cap. Only for MINTER_ROLE.
    /// @param to Who receives them.
    /// @param amount How many, in wei.
    function mint(address to, uint256 amount) external;
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title What may be stopped, and by whom
/// @notice A pause stops what brings money in or moves it about. What gives money out to its owner never asks for it.
interface IRiosPausable {
    /// @notice The role that may pause and lift the pause.
    function PAUSER_ROLE() external view returns (bytes32);

    /// @notice Stops the functions that say so. Only for PAUSER_ROLE.
    function pause() external;

    /// @notice Lets them go on. Only for PAUSER_ROLE.
    function unpause() external;
}

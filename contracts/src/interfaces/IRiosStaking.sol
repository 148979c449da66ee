// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title What workers stand behind their work with
/// @notice A stake leaves after an unbonding delay, and can be slashed until it has left.
/// @dev The token must move exactly the amount it is told to: no fee on transfer, no rebasing.
/// Always: token.balanceOf(this) >= totalStaked() == the sum of what accounts have bonded and unbonding.
interface IRiosStaking {
    /// @notice `account` bonded `amount` more, `bonded` in all.
    event Staked(address indexed account, uint256 amount, uint256 bonded);
    /// @notice `amount` began to leave: `unbonding` in all, from `availableAt` (seconds since 1970) on.
    event UnstakeRequested(address indexed account, uint256 amount, uint256 unbonding, uint256 availableAt);
    /// @notice `amount` went back to `account`.
    event Withdrawn(address indexed account, uint256 amount);
    /// @notice `account` lost `fromBonded` + `fromUnbonding` for what the evidence shows.
    /// @param evidenceHash keccak256 of the evidence.
    /// @param evidenceUri Where the evidence is.
    event Slashed(
        address indexed account,
        bytes32 indexed evidenceHash,
        uint256 fromBonded,
        uint256 fromUnbonding,
        string evidenceUri
    );

    /// @notice No contract or person lives at the zero address.
    error ZeroAddress();
    /// @notice Nothing was to be moved.
    error ZeroAmount();
    /// @notice `account` has `bonded` and would need `needed`.
    error InsufficientStake(address account, uint256 bonded, uint256 needed);
    /// @notice Nothing of `account` is leaving.
    error NothingUnbonding(address account);
    /// @notice What is leaving may do so from `availableAt` on.
    error UnbondingNotDue(address account, uint256 availableAt);
    /// @notice `account` has nothing that could be slashed.
    error NothingAtStake(address account);
    /// @notice A slash needs the hash of its evidence.
    error NoEvidence();

    /// @notice The role that may slash.
    function SLASHER_ROLE() external view returns (bytes32);

    /// @notice The token that is staked.
    function token() external view returns (IERC20);

    /// @notice Seconds between a request and the withdrawal.
    function unbondingDelay() external view returns (uint48);

    /// @notice Where slashed stakes go.
    function slashedTo() external view returns (address);

    /// @notice What `account` has bonded, in wei, without what is leaving.
    function stakeOf(address account) external view returns (uint256);

    /// @notice What of `account` is leaving, in wei, and from when on it may (0 without a request).
    function unbondingOf(address account) external view returns (uint208 amount, uint48 availableAt);

    /// @notice What all accounts have here together, in wei, leaving or not.
    function totalStaked() external view returns (uint256);

    /// @notice Bonds `amount`; this contract needs an allowance.
    function stake(uint256 amount) external;

    /// @notice Lets `amount` begin to leave. Adds to an earlier request, and the delay starts again for all of it.
    function requestUnstake(uint256 amount) external;

    /// @notice Pays out what has waited long enough.
    function withdraw() external;

    /// @notice Takes up to `amount` from `account`, first of what is leaving, then of what is bonded. Only for SLASHER_ROLE.
    /// @dev Takes what there is where that is less, so that a withdrawal that comes first cannot make the rest escape.
    function slash(address account, uint256 amount, bytes32 evidenceHash, string calldata evidenceUri) external;
}

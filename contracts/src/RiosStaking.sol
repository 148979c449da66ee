// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IRiosStaking} from "./interfaces/IRiosStaking.sol";

/// @title RiosStaking
contract RiosStaking is IRiosStaking, AccessControlDefaultAdminRules, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    struct Unbonding {
        uint208 amount;
        uint48 availableAt;
    }

    /// @inheritdoc IRiosStaking
    bytes32 public constant SLASHER_ROLE = keccak256("SLASHER_ROLE");

    /// @inheritdoc IRiosStaking
    IERC20 public immutable token;
    /// @inheritdoc IRiosStaking
    uint48 public immutable unbondingDelay;
    /// @inheritdoc IRiosStaking
    address public immutable slashedTo;

    /// @inheritdoc IRiosStaking
    uint256 public totalStaked;
    /// @inheritdoc IRiosStaking
    mapping(address account => uint256) public stakeOf;
    /// @inheritdoc IRiosStaking
    mapping(address account => Unbonding) public unbondingOf;

    /// @param token_ The token that is staked.
    /// @param admin The first admin; it changes in two steps, with a delay.
    /// @param adminDelay Seconds between these steps.
    /// @param unbondingDelay_ Seconds between a request and the withdrawal.
    /// @param slashedTo_ Where slashed stakes go.
    constructor(IERC20 token_, address admin, uint48 adminDelay, uint48 unbondingDelay_, address slashedTo_)
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        if (address(token_) == address(0) || slashedTo_ == address(0)) revert ZeroAddress();
        token = token_;
        unbondingDelay = unbondingDelay_;
        slashedTo = slashedTo_;
    }

    /// @inheritdoc IRiosStaking
    function stake(uint256 amount) external nonReentrant {
        // Checks
        if (amount == 0) revert ZeroAmount();
        // Effects
        uint256 bonded = stakeOf[msg.sender] + amount;
        stakeOf[msg.sender] = bonded;
        totalStaked += amount;
        emit Staked(msg.sender, amount, bonded);
        // Interactions
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @inheritdoc IRiosStaking
    function requestUnstake(uint256 amount) external {
        // Checks
        if (amount == 0) revert ZeroAmount();
        uint256 bonded = stakeOf[msg.sender];
        if (amount > bonded) revert InsufficientStake(msg.sender, bonded, amount);
        // Effects
        uint256 unbonding = unbondingOf[msg.sender].amount + amount;
        uint256 availableAt = block.timestamp + unbondingDelay;
        stakeOf[msg.sender] = bonded - amount;
        unbondingOf[msg.sender] = Unbonding(unbonding.toUint208(), availableAt.toUint48());
        emit UnstakeRequested(msg.sender, amount, unbonding, availableAt);
    }

    /// @inheritdoc IRiosStaking
    function withdraw() external nonReentrant {
        // Checks
        Unbonding memory leaving = unbondingOf[msg.sender];
        if (leaving.amount == 0) revert NothingUnbonding(msg.sender);
        if (block.timestamp < leaving.availableAt) revert UnbondingNotDue(msg.sender, leaving.availableAt);
        // Effects
        delete unbondingOf[msg.sender];
        totalStaked -= leaving.amount;
        emit Withdrawn(msg.sender, leaving.amount);
        // Interactions
        token.safeTransfer(msg.sender, leaving.amount);
    }

    /// @inheritdoc IRiosStaking
    function slash(address account, uint256 amount, bytes32 evidenceHash, string calldata evidenceUri)
        external
        onlyRole(SLASHER_ROLE)
        nonReentrant
    {
        // Checks
        if (evidenceHash == 0) revert NoEvidence();
        if (amount == 0) revert ZeroAmount();
        uint256 bonded = stakeOf[account];
        uint256 unbonding = unbondingOf[account].amount;
        if (bonded + unbonding == 0) revert NothingAtStake(account);
        // Effects
        uint256 fromUnbonding = Math.min(amount, unbonding);
        uint256 fromBonded = Math.min(amount - fromUnbonding, bonded);
        unbondingOf[account].amount = (unbonding - fromUnbonding).toUint208();
        stakeOf[account] = bonded - fromBonded;
        totalStaked -= fromUnbonding + fromBonded;
        emit Slashed(account, evidenceHash, fromBonded, fromUnbonding, evidenceUri);
        // Interactions
        token.safeTransfer(slashedTo, fromUnbonding + fromBonded);
    }
}

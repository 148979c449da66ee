// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IRiosPausable} from "./IRiosPausable.sol";

/// @title Deposits of those who use a network
/// @notice A deposit can be spent at once and taken back after a delay. The delay is what a hold relies on: whatever was
/// held off-chain before a request can be charged before the money may leave.
/// @dev The token must move exactly the amount it is told to: no fee on transfer, no rebasing.
/// Always: token.balanceOf(this) >= totalBalance() == the sum of balanceOf(user), and no request exceeds its balance.
interface IRiosEscrow is IRiosPausable {
    /// @notice `payer` paid `amount` in for `user`.
    event Deposited(address indexed user, address indexed payer, uint256 amount);
    /// @notice `user` asked for `amount` more: `total` may leave from `availableAt` (seconds since 1970) on.
    event WithdrawalRequested(address indexed user, uint256 amount, uint256 total, uint256 availableAt);
    /// @notice `user` took a request of `amount` back.
    event WithdrawalCancelled(address indexed user, uint256 amount);
    /// @notice A charge left less than was requested: the request of `user` fell by `amount` to `total`.
    event WithdrawalReduced(address indexed user, uint256 amount, uint256 total);
    /// @notice `amount` went back to `user`.
    event Withdrawn(address indexed user, uint256 amount);
    /// @notice `user` paid `amount` for work of `epoch`; it went to the settlement contract.
    event Charged(bytes32 indexed batchId, uint256 indexed epoch, address indexed user, uint256 amount);
    /// @notice `user` got `amount` back as a refund.
    event Credited(bytes32 indexed batchId, address indexed user, uint256 amount);
    /// @notice Charges go to `current` from now on.
    event SettlementSet(address indexed previous, address indexed current);

    /// @notice No contract or person lives at the zero address.
    error ZeroAddress();
    /// @notice Nothing was to be moved.
    error ZeroAmount();
    /// @notice `user` has `balance` and would need `needed`.
    error InsufficientBalance(address user, uint256 balance, uint256 needed);
    /// @notice `user` has asked for nothing.
    error NoWithdrawal(address user);
    /// @notice The request of `user` may leave from `availableAt` on.
    error WithdrawalNotDue(address user, uint256 availableAt);
    /// @notice The batch was done before, as a charge or a credit.
    error BatchUsed(bytes32 batchId);
    /// @notice Each user needs one amount.
    error LengthMismatch(uint256 users, uint256 amounts);
    /// @notice Nobody has said yet where charges go: call setSettlement.
    error SettlementNotSet();

    /// @notice The role that may charge and credit.
    function CHARGER_ROLE() external view returns (bytes32);

    /// @notice The token that is held here.
    function token() external view returns (IERC20);

    /// @notice Seconds between a request and the withdrawal.
    function withdrawalDelay() external view returns (uint48);

    /// @notice Where charges go.
    function settlement() external view returns (address);

    /// @notice What `user` has here, in wei, requested or not.
    function balanceOf(address user) external view returns (uint256);

    /// @notice What all users have here together, in wei.
    function totalBalance() external view returns (uint256);

    /// @notice Whether a batch has been done.
    function batchUsed(bytes32 batchId) external view returns (bool);

    /// @notice What `user` has asked for.
    /// @return amount In wei, never more than the balance; 0 without a request.
    /// @return availableAt Seconds since 1970 from which it may leave; 0 without a request.
    function pendingWithdrawal(address user) external view returns (uint208 amount, uint48 availableAt);

    /// @notice Pays in for oneself; the escrow needs an allowance. Not while paused.
    function deposit(uint256 amount) external;

    /// @notice Pays in for `user`. Not while paused.
    function depositFor(address user, uint256 amount) external;

    /// @notice Pays in for oneself with a signed permit (ERC-2612) in place of an earlier approval. Not while paused.
    /// @dev A permit that somebody else has already handed in does no harm: the allowance it gave is used.
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Asks for `amount` more to leave. Adds to an earlier request, and the delay starts again for all of it.
    function requestWithdrawal(uint256 amount) external;

    /// @notice Takes the request back.
    function cancelWithdrawal() external;

    /// @notice Pays the request out, once its delay is over. No pause stops this.
    function withdraw() external;

    /// @notice Debits users for their work and sends the sum to the settlement contract, all or nothing. Reaches what is
    /// requested for withdrawal as well. Only for CHARGER_ROLE, not while paused.
    /// @param batchId Names the batch; it can be done once.
    /// @param epoch The epoch whose work is paid.
    /// @param users Who pays.
    /// @param amounts What each pays, in wei.
    function charge(bytes32 batchId, uint256 epoch, address[] calldata users, uint256[] calldata amounts) external;

    /// @notice Credits refunds to users and takes the sum from the caller, who must have allowed it. Only for CHARGER_ROLE.
    /// @param batchId Names the batch; it can be done once.
    /// @param users Who receives.
    /// @param amounts What each receives, in wei.
    function credit(bytes32 batchId, address[] calldata users, uint256[] calldata amounts) external;

    /// @notice Says where charges go. Only for DEFAULT_ADMIN_ROLE.
    function setSettlement(address settlement_) external;
}

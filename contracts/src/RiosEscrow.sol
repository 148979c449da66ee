// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IRiosEscrow} from "./interfaces/IRiosEscrow.sol";
import {RiosPausable} from "./RiosPausable.sol";

/// @title RiosEscrow
contract RiosEscrow is IRiosEscrow, RiosPausable, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    struct Withdrawal {
        uint208 amount;
        uint48 availableAt;
    }

    /// @inheritdoc IRiosEscrow
    bytes32 public constant CHARGER_ROLE = keccak256("CHARGER_ROLE");

    /// @inheritdoc IRiosEscrow
    IERC20 public immutable token;
    /// @inheritdoc IRiosEscrow
    uint48 public immutable withdrawalDelay;

    /// @inheritdoc IRiosEscrow
    address public settlement;
    /// @inheritdoc IRiosEscrow
    uint256 public totalBalance;
    /// @inheritdoc IRiosEscrow
    mapping(address user => uint256) public balanceOf;
    /// @inheritdoc IRiosEscrow
    mapping(address user => Withdrawal) public pendingWithdrawal;
    /// @inheritdoc IRiosEscrow
    mapping(bytes32 batchId => bool) public batchUsed;

    /// @param token_ The token that is held here.
    /// @param admin The first admin; it changes in two steps, with a delay.
    /// @param adminDelay Seconds between these steps.
    /// @param withdrawalDelay_ Seconds between a request and the withdrawal.
    constructor(IERC20 token_, address admin, uint48 adminDelay, uint48 withdrawalDelay_)
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        if (address(token_) == address(0)) revert ZeroAddress();
        token = token_;
        withdrawalDelay = withdrawalDelay_;
    }

    /// @inheritdoc IRiosEscrow
    function deposit(uint256 amount) external {
        _deposit(msg.sender, amount);
    }

    /// @inheritdoc IRiosEscrow
    function depositFor(address user, uint256 amount) external {
        if (user == address(0)) revert ZeroAddress();
        _deposit(user, amount);
    }

    /// @inheritdoc IRiosEscrow
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external {
        // Whoever sees the permit can hand it in first. The allowance is there then, and the transfer decides.
        try IERC20Permit(address(token)).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _deposit(msg.sender, amount);
    }

    /// @inheritdoc IRiosEscrow
    function requestWithdrawal(uint256 amount) external {
        // Checks
        if (amount == 0) revert ZeroAmount();
        uint256 balance = balanceOf[msg.sender];
        uint256 total = pendingWithdrawal[msg.sender].amount + amount;
        if (total > balance) revert InsufficientBalance(msg.sender, balance, total);
        // Effects
        uint256 availableAt = block.timestamp + withdrawalDelay;
        pendingWithdrawal[msg.sender] = Withdrawal(total.toUint208(), availableAt.toUint48());
        emit WithdrawalRequested(msg.sender, amount, total, availableAt);
    }

    /// @inheritdoc IRiosEscrow
    function cancelWithdrawal() external {
        // Checks
        uint256 amount = pendingWithdrawal[msg.sender].amount;
        bool requested = amount > 0;
        if (!requested) revert NoWithdrawal(msg.sender);
        // Effects
        delete pendingWithdrawal[msg.sender];
        emit WithdrawalCancelled(msg.sender, amount);
    }

    /// @inheritdoc IRiosEscrow
    function withdraw() external nonReentrant {
        // Checks
        Withdrawal memory pending = pendingWithdrawal[msg.sender];
        if (pending.amount == 0) revert NoWithdrawal(msg.sender);
        if (block.timestamp < pending.availableAt) revert WithdrawalNotDue(msg.sender, pending.availableAt);
        // Effects
        delete pendingWithdrawal[msg.sender];
        balanceOf[msg.sender] -= pending.amount;
        totalBalance -= pending.amount;
        emit Withdrawn(msg.sender, pending.amount);
        // Interactions
        token.safeTransfer(msg.sender, pending.amount);
    }

    /// @inheritdoc IRiosEscrow
    function charge(bytes32 batchId, uint256 epoch, address[] calldata users, uint256[] calldata amounts)
        external
        onlyRole(CHARGER_ROLE)
        whenNotPaused
        nonReentrant
    {
        // Checks
        address to = settlement;
        if (to == address(0)) revert SettlementNotSet();
        _useBatch(batchId, users.length, amounts.length);
        // Effects
        uint256 sum = 0;
        for (uint256 i = 0; i < users.length; ++i) {
            _debit(users[i], amounts[i]);
            sum += amounts[i];
            emit Charged(batchId, epoch, users[i], amounts[i]);
        }
        totalBalance -= sum;
        // Interactions
        token.safeTransfer(to, sum);
    }

    /// @inheritdoc IRiosEscrow
    function credit(bytes32 batchId, address[] calldata users, uint256[] calldata amounts)
        external
        onlyRole(CHARGER_ROLE)
        nonReentrant
    {
        // Checks
        _useBatch(batchId, users.length, amounts.length);
        // Effects
        uint256 sum = 0;
        for (uint256 i = 0; i < users.length; ++i) {
            balanceOf[users[i]] += amounts[i];
            sum += amounts[i];
            emit Credited(batchId, users[i], amounts[i]);
        }
        totalBalance += sum;
        // Interactions
        token.safeTransferFrom(msg.sender, address(this), sum);
    }

    /// @inheritdoc IRiosEscrow
    function setSettlement(address settlement_) external onlyRole(DEFAULT_ADMIN_ROLE) {
        if (settlement_ == address(0)) revert ZeroAddress();
        emit SettlementSet(settlement, settlement_);
        settlement = settlement_;
    }

    function _deposit(address user, uint256 amount) private whenNotPaused nonReentrant {
        // Checks
        if (amount == 0) revert ZeroAmount();
        // Effects
        balanceOf[user] += amount;
        totalBalance += amount;
        emit Deposited(user, msg.sender, amount);
        // Interactions
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    function _useBatch(bytes32 batchId, uint256 users, uint256 amounts) private {
        if (users != amounts) revert LengthMismatch(users, amounts);
        if (batchUsed[batchId]) revert BatchUsed(batchId);
        batchUsed[batchId] = true;
    }

    /// @dev A request never exceeds the balance. Without this a deposit made after a charge could leave at once, on the
    /// old request, and outrun the holds on it.
    function _debit(address user, uint256 amount) private {
        uint256 balance = balanceOf[user];
        if (amount > balance) revert InsufficientBalance(user, balance, amount);
        balance -= amount;
        balanceOf[user] = balance;
        Withdrawal storage pending = pendingWithdrawal[user];
        uint256 requested = pending.amount;
        if (requested <= balance) return;
        if (balance == 0) delete pendingWithdrawal[user];
        else pending.amount = balance.toUint208();
        emit WithdrawalReduced(user, requested - balance, balance);
    }
}

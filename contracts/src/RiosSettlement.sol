// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IRiosSettlement} from "./interfaces/IRiosSettlement.sol";
import {RiosPausable} from "./RiosPausable.sol";

/// @title RiosSettlement
contract RiosSettlement is IRiosSettlement, RiosPausable, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    struct Root {
        bytes32 root;
        bytes32 ledgerHash;
        uint128 total;
        uint64 epoch;
        uint64 activeAt;
    }

    /// @inheritdoc IRiosSettlement
    bytes32 public constant POSTER_ROLE = keccak256("POSTER_ROLE");
    /// @inheritdoc IRiosSettlement
    bytes32 public constant CHALLENGER_ROLE = keccak256("CHALLENGER_ROLE");

    /// @inheritdoc IRiosSettlement
    IERC20 public immutable token;
    /// @inheritdoc IRiosSettlement
    uint48 public immutable challengeWindow;

    /// @dev In the slot of the pause's flag, which a post reads as well.
    uint128 private _totalClaimed;
    /// @dev Epoch n lies in n % 2. All but the latest are final, for a post waits for that: two are enough, and a post
    /// overwrites slots that are in use already, which keeps it below 55 k gas.
    Root[2] private _roots;
    /// @inheritdoc IRiosSettlement
    mapping(address account => uint256) public claimed;

    /// @param token_ The token that is paid.
    /// @param admin The first admin; it changes in two steps, with a delay.
    /// @param adminDelay Seconds between these steps.
    /// @param challengeWindow_ Seconds between a root and its being final; 0 for at once.
    constructor(IERC20 token_, address admin, uint48 adminDelay, uint48 challengeWindow_)
        AccessControlDefaultAdminRules(adminDelay, admin)
    {
        if (address(token_) == address(0)) revert ZeroAddress();
        token = token_;
        challengeWindow = challengeWindow_;
    }

    /// @inheritdoc IRiosSettlement
    function post(uint256 epoch, bytes32 root, uint256 total, bytes32 ledgerHash)
        external
        onlyRole(POSTER_ROLE)
        whenNotPaused
    {
        // Checks
        Root storage last = _latest();
        uint256 expected = uint256(last.epoch) + 1;
        if (epoch != expected) revert WrongEpoch(epoch, expected);
        if (block.timestamp < last.activeAt) revert RootPending(last.epoch, last.activeAt);
        if (total < last.total) revert TotalFell(total, last.total);
        uint256 funded = _totalClaimed + token.balanceOf(address(this));
        if (total > funded) revert UnderFunded(total, funded);
        // Effects
        uint256 activeAt = block.timestamp + challengeWindow;
        _roots[epoch % 2] = Root(root, ledgerHash, total.toUint128(), epoch.toUint64(), activeAt.toUint64());
        emit RootPosted(epoch, root, total, ledgerHash, activeAt);
    }

    /// @inheritdoc IRiosSettlement
    function challenge(uint256 epoch, bytes calldata evidence) external onlyRole(CHALLENGER_ROLE) {
        // Checks
        Root storage last = _latest();
        if (epoch != last.epoch || block.timestamp >= last.activeAt) revert RootNotPending(epoch);
        // Effects
        delete _roots[epoch % 2];
        emit RootChallenged(epoch, msg.sender, evidence);
    }

    /// @inheritdoc IRiosSettlement
    function claim(address account, uint256 cumulative, bytes32[] calldata proof) external nonReentrant {
        // Checks
        Root storage final_ = _current();
        if (!MerkleProof.verifyCalldata(proof, final_.root, _leaf(account, cumulative))) revert InvalidProof();
        // Effects
        uint256 due = _settle(account, cumulative, final_.epoch);
        if (due == 0) revert NothingToClaim(account);
        _book(due, final_.total);
        // Interactions
        token.safeTransfer(account, due);
    }

    /// @inheritdoc IRiosSettlement
    function claimMany(
        address[] calldata accounts,
        uint256[] calldata cumulatives,
        bytes32[] calldata proof,
        bool[] calldata flags
    ) external nonReentrant {
        // Checks
        uint256 count = accounts.length;
        if (count != cumulatives.length) revert LengthMismatch(count, cumulatives.length);
        Root storage final_ = _current();
        bytes32[] memory leaves = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            leaves[i] = _leaf(accounts[i], cumulatives[i]);
        }
        if (!MerkleProof.multiProofVerifyCalldata(proof, flags, final_.root, leaves)) revert InvalidProof();
        // Effects
        uint256 epoch = final_.epoch;
        uint256 sum = 0;
        uint256[] memory due = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            due[i] = _settle(accounts[i], cumulatives[i], epoch);
            sum += due[i];
        }
        _book(sum, final_.total);
        // Interactions
        for (uint256 i = 0; i < count; ++i) {
            if (due[i] != 0) token.safeTransfer(accounts[i], due[i]);
        }
    }

    /// @inheritdoc IRiosSettlement
    function totalClaimed() external view returns (uint256) {
        return _totalClaimed;
    }

    /// @inheritdoc IRiosSettlement
    function latestEpoch() external view returns (uint256) {
        return _latest().epoch;
    }

    /// @inheritdoc IRiosSettlement
    function rootOf(uint256 epoch)
        external
        view
        returns (uint256 epoch_, bytes32 root, uint256 total, bytes32 ledgerHash, uint256 activeAt)
    {
        Root memory found = _roots[epoch % 2];
        if (epoch == 0 || found.epoch != epoch) revert UnknownEpoch(epoch);
        return (found.epoch, found.root, found.total, found.ledgerHash, found.activeAt);
    }

    /// @inheritdoc IRiosSettlement
    function current()
        external
        view
        returns (uint256 epoch, bytes32 root, uint256 total, bytes32 ledgerHash, uint256 activeAt)
    {
        Root memory found = _current();
        return (found.epoch, found.root, found.total, found.ledgerHash, found.activeAt);
    }

    /// @dev What `account` is owed by its leaf, marked as paid. A root whose leaf is below what was paid owes nothing.
    function _settle(address account, uint256 cumulative, uint256 epoch) private returns (uint256 due) {
        uint256 before = claimed[account];
        if (cumulative <= before) return 0;
        due = cumulative - before;
        claimed[account] = cumulative;
        emit Claimed(account, due, cumulative, epoch);
    }

    /// @dev Leaves that promise more than the total of their root must not reach money that is not theirs.
    function _book(uint256 amount, uint256 total) private {
        uint256 paid = _totalClaimed + amount;
        if (paid > total) revert TotalExceeded(paid, total);
        _totalClaimed = paid.toUint128();
    }

    /// @dev The entry of a challenged epoch is empty, so the higher epoch is the latest that stands.
    function _latest() private view returns (Root storage) {
        return _roots[_roots[0].epoch > _roots[1].epoch ? 0 : 1];
    }

    function _current() private view returns (Root storage last) {
        last = _latest();
        if (block.timestamp < last.activeAt) last = _roots[(last.epoch + 1) % 2];
    }

    function _leaf(address account, uint256 cumulative) private pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
    }
}

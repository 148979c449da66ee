// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    AccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/AccessControlDefaultAdminRules.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SlotDerivation} from "@openzeppelin/contracts/utils/SlotDerivation.sol";
import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {IRiosSettlement} from "./interfaces/IRiosSettlement.sol";
import {RiosPausable} from "./RiosPausable.sol";

/// @title RiosSettlement
/// @dev No reentrancy guard: claims do all their effects before the first transfer, and a post moves nothing.
contract RiosSettlement is IRiosSettlement, RiosPausable {
    using SafeERC20 for IERC20;
    using SafeCast for uint256;

    struct Meta {
        uint96 total;
        uint24 epoch;
        uint32 activeAt;
    }

    /// @dev A struct, so that a claim works out the place of its slot once.
    struct Paid {
        uint256 cumulative;
    }

    struct Commitment {
        bytes32 root;
        bytes32 ledgerHash;
    }

    /// @inheritdoc IRiosSettlement
    bytes32 public constant POSTER_ROLE = keccak256("POSTER_ROLE");
    /// @inheritdoc IRiosSettlement
    bytes32 public constant CHALLENGER_ROLE = keccak256("CHALLENGER_ROLE");

    /// @inheritdoc IRiosSettlement
    IERC20 public immutable token;
    /// @inheritdoc IRiosSettlement
    uint48 public immutable challengeWindow;

    // These four share one slot with the flag of the pause: a claim has to write it anyway, and finds here whatever else it
    // needs but the root. 96 bits hold 79 billion ROS, 24 bits an epoch per minute for 31 years, 32 bits the year 2106.
    uint96 private _totalClaimed;
    /// @dev Of the latest root, pending or final.
    uint96 private _total;
    uint24 private _epoch;
    uint32 private _activeAt;
    /// @dev Of the root before; it is final, for a post waits for that.
    Meta private _before;
    /// @dev Those of epoch n are at n % 2: two are enough, and a post overwrites slots that are in use already.
    Commitment[2] private _hashes;
    /// @inheritdoc IRiosSettlement
    mapping(address account => Paid) public claimed;

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
        Meta memory last = Meta(_total, _epoch, _activeAt);
        uint256 expected = uint256(last.epoch) + 1;
        if (epoch != expected) revert WrongEpoch(epoch, expected);
        if (block.timestamp < last.activeAt) revert RootPending(last.epoch, last.activeAt);
        if (total < last.total) revert TotalFell(total, last.total);
        uint256 funded = _totalClaimed + token.balanceOf(address(this));
        if (total > funded) revert UnderFunded(total, funded);
        // Effects
        uint256 activeAt = block.timestamp + challengeWindow;
        Meta memory next = Meta(total.toUint96(), epoch.toUint24(), activeAt.toUint32());
        _before = last;
        (_total, _epoch, _activeAt) = (next.total, next.epoch, next.activeAt);
        Commitment storage hashes = _hashes[epoch & 1];
        hashes.root = root;
        hashes.ledgerHash = ledgerHash;
        emit RootPosted(epoch, root, total, ledgerHash, activeAt);
    }

    /// @inheritdoc IRiosSettlement
    function challenge(uint256 epoch, bytes calldata evidence) external onlyRole(CHALLENGER_ROLE) {
        // Checks
        if (epoch != _epoch || block.timestamp >= _activeAt) revert RootNotPending(epoch);
        // Effects
        Meta memory last = _before; // its hashes are still there, and those of the dropped root are out of reach
        (_total, _epoch, _activeAt) = (last.total, last.epoch, last.activeAt);
        emit RootChallenged(epoch, msg.sender, evidence);
    }

    /// @inheritdoc IRiosSettlement
    function claim(address account, uint256 cumulative, bytes32[] calldata proof) external {
        // Checks
        (uint256 epoch, uint256 unclaimed) = _final();
        bytes32 node = _leaf(account, cumulative);
        // MerkleProof.processProofCalldata, written out: 50 gas less a level, which keeps a claim of 1,000 below 65 k.
        for (uint256 i = 0; i < proof.length; ++i) {
            bytes32 sibling = proof[i];
            if (sibling < node) (node, sibling) = (sibling, node);
            node = Hashes.efficientKeccak256(node, sibling);
        }
        if (node != _hashes[epoch & 1].root) revert InvalidProof();
        // Effects
        uint256 due = _settle(account, cumulative, epoch);
        if (due == 0) revert NothingToClaim(account);
        _book(due, unclaimed);
        // Interactions
        token.safeTransfer(account, due);
    }

    /// @inheritdoc IRiosSettlement
    function claimMany(
        address[] calldata accounts,
        uint256[] calldata cumulatives,
        bytes32[] calldata proof,
        bool[] calldata flags
    ) external {
        // Checks
        if (accounts.length != cumulatives.length) revert LengthMismatch(accounts.length, cumulatives.length);
        bytes32 root = MerkleProof.processMultiProofCalldata(proof, flags, _leaves(accounts, cumulatives));
        (uint256 epoch, uint256 unclaimed) = _final();
        if (root != _hashes[epoch & 1].root) revert InvalidProof();
        // Effects
        uint256[] memory due = _settleMany(accounts, cumulatives, epoch, unclaimed);
        // Interactions
        for (uint256 i = 0; i < due.length; ++i) {
            if (due[i] != 0) token.safeTransfer(accounts[i], due[i]);
        }
    }

    /// @inheritdoc IRiosSettlement
    function totalClaimed() external view returns (uint256) {
        return _totalClaimed;
    }

    /// @inheritdoc IRiosSettlement
    function latestEpoch() external view returns (uint256) {
        return _epoch;
    }

    /// @inheritdoc IRiosSettlement
    function rootOf(uint256 epoch)
        external
        view
        returns (uint256 epoch_, bytes32 root, uint256 total, bytes32 ledgerHash, uint256 activeAt)
    {
        Meta memory found = Meta(_total, _epoch, _activeAt);
        if (epoch != found.epoch) found = _before;
        if (epoch == 0 || epoch != found.epoch) revert UnknownEpoch(epoch);
        return _describe(found);
    }

    /// @inheritdoc IRiosSettlement
    function current()
        external
        view
        returns (uint256 epoch, bytes32 root, uint256 total, bytes32 ledgerHash, uint256 activeAt)
    {
        return _describe(block.timestamp < _activeAt ? _before : Meta(_total, _epoch, _activeAt));
    }

    /// @dev What `account` is owed by its leaf, marked as paid. A root whose leaf is below what was paid owes nothing.
    function _settle(address account, uint256 cumulative, uint256 epoch) private returns (uint256 due) {
        Paid storage paid = claimed[account];
        uint256 before = paid.cumulative;
        if (cumulative <= before) return 0;
        unchecked {
            due = cumulative - before;
        }
        paid.cumulative = cumulative;
        emit Claimed(account, due, cumulative, epoch);
    }

    function _settleMany(address[] calldata accounts, uint256[] calldata cumulatives, uint256 epoch, uint256 unclaimed)
        private
        returns (uint256[] memory due)
    {
        uint256 sum = 0;
        due = new uint256[](accounts.length);
        for (uint256 i = 0; i < due.length; ++i) {
            due[i] = _settle(accounts[i], cumulatives[i], epoch);
            sum += due[i];
        }
        _book(sum, unclaimed);
    }

    /// @dev Leaves that promise more than the total of their root must not reach money that is not theirs.
    function _book(uint256 amount, uint256 unclaimed) private {
        if (amount > unclaimed) revert TotalExceeded(amount, unclaimed);
        unchecked {
            _totalClaimed += uint96(amount); // amount <= unclaimed <= total, which is 96 bits wide
        }
    }

    /// @dev What claims are paid by: the last final epoch, and what of its total has not been claimed.
    function _final() private view returns (uint256 epoch, uint256 unclaimed) {
        uint256 paid = _totalClaimed;
        uint256 total = _total;
        epoch = _epoch;
        if (block.timestamp < _activeAt) (epoch, total) = (_before.epoch, _before.total);
        unchecked {
            unclaimed = total - paid; // _book keeps paid <= total, and totals do not fall
        }
    }

    function _describe(Meta memory meta)
        private
        view
        returns (uint256 epoch, bytes32 root, uint256 total, bytes32 ledgerHash, uint256 activeAt)
    {
        Commitment memory hashes = _hashes[meta.epoch & 1];
        return (meta.epoch, hashes.root, meta.total, hashes.ledgerHash, meta.activeAt);
    }

    function _leaves(address[] calldata accounts, uint256[] calldata cumulatives)
        private
        pure
        returns (bytes32[] memory leaves)
    {
        leaves = new bytes32[](accounts.length);
        for (uint256 i = 0; i < leaves.length; ++i) {
            leaves[i] = _leaf(accounts[i], cumulatives[i]);
        }
    }

    function _leaf(address account, uint256 cumulative) private pure returns (bytes32) {
        bytes32 once = Hashes.efficientKeccak256(bytes32(uint256(uint160(account))), bytes32(cumulative));
        return SlotDerivation.deriveArray(once); // the keccak256 of one word, without memory for it
    }
}

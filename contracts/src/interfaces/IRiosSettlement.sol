// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IRiosPausable} from "./IRiosPausable.sol";

/// @title Pays workers what a Merkle root says they have earned
/// @notice Once per epoch a root over (account, cumulative earnings) is posted. A root is final when its challenge window
/// is over; claims are paid against the last final one. Sums are cumulative, so nobody has to claim each epoch.
/// @dev Leaves are those of OpenZeppelin's StandardMerkleTree of ["address", "uint256"]:
/// keccak256(bytes.concat(keccak256(abi.encode(account, cumulative)))).
/// The last two roots are in storage, all of them in the events. A root can be posted only when the one before is final
/// or was challenged, so the window should not be longer than an epoch.
/// Always: totalClaimed() == the sum of claimed(account) <= current().total <= totalClaimed() + token.balanceOf(this).
interface IRiosSettlement is IRiosPausable {
    /// @notice A root was posted and is final from `activeAt` (seconds since 1970) on.
    event RootPosted(uint256 indexed epoch, bytes32 root, uint256 total, bytes32 ledgerHash, uint256 activeAt);
    /// @notice The pending root of `epoch` was dropped; the epoch may be posted again.
    event RootChallenged(uint256 indexed epoch, address indexed challenger, bytes evidence);
    /// @notice `account` was paid `amount` and has had `cumulative` by now, by the root of `epoch`.
    event Claimed(address indexed account, uint256 amount, uint256 cumulative, uint256 epoch);

    /// @notice No contract or person lives at the zero address.
    error ZeroAddress();
    /// @notice Epochs follow one another: `expected` is next.
    error WrongEpoch(uint256 epoch, uint256 expected);
    /// @notice The root of `epoch` can still be challenged; it is final from `activeAt` on.
    error RootPending(uint256 epoch, uint256 activeAt);
    /// @notice The root of `epoch` is not there, or final.
    error RootNotPending(uint256 epoch);
    /// @notice Cumulative sums never fall.
    error TotalFell(uint256 total, uint256 previous);
    /// @notice The root promises `total`; what was claimed and what is here make `funded`.
    error UnderFunded(uint256 total, uint256 funded);
    /// @notice The proof does not lead to the current root.
    error InvalidProof();
    /// @notice `account` has had all that this leaf gives.
    error NothingToClaim(address account);
    /// @notice The leaves of the root promise more than its total: `due` is to be paid and `unclaimed` is left of it.
    error TotalExceeded(uint256 due, uint256 unclaimed);
    /// @notice Each account needs one sum.
    error LengthMismatch(uint256 accounts, uint256 cumulatives);
    /// @notice Storage has only the latest epoch and the one before.
    error UnknownEpoch(uint256 epoch);

    /// @notice The role that may post roots.
    function POSTER_ROLE() external view returns (bytes32);

    /// @notice The role that may challenge them.
    function CHALLENGER_ROLE() external view returns (bytes32);

    /// @notice The token that is paid.
    function token() external view returns (IERC20);

    /// @notice Seconds between a root and its being final.
    function challengeWindow() external view returns (uint48);

    /// @notice What `account` has been paid so far, in wei.
    function claimed(address account) external view returns (uint256);

    /// @notice What all accounts have been paid so far, in wei.
    function totalClaimed() external view returns (uint256);

    /// @notice The latest epoch with a root, pending or final; 0 before the first.
    function latestEpoch() external view returns (uint256);

    /// @notice The root of the latest epoch, or of the one before.
    /// @return epoch_ The epoch.
    /// @return root The Merkle root.
    /// @return total The sum of its leaves, in wei.
    /// @return ledgerHash The head of the ledger's hash chain.
    /// @return activeAt Seconds since 1970 from which it is final.
    function rootOf(uint256 epoch)
        external
        view
        returns (uint256 epoch_, bytes32 root, uint256 total, bytes32 ledgerHash, uint256 activeAt);

    /// @notice The last final root, against which claims are paid; all zero before the first.
    function current()
        external
        view
        returns (uint256 epoch, bytes32 root, uint256 total, bytes32 ledgerHash, uint256 activeAt);

    /// @notice Posts the root of the next epoch. Only for POSTER_ROLE, not while paused.
    /// @param epoch latestEpoch() + 1.
    /// @param root The Merkle root of all cumulative earnings.
    /// @param total Their sum, in wei: not less than before, and covered by what was claimed and what is here.
    /// @param ledgerHash The head of the ledger's hash chain.
    function post(uint256 epoch, bytes32 root, uint256 total, bytes32 ledgerHash) external;

    /// @notice Drops the pending root of `epoch`. Claims go on by the last final one. Only for CHALLENGER_ROLE.
    /// @param epoch The epoch, so that a challenge cannot meet another root than it was meant for.
    /// @param evidence What is wrong with it, for the record.
    function challenge(uint256 epoch, bytes calldata evidence) external;

    /// @notice Pays `account` what its leaf gives beyond what it has had. Anybody may call; no pause stops this.
    /// @param account Who is paid.
    /// @param cumulative What the leaf says.
    /// @param proof From the leaf to the current root.
    function claim(address account, uint256 cumulative, bytes32[] calldata proof) external;

    /// @notice Pays many accounts by one multiproof. Those that have had everything are passed over, so that a claim that
    /// comes first spoils nothing. Anybody may call; no pause stops this.
    /// @param accounts Who is paid, in the order of the multiproof.
    /// @param cumulatives What the leaves say.
    /// @param proof As MerkleProof.multiProofVerify takes it.
    /// @param flags As MerkleProof.multiProofVerify takes them.
    function claimMany(
        address[] calldata accounts,
        uint256[] calldata cumulatives,
        bytes32[] calldata proof,
        bool[] calldata flags
    ) external;
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The network's prices and parameters, as its owner (the timelock of the governor) decided
interface IRiosPriceBook {
    /// @notice A price book came out.
    /// @param version Counts from 1.
    /// @param effectiveFrom Seconds since 1970; where that is earlier than the block, readers take the block's time.
    /// @param digest The digest of `document` that readers check and that holds pin.
    /// @param document The price book itself.
    event PriceBookPublished(uint256 indexed version, uint64 effectiveFrom, bytes32 digest, string document);
    /// @notice A parameter got a value.
    event ParameterSet(bytes32 indexed name, uint256 value);

    /// @notice A price book needs a document and its digest.
    error EmptyDocument();
    /// @notice No such version has come out.
    error UnknownVersion(uint256 version);

    /// @notice The latest version; 0 before the first.
    function version() external view returns (uint256);

    /// @notice From when on a version holds, and its digest.
    function bookOf(uint256 version_) external view returns (uint64 effectiveFrom, bytes32 digest);

    /// @notice The value of a parameter; 0 where nobody set it.
    function parameter(bytes32 name) external view returns (uint256);

    /// @notice Publishes the next price book. Only for the owner.
    /// @return version_ The version it got.
    function publish(uint64 effectiveFrom, bytes32 digest, string calldata document) external returns (uint256 version_);

    /// @notice Sets a parameter. Only for the owner.
    function setParameter(bytes32 name, uint256 value) external;
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IRiosPriceBook} from "./interfaces/IRiosPriceBook.sol";

/// @title RiosPriceBook
contract RiosPriceBook is IRiosPriceBook, Ownable2Step {
    struct Book {
        uint64 effectiveFrom;
        bytes32 digest;
    }

    /// @inheritdoc IRiosPriceBook
    uint256 public version;
    /// @inheritdoc IRiosPriceBook
    mapping(bytes32 name => uint256) public parameter;
    mapping(uint256 version => Book) private _books;

    /// @param owner_ Who publishes: the timelock of the governor.
    constructor(address owner_) Ownable(owner_) {}

    /// @inheritdoc IRiosPriceBook
    function publish(uint64 effectiveFrom, bytes32 digest, string calldata document)
        external
        onlyOwner
        returns (uint256 version_)
    {
        if (digest == 0 || bytes(document).length == 0) revert EmptyDocument();
        version_ = ++version;
        _books[version_] = Book(effectiveFrom, digest);
        emit PriceBookPublished(version_, effectiveFrom, digest, document);
    }

    /// @inheritdoc IRiosPriceBook
    function setParameter(bytes32 name, uint256 value) external onlyOwner {
        parameter[name] = value;
        emit ParameterSet(name, value);
    }

    /// @inheritdoc IRiosPriceBook
    function bookOf(uint256 version_) external view returns (uint64 effectiveFrom, bytes32 digest) {
        Book memory book = _books[version_];
        if (book.digest == 0) revert UnknownVersion(version_);
        return (book.effectiveFrom, book.digest);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {RiosPriceBook} from "../../src/RiosPriceBook.sol";
import {IRiosPriceBook} from "../../src/interfaces/IRiosPriceBook.sol";
import {RiosTest} from "../base/RiosTest.sol";

contract RiosPriceBookTest is RiosTest {
    RiosPriceBook private book;

    function setUp() public override {
        super.setUp();
        book = new RiosPriceBook(admin);
    }

    function _expectStranger() private {
        vm.prank(mallory);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, mallory));
    }

    function test_only_the_owner_publishes() public {
        _expectStranger();
        book.publish(1, "digest", "document");
    }

    function test_needs_a_document() public {
        vm.prank(admin);
        vm.expectRevert(IRiosPriceBook.EmptyDocument.selector);
        book.publish(1, "digest", "");
    }

    function test_needs_a_digest() public {
        vm.prank(admin);
        vm.expectRevert(IRiosPriceBook.EmptyDocument.selector);
        book.publish(1, 0, "document");
    }

    function test_versions_count() public {
        vm.assertEq(book.version(), 0);
        for (uint64 i = 1; i <= 3; ++i) {
            bytes32 digest = keccak256(abi.encode(i));
            vm.expectEmit(address(book));
            emit IRiosPriceBook.PriceBookPublished(i, 100 - i, digest, "document");
            vm.prank(admin);
            vm.assertEq(book.publish(100 - i, digest, "document"), i);
            vm.assertEq(book.version(), i);
            (uint64 effectiveFrom, bytes32 found) = book.bookOf(i);
            vm.assertEq(effectiveFrom, 100 - i);
            vm.assertEq(found, digest);
        }
    }

    function test_unknown_version() public {
        vm.expectRevert(abi.encodeWithSelector(IRiosPriceBook.UnknownVersion.selector, 1));
        book.bookOf(1);
    }

    function test_only_the_owner_sets() public {
        _expectStranger();
        book.setParameter("share", 1);
    }

    function testFuzz_parameters(bytes32 name, uint256 value) public {
        vm.assertEq(book.parameter(name), 0);
        vm.expectEmit(address(book));
        emit IRiosPriceBook.ParameterSet(name, value);
        vm.prank(admin);
        book.setParameter(name, value);
        vm.assertEq(book.parameter(name), value);
    }

    function test_owner_in_two_steps() public {
        vm.prank(admin);
        book.transferOwnership(alice);
        vm.assertEq(book.owner(), admin);
        vm.prank(alice);
        book.acceptOwnership();
        vm.assertEq(book.owner(), alice);
    }
}

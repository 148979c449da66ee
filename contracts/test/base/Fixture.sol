// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Vm} from "./Vm.sol";

/// @title What @openzeppelin/merkle-tree makes of known leaves (tool/trees.js)
library Fixture {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    struct Chunk {
        address[] accounts;
        uint256[] cumulatives;
        bytes32[] proof;
        bool[] flags;
    }

    function account(uint256 i) internal pure returns (address) {
        unchecked {
            return address(uint160((i + 1) * 0x009e3779b97f4a7c15f39cc0605cedc8341082276b));
        }
    }

    function cumulative(uint256 i) internal pure returns (uint256) {
        return (i + 1) * 1e18 + i * i;
    }

    function total(uint256 count) internal pure returns (uint256 sum) {
        for (uint256 i = 0; i < count; ++i) {
            sum += cumulative(i);
        }
    }

    function json() internal view returns (string memory) {
        return vm.readFile(string.concat(vm.projectRoot(), "/test/fixtures/trees.json"));
    }

    function root(string memory text, uint256 count) internal pure returns (bytes32) {
        return vm.parseJsonBytes32(text, _key(count, "root"));
    }

    /// @return i The leaf that is proven.
    /// @return proof Its proof.
    function single(string memory text, uint256 count) internal pure returns (uint256 i, bytes32[] memory proof) {
        i = count / 2;
        proof = vm.parseJsonBytes32Array(text, _key(count, "proof"));
    }

    function chunk(string memory text, uint256 count, uint256 index) internal pure returns (Chunk memory found) {
        string memory key = string.concat("chunks[", vm.toString(index), "].");
        uint256[] memory ids = vm.parseJsonUintArray(text, _key(count, string.concat(key, "ids")));
        found.proof = vm.parseJsonBytes32Array(text, _key(count, string.concat(key, "proof")));
        found.flags = vm.parseJsonBoolArray(text, _key(count, string.concat(key, "flags")));
        found.accounts = new address[](ids.length);
        found.cumulatives = new uint256[](ids.length);
        for (uint256 k = 0; k < ids.length; ++k) {
            found.accounts[k] = account(ids[k]);
            found.cumulatives[k] = cumulative(ids[k]);
        }
    }

    function _key(uint256 count, string memory name) private pure returns (string memory) {
        return string.concat(".n", vm.toString(count), ".", name);
    }
}

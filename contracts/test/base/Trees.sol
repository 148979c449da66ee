// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";

/// @title Merkle trees as @openzeppelin/merkle-tree lays them out
/// @dev A heap of 2n - 1 nodes, the root first, leaf i at 2n - 2 - i. Leaves stay in the order given: a root over leaves in
/// another order is another root, and as good a one.
library Trees {
    function leaf(address account, uint256 cumulative) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(account, cumulative))));
    }

    function build(bytes32[] memory leaves) internal pure returns (bytes32[] memory nodes) {
        uint256 count = leaves.length;
        nodes = new bytes32[](2 * count - 1);
        for (uint256 i = 0; i < count; ++i) {
            nodes[2 * count - 2 - i] = leaves[i];
        }
        for (uint256 i = count - 1; i > 0; --i) {
            nodes[i - 1] = Hashes.commutativeKeccak256(nodes[2 * i - 1], nodes[2 * i]);
        }
    }

    function proof(bytes32[] memory nodes, uint256 index) internal pure returns (bytes32[] memory path) {
        bytes32[] memory found = new bytes32[](nodes.length);
        uint256 length = 0;
        for (uint256 node = nodes.length - 1 - index; node > 0; node = (node - 1) / 2) {
            found[length++] = nodes[_sibling(node)];
        }
        return _head(found, length);
    }

    /// @param chosen Which leaves to prove; they are proven in ascending order of their index.
    function multiproof(bytes32[] memory nodes, bool[] memory chosen)
        internal
        pure
        returns (bytes32[] memory path, bool[] memory flags)
    {
        uint256[] memory queue = new uint256[](nodes.length);
        uint256 end = 0;
        for (uint256 i = 0; i < chosen.length; ++i) {
            if (chosen[i]) queue[end++] = nodes.length - 1 - i;
        }
        bytes32[] memory siblings = new bytes32[](nodes.length);
        bool[] memory known = new bool[](nodes.length);
        uint256 missing = 0;
        uint256 steps = 0;
        for (uint256 start = 0; start < end && queue[start] > 0; ++start) {
            uint256 sibling = _sibling(queue[start]);
            if (start + 1 < end && queue[start + 1] == sibling) {
                known[steps] = true;
                ++start;
            } else {
                siblings[missing++] = nodes[sibling];
            }
            ++steps;
            queue[end++] = (sibling - 1) / 2;
        }
        flags = new bool[](steps);
        for (uint256 i = 0; i < steps; ++i) {
            flags[i] = known[i];
        }
        path = end == 0 ? _head(nodes, 1) : _head(siblings, missing);
    }

    function _sibling(uint256 node) private pure returns (uint256) {
        return node % 2 == 1 ? node + 1 : node - 1;
    }

    function _head(bytes32[] memory values, uint256 length) private pure returns (bytes32[] memory head) {
        head = new bytes32[](length);
        for (uint256 i = 0; i < length; ++i) {
            head[i] = values[i];
        }
    }
}

#!/usr/bin/env node
// Writes test/fixtures/trees.json: what @openzeppelin/merkle-tree makes of trees whose leaves the tests know by formula.
//
//     node tool/trees.js [FILE]
"use strict";
const fs = require("fs");
const path = require("path");
const { StandardMerkleTree } = require("@openzeppelin/merkle-tree");

// Fixture.sol has the same two formulas.
const account = (i) => "0x" + BigInt.asUintN(160, BigInt(i + 1) * 0x9e3779b97f4a7c15f39cc0605cedc8341082276bn).toString(16).padStart(40, "0");
const cumulative = (i) => BigInt(i + 1) * 1_000_000_000_000_000_000n + BigInt(i * i);
const CHUNK = 250;

function described(count) {
  const values = Array.from({ length: count }, (_, i) => [account(i), cumulative(i).toString()]);
  const tree = StandardMerkleTree.of(values, ["address", "uint256"]);
  // Neighbours in the tree share the most of their proof.
  const inTree = [...tree.entries()].map(([i]) => i).sort((a, b) => tree.values[b].treeIndex - tree.values[a].treeIndex);
  const chunks = [];
  for (let start = 0; start < count; start += CHUNK) {
    const { leaves, proof, proofFlags } = tree.getMultiProof(inTree.slice(start, start + CHUNK));
    const ids = leaves.map(([, sum]) => values.findIndex(([, other]) => other === sum));
    chunks.push({ ids, proof, flags: proofFlags });
  }
  const single = count >> 1;
  return { root: tree.root, single, proof: tree.getProof(single), chunks };
}

const trees = Object.fromEntries([1, 2, 3, 7, 64, 100, 1000].map((count) => [`n${count}`, described(count)]));
const target = process.argv[2] || path.join(__dirname, "..", "test", "fixtures", "trees.json");
fs.writeFileSync(target, JSON.stringify(trees) + "\n");

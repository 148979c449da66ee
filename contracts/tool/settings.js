// How the contracts are compiled; foundry.toml says the same to forge, and a test compares the two.
module.exports = {
  evmVersion: "cancun",
  optimizer: { enabled: true, runs: 1000000 },
  // No hash of the sources in the bytecode: a comment does not change what is deployed.
  metadata: { bytecodeHash: "none", appendCBOR: false },
};

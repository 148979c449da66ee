#!/usr/bin/env node
// Compiles the contracts and writes one NAME.json each: ABI, creation code, runtime code and where the runtime code holds
// immutables. The output depends on the sources, the lock file and the settings alone.
//
//     node tool/build.js [DIRECTORY]        (default: rios/billing/artifacts)
"use strict";
const fs = require("fs");
const path = require("path");
const solc = require("solc");
const settings = require("./settings.js");

const HERE = path.resolve(__dirname, "..");
const SHIPPED = {
  RosToken: "src/RosToken.sol",
  RiosEscrow: "src/RiosEscrow.sol",
  RiosSettlement: "src/RiosSettlement.sol",
  RiosStaking: "src/RiosStaking.sol",
  RiosPriceBook: "src/RiosPriceBook.sol",
  RiosGovernor: "src/RiosGovernor.sol",
  TimelockController: "@openzeppelin/contracts/governance/TimelockController.sol",
};

function read(name) {
  return fs.readFileSync(path.join(HERE, name.startsWith("src/") ? name : path.join("node_modules", name)), "utf8");
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

function compile() {
  const input = {
    language: "Solidity",
    sources: Object.fromEntries(Object.values(SHIPPED).map((name) => [name, { content: read(name) }])),
    settings: {
      ...settings,
      outputSelection: { "*": { "*": ["abi", "evm.bytecode.object", "evm.deployedBytecode"] } },
    },
  };
  const found = (name) => {
    try {
      return { contents: read(name) };
    } catch (error) {
      return { error: error.message };
    }
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: found }));
  // Warnings too: ours have none, and none may creep in. Those of the libraries are theirs.
  const complaints = (output.errors || []).filter(
    ({ severity, sourceLocation }) => severity === "error" || sourceLocation?.file.startsWith("src/"),
  );
  if (complaints.length > 0) {
    for (const complaint of complaints) process.stderr.write(complaint.formattedMessage);
    process.exit(1);
  }
  return output.contracts;
}

function artifact({ abi, evm }) {
  const places = Object.values(evm.deployedBytecode.immutableReferences || {}).flat();
  return sorted({
    abi,
    bytecode: "0x" + evm.bytecode.object,
    deployedBytecode: "0x" + evm.deployedBytecode.object,
    immutableReferences: places.map(({ start, length }) => [start, length]).sort((a, b) => a[0] - b[0]),
  });
}

const target = path.resolve(process.argv[2] || path.join(HERE, "..", "rios", "billing", "artifacts"));
const contracts = compile();
fs.mkdirSync(target, { recursive: true });
for (const [name, source] of Object.entries(SHIPPED)) {
  fs.writeFileSync(path.join(target, `${name}.json`), JSON.stringify(artifact(contracts[source][name])) + "\n");
}

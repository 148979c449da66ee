// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {RosToken} from "../../src/RosToken.sol";
import {Vm} from "./Vm.sol";

/// @title Permits as ERC-2612 has them, signed
library Permits {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    bytes32 private constant PERMIT =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");

    function sign(RosToken token, uint256 key, address spender, uint256 value, uint256 deadline)
        internal
        view
        returns (uint8 v, bytes32 r, bytes32 s)
    {
        address owner = vm.addr(key);
        bytes32 what = keccak256(abi.encode(PERMIT, owner, spender, value, token.nonces(owner), deadline));
        return vm.sign(key, keccak256(abi.encodePacked(hex"1901", token.DOMAIN_SEPARATOR(), what)));
    }
}

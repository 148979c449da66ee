// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @title A token that calls back in the middle of a transfer
contract EvilToken is ERC20("Evil", "EVIL") {
    address private _target;
    bytes private _call;
    /// @notice How often it called back, and how often that worked.
    uint256 public tries;
    uint256 public successes;

    function mint(address to, uint256 amount) external {
        super._update(address(0), to, amount);
    }

    function arm(address target, bytes calldata call) external {
        (_target, _call) = (target, call);
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (_target == address(0) || tries > 3) return;
        ++tries;
        (bool ok,) = _target.call(_call);
        if (ok) ++successes;
    }
}

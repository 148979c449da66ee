// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {
    IAccessControlDefaultAdminRules
} from "@openzeppelin/contracts/access/extensions/IAccessControlDefaultAdminRules.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {RosToken} from "../../src/RosToken.sol";
import {IRosToken} from "../../src/interfaces/IRosToken.sol";
import {RiosTest} from "../base/RiosTest.sol";
import {Permits} from "../base/Permits.sol";
import {Vm} from "../base/Vm.sol";

/// @dev What RosToken is compared with: OpenZeppelin's ERC20 and nothing else.
contract PlainToken is ERC20("ROS", "ROS") {
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}

contract RosTokenTest is RiosTest {
    uint256 private constant KEY = 0xA11CE;

    function test_it_is_ros() public view {
        vm.assertEq(bytes(token.name()), "ROS");
        vm.assertEq(bytes(token.symbol()), "ROS");
        vm.assertEq(token.decimals(), 18);
        vm.assertEq(token.cap(), CAP);
        vm.assertEq(token.defaultAdmin(), admin);
        vm.assertEq(token.totalSupply(), 0);
    }

    function test_cap_above_what_votes_count() public {
        uint256 highest = type(uint208).max;
        new RosToken(admin, 0, highest);
        vm.expectRevert(abi.encodeWithSelector(IRosToken.CapTooHigh.selector, highest + 1, highest));
        new RosToken(admin, 0, highest + 1);
    }

    function test_only_minters_mint() public {
        bytes32 role = token.MINTER_ROLE();
        vm.prank(mallory);
        _expectMissing(mallory, role);
        token.mint(mallory, 1);
    }

    function testFuzz_mints(address to, uint256 amount) public {
        vm.assume(to != address(0));
        amount = _between(amount, 0, CAP);
        vm.expectEmit(address(token));
        emit IERC20.Transfer(address(0), to, amount);
        token.mint(to, amount);
        vm.assertEq(token.balanceOf(to), amount);
        vm.assertEq(token.totalSupply(), amount);
    }

    function testFuzz_never_above_the_cap(uint256 first, uint256 excess) public {
        first = _between(first, 0, CAP);
        excess = _between(excess, 1, type(uint128).max);
        token.mint(alice, first);
        vm.expectRevert(abi.encodeWithSelector(ERC20Votes.ERC20ExceededSafeSupply.selector, CAP + excess, CAP));
        token.mint(bob, CAP - first + excess);
    }

    /// @dev The same calls on both, lawful or not: the same answers, the same errors, the same events, the same state.
    function testFuzz_as_openzeppelins_erc20(uint256 seed) public {
        PlainToken plain = new PlainToken();
        address[4] memory people = [alice, bob, carol, address(0)];
        for (uint256 i = 0; i < 3; ++i) {
            uint256 amount = uint256(keccak256(abi.encode(seed, i))) % 100;
            token.mint(people[i], amount);
            plain.mint(people[i], amount);
        }
        for (uint256 step = 0; step < 24; ++step) {
            uint256 dice = uint256(keccak256(abi.encode(seed, "step", step)));
            bytes memory data = _call(dice, people);
            address sender = people[(dice >> 200) % 3];
            (bytes memory ours, bytes32 events) = _try(address(token), sender, data);
            (bytes memory theirs, bytes32 expected) = _try(address(plain), sender, data);
            vm.assertEq(ours, theirs);
            vm.assertEq(events, expected);
        }
        for (uint256 i = 0; i < 4; ++i) {
            vm.assertEq(token.balanceOf(people[i]), plain.balanceOf(people[i]));
            for (uint256 j = 0; j < 4; ++j) {
                vm.assertEq(token.allowance(people[i], people[j]), plain.allowance(people[i], people[j]));
            }
        }
        vm.assertEq(token.totalSupply(), plain.totalSupply());
    }

    function _call(uint256 dice, address[4] memory people) private pure returns (bytes memory) {
        address one = people[(dice >> 8) % 4];
        address other = people[(dice >> 16) % 4];
        uint256 amount = (dice >> 24) % 120;
        if (amount > 115) amount = type(uint256).max;
        if (dice % 3 == 0) return abi.encodeCall(IERC20.transfer, (one, amount));
        if (dice % 3 == 1) return abi.encodeCall(IERC20.approve, (one, amount));
        return abi.encodeCall(IERC20.transferFrom, (one, other, amount));
    }

    /// @return answer Whether it went well, and what came back.
    /// @return events A digest of what was emitted.
    function _try(address target, address sender, bytes memory data)
        private
        returns (bytes memory answer, bytes32 events)
    {
        vm.recordLogs();
        vm.prank(sender);
        (bool ok, bytes memory result) = target.call(data);
        answer = abi.encode(ok, result);
        Vm.Log[] memory logs = vm.getRecordedLogs();
        for (uint256 i = 0; i < logs.length; ++i) {
            events = keccak256(abi.encode(events, logs[i].topics, logs[i].data));
        }
    }

    function test_permit() public {
        address owner = vm.addr(KEY);
        (uint8 v, bytes32 r, bytes32 s) = Permits.sign(token, KEY, alice, 5, block.timestamp);
        token.permit(owner, alice, 5, block.timestamp, v, r, s);
        vm.assertEq(token.allowance(owner, alice), 5);
        vm.assertEq(token.nonces(owner), 1);
        vm.expectPartialRevert(ERC20Permit.ERC2612InvalidSigner.selector);
        token.permit(owner, alice, 5, block.timestamp, v, r, s);
    }

    function test_permit_by_another() public {
        (uint8 v, bytes32 r, bytes32 s) = Permits.sign(token, KEY, alice, 5, block.timestamp);
        vm.expectPartialRevert(ERC20Permit.ERC2612InvalidSigner.selector);
        token.permit(bob, alice, 5, block.timestamp, v, r, s);
    }

    function test_no_votes_without_a_delegate() public {
        token.mint(alice, 10);
        vm.assertEq(token.getVotes(alice), 0);
    }

    function test_votes_by_block() public {
        token.mint(alice, 10);
        vm.prank(alice);
        token.delegate(bob);
        vm.roll(block.number + 1);
        vm.prank(alice);
        token.transfer(carol, 4);
        vm.roll(block.number + 1);
        vm.assertEq(token.getPastVotes(bob, 1), 10);
        vm.assertEq(token.getVotes(bob), 6);
        vm.assertEq(token.getVotes(carol), 0);
        vm.assertEq(bytes(token.CLOCK_MODE()), "mode=blocknumber&from=default");
    }

    function test_admin_in_two_steps() public {
        vm.prank(admin);
        token.beginDefaultAdminTransfer(alice);
        vm.assertEq(token.defaultAdmin(), admin);
        vm.prank(alice);
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessControlDefaultAdminRules.AccessControlEnforcedDefaultAdminDelay.selector,
                block.timestamp + ADMIN_DELAY
            )
        );
        token.acceptDefaultAdminTransfer();
        _pass(ADMIN_DELAY + 1);
        vm.prank(alice);
        token.acceptDefaultAdminTransfer();
        vm.assertEq(token.defaultAdmin(), alice);
    }

    function test_admin_is_not_granted() public {
        bytes32 role = token.DEFAULT_ADMIN_ROLE();
        vm.prank(admin);
        vm.expectRevert(IAccessControlDefaultAdminRules.AccessControlEnforcedDefaultAdminRules.selector);
        token.grantRole(role, alice);
    }
}

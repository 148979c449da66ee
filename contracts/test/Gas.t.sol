// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {RiosEscrow} from "../src/RiosEscrow.sol";
import {Fixture} from "./base/Fixture.sol";
import {SettlementTest} from "./base/SettlementTest.sol";
import {Trees} from "./base/Trees.sol";

/// @title What transactions cost, base fee and calldata of the transaction included
/// @dev Each outer call is a transaction of its own here: storage is cold at its start, as on a chain.
/// forge-config: default.isolate = true
contract GasTest is SettlementTest {
    /// @dev EIP-7825: what one transaction may cost.
    uint256 private constant TRANSACTION_CAP = 16_777_216;
    uint256 private constant WORKERS = 1000;
    uint256 private constant CHUNK = 250;
    uint256 private constant USERS = 500;

    RiosEscrow private escrow;

    function setUp() public override {
        super.setUp();
        escrow = new RiosEscrow(IERC20(address(token)), admin, ADMIN_DELAY, 1 days);
        _grant(address(escrow), escrow.CHARGER_ROLE(), poster);
        vm.prank(admin);
        escrow.setSettlement(address(settlement));
    }

    function _cost(string memory name) private returns (uint256) {
        vm.snapshotGasLastCall("rios", name);
        return vm.lastCallGas().gasTotalUsed;
    }

    /// @dev Everybody earns `cumulative` of the fixture in the last of `epochs` roots, and has had one wei already.
    function _paidBefore(uint256 count, bytes32 root, uint256 epochs) private {
        address[] memory accounts = new address[](count);
        uint256[] memory sums = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            (accounts[i], sums[i]) = (Fixture.account(i), 1);
        }
        bytes32[] memory nodes = _settle(1, accounts, sums);
        (bytes32[] memory proof, bool[] memory flags) = _multiproof(nodes, count);
        settlement.claimMany(accounts, sums, proof, flags);
        token.mint(address(settlement), Fixture.total(count) - count);
        for (uint256 epoch = 2; epoch <= epochs; ++epoch) {
            _postFinal(epoch, root, Fixture.total(count));
        }
    }

    function _multiproof(bytes32[] memory nodes, uint256 count)
        private
        pure
        returns (bytes32[] memory, bool[] memory)
    {
        return Trees.multiproof(nodes, _all(count));
    }

    function test_root_at_any_size() public {
        token.mint(address(settlement), 1e6 * ROS);
        _postFinal(1, keccak256("1"), 1e5 * ROS);
        _postFinal(2, keccak256("2"), 2e5 * ROS);
        uint256 highest = 0;
        for (uint256 epoch = 3; epoch < 9; ++epoch) {
            _post(epoch, keccak256(abi.encode(epoch)), epoch * 1e5 * ROS + 123_456_789_987_654_321);
            uint256 cost = _cost("post");
            highest = cost > highest ? cost : highest;
            _pass(WINDOW);
        }
        vm.assertLe(highest, 55_000, "a root");
    }

    function test_single_claim() public {
        string memory json = Fixture.json();
        _paidBefore(WORKERS, Fixture.root(json, WORKERS), 3);
        (uint256 i, bytes32[] memory proof) = Fixture.single(json, WORKERS);
        settlement.claim(Fixture.account(i), Fixture.cumulative(i), proof);
        vm.assertLe(_cost("claim of 1,000"), 65_000, "a claim");
    }

    function test_claimMany_to_those_paid_before() public {
        string memory json = Fixture.json();
        _paidBefore(WORKERS, Fixture.root(json, WORKERS), 3);
        uint256 sum = 0;
        for (uint256 k = 0; k < WORKERS / CHUNK; ++k) {
            Fixture.Chunk memory chunk = Fixture.chunk(json, WORKERS, k);
            settlement.claimMany(chunk.accounts, chunk.cumulatives, chunk.proof, chunk.flags);
            sum += _cost("claimMany of 250 paid before");
        }
        vm.assertEq(settlement.totalClaimed(), Fixture.total(WORKERS));
        vm.assertLe(sum / WORKERS, 22_000, "a worker paid before");
    }

    function test_claimMany_of_newcomers_fits_a_transaction() public {
        string memory json = Fixture.json();
        token.mint(address(settlement), Fixture.total(WORKERS));
        _postFinal(1, Fixture.root(json, WORKERS), Fixture.total(WORKERS));
        Fixture.Chunk memory chunk = Fixture.chunk(json, WORKERS, 0);
        settlement.claimMany(chunk.accounts, chunk.cumulatives, chunk.proof, chunk.flags);
        vm.assertLe(_cost("claimMany of 250 newcomers"), TRANSACTION_CAP, "EIP-7825");
    }
}

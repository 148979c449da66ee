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

    /// @dev All have had one wei, and are owed what the fixture says.
    function _paidBefore(bytes32 root) private {
        (address[] memory accounts, uint256[] memory sums) = _workers(1);
        _claimAll(_settle(1, accounts, sums), accounts, sums);
        token.mint(address(settlement), Fixture.total(WORKERS) - WORKERS);
        _postFinal(2, root, Fixture.total(WORKERS));
        _postFinal(3, root, Fixture.total(WORKERS));
    }

    function test_root_at_any_size() public {
        token.mint(address(settlement), CAP);
        uint256 highest = 0;
        for (uint256 epoch = 1; epoch < 9; ++epoch) {
            bytes32 seed = keccak256(abi.encode(epoch));
            // Nothing stays as it was: a slot that is written with what it holds would cost 2,800 less.
            uint256 total = CAP / 10 * epoch + uint256(seed) % ROS;
            vm.prank(poster);
            settlement.post(epoch, seed, total, keccak256(abi.encode(seed)));
            uint256 cost = _cost("post");
            if (epoch > 2) highest = cost > highest ? cost : highest;
            _pass(WINDOW);
        }
        vm.assertLe(highest, 55_000, "a root");
    }

    function test_single_claim() public {
        string memory json = Fixture.json();
        _paidBefore(Fixture.root(json, WORKERS));
        (uint256 i, bytes32[] memory proof) = Fixture.single(json, WORKERS);
        settlement.claim(Fixture.account(i), Fixture.cumulative(i), proof);
        vm.assertLe(_cost("claim of 1,000"), 65_000, "a claim");
    }

    function test_single_claims_all_over_the_tree() public {
        (address[] memory accounts, uint256[] memory sums) = _workers(1);
        _claimAll(_settle(1, accounts, sums), accounts, sums);
        (, sums) = _workers(1e4 * ROS);
        bytes32[] memory nodes = _settle(2, accounts, sums);
        uint256 highest = 0;
        for (uint256 i = 0; i < WORKERS; i += 23) {
            settlement.claim(accounts[i], sums[i], Trees.proof(nodes, i));
            uint256 cost = vm.lastCallGas().gasTotalUsed;
            highest = cost > highest ? cost : highest;
        }
        vm.assertLe(highest, 65_000, "the dearest claim");
    }

    function _workers(uint256 sum) private pure returns (address[] memory accounts, uint256[] memory sums) {
        (accounts, sums) = (new address[](WORKERS), new uint256[](WORKERS));
        for (uint256 i = 0; i < WORKERS; ++i) {
            (accounts[i], sums[i]) = (Fixture.account(i), sum + (sum == 1 ? 0 : Fixture.cumulative(i)));
        }
    }

    function _claimAll(bytes32[] memory nodes, address[] memory accounts, uint256[] memory sums) private {
        (bytes32[] memory proof, bool[] memory flags) = Trees.multiproof(nodes, _all(accounts.length));
        settlement.claimMany(accounts, sums, proof, flags);
    }

    function test_claimMany_to_those_paid_before() public {
        string memory json = Fixture.json();
        _paidBefore(Fixture.root(json, WORKERS));
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

    /// @dev The dearest case: each had asked for all of it back, so that a request has to fall with the balance.
    function test_charge_fits_a_transaction() public {
        (address[] memory users, uint256[] memory amounts) = _users();
        for (uint256 i = 0; i < USERS; ++i) {
            token.mint(users[i], 2 * amounts[i]);
            vm.startPrank(users[i]);
            token.approve(address(escrow), 2 * amounts[i]);
            escrow.deposit(2 * amounts[i]);
            escrow.requestWithdrawal(2 * amounts[i]);
            vm.stopPrank();
        }
        vm.prank(poster);
        escrow.charge("batch", 1, users, amounts);
        vm.assertLe(_cost("charge of 500 who asked for all back"), TRANSACTION_CAP, "EIP-7825");
    }

    function test_credit_of_newcomers_fits_a_transaction() public {
        (address[] memory users, uint256[] memory amounts) = _users();
        token.mint(poster, 1e6 * ROS);
        vm.startPrank(poster);
        token.approve(address(escrow), 1e6 * ROS);
        escrow.credit("refunds", users, amounts);
        vm.stopPrank();
        vm.assertLe(_cost("credit of 500 newcomers"), TRANSACTION_CAP, "EIP-7825");
    }

    function _users() private pure returns (address[] memory users, uint256[] memory amounts) {
        (users, amounts) = (new address[](USERS), new uint256[](USERS));
        for (uint256 i = 0; i < USERS; ++i) {
            (users[i], amounts[i]) = (Fixture.account(i), Fixture.cumulative(i));
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IGovernor} from "@openzeppelin/contracts/governance/IGovernor.sol";
import {TimelockController} from "@openzeppelin/contracts/governance/TimelockController.sol";
import {IVotes} from "@openzeppelin/contracts/governance/utils/IVotes.sol";
import {RiosGovernor} from "../../src/RiosGovernor.sol";
import {RiosPriceBook} from "../../src/RiosPriceBook.sol";
import {RiosTest} from "../base/RiosTest.sol";

contract RiosGovernorTest is RiosTest {
    uint48 private constant VOTING_DELAY = 3;
    uint32 private constant VOTING_PERIOD = 10;
    uint256 private constant THRESHOLD = 5 * ROS;
    uint256 private constant TIMELOCK_DELAY = 2 days;
    bytes32 private constant REASON = keccak256("cheaper");

    RiosGovernor private governor;
    TimelockController private timelock;
    RiosPriceBook private book;

    function setUp() public override {
        super.setUp();
        timelock = new TimelockController(TIMELOCK_DELAY, new address[](0), _one(address(0)), address(this));
        governor = new RiosGovernor(IVotes(address(token)), timelock, VOTING_DELAY, VOTING_PERIOD, THRESHOLD, 20);
        timelock.grantRole(timelock.PROPOSER_ROLE(), address(governor));
        timelock.grantRole(timelock.CANCELLER_ROLE(), address(governor));
        timelock.renounceRole(timelock.DEFAULT_ADMIN_ROLE(), address(this));
        book = new RiosPriceBook(address(timelock));
        _voter(alice, 60 * ROS);
        _voter(bob, 35 * ROS);
        _voter(carol, 5 * ROS);
        vm.roll(block.number + 1);
    }

    function _voter(address account, uint256 amount) private {
        token.mint(account, amount);
        vm.prank(account);
        token.delegate(account);
    }

    function _publish() private view returns (address[] memory, uint256[] memory, bytes[] memory) {
        return _do(address(book), abi.encodeCall(book.publish, (uint64(START), "digest", "document")));
    }

    function _do(address target, bytes memory data)
        private
        pure
        returns (address[] memory targets, uint256[] memory values, bytes[] memory calls)
    {
        calls = new bytes[](1);
        calls[0] = data;
        return (_one(target), new uint256[](1), calls);
    }

    function _propose(address[] memory targets, uint256[] memory values, bytes[] memory calls)
        private
        returns (uint256 proposal)
    {
        vm.prank(carol);
        return governor.propose(targets, values, calls, "cheaper");
    }

    function _vote(uint256 proposal, address voter, uint8 support) private {
        vm.prank(voter);
        governor.castVote(proposal, support);
    }

    function _is(uint256 proposal, IGovernor.ProposalState expected) private view {
        vm.assertEq(uint256(governor.state(proposal)), uint256(expected), "state");
    }

    function test_knows_its_terms() public view {
        vm.assertEq(governor.votingDelay(), VOTING_DELAY);
        vm.assertEq(governor.votingPeriod(), VOTING_PERIOD);
        vm.assertEq(governor.proposalThreshold(), THRESHOLD);
        vm.assertEq(governor.quorum(block.number - 1), 20 * ROS);
        vm.assertEq(governor.timelock(), address(timelock));
        vm.assertEq(address(governor.token()), address(token));
        vm.assertEq(governor.clock(), block.number);
    }

    function test_proposers_need_votes() public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _publish();
        vm.prank(mallory);
        vm.expectRevert(
            abi.encodeWithSelector(IGovernor.GovernorInsufficientProposerVotes.selector, mallory, 0, THRESHOLD)
        );
        governor.propose(targets, values, calls, "cheaper");
    }

    function test_a_price_book_by_vote() public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _publish();
        uint256 proposal = _propose(targets, values, calls);
        vm.assertTrue(governor.proposalNeedsQueuing(proposal), "needs queuing");
        _is(proposal, IGovernor.ProposalState.Pending);
        vm.roll(block.number + VOTING_DELAY + 1);
        _is(proposal, IGovernor.ProposalState.Active);
        _vote(proposal, alice, 1);
        _vote(proposal, bob, 0);
        vm.roll(block.number + VOTING_PERIOD);
        _is(proposal, IGovernor.ProposalState.Succeeded);
        governor.queue(targets, values, calls, REASON);
        _is(proposal, IGovernor.ProposalState.Queued);
        _pass(TIMELOCK_DELAY);
        governor.execute(targets, values, calls, REASON);
        _is(proposal, IGovernor.ProposalState.Executed);
        (, bytes32 digest) = book.bookOf(1);
        vm.assertEq(digest, "digest");
    }

    function test_defeated() public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _publish();
        uint256 proposal = _propose(targets, values, calls);
        vm.roll(block.number + VOTING_DELAY + 1);
        _vote(proposal, alice, 0);
        _vote(proposal, bob, 1);
        vm.roll(block.number + VOTING_PERIOD);
        _is(proposal, IGovernor.ProposalState.Defeated);
    }

    function test_below_the_quorum() public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _publish();
        uint256 proposal = _propose(targets, values, calls);
        vm.roll(block.number + VOTING_DELAY + 1);
        _vote(proposal, carol, 1);
        vm.roll(block.number + VOTING_PERIOD);
        _is(proposal, IGovernor.ProposalState.Defeated);
    }

    function test_cancelled() public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _publish();
        uint256 proposal = _propose(targets, values, calls);
        vm.prank(carol);
        governor.cancel(targets, values, calls, REASON);
        _is(proposal, IGovernor.ProposalState.Canceled);
    }

    function test_no_execution_before_the_delay() public {
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) = _publish();
        uint256 proposal = _propose(targets, values, calls);
        vm.roll(block.number + VOTING_DELAY + 1);
        _vote(proposal, alice, 1);
        vm.roll(block.number + VOTING_PERIOD);
        governor.queue(targets, values, calls, REASON);
        _pass(TIMELOCK_DELAY - 1);
        vm.expectPartialRevert(TimelockController.TimelockUnexpectedOperationState.selector);
        governor.execute(targets, values, calls, REASON);
        vm.assertEq(book.version(), 0);
    }

    function test_terms_change_by_vote() public {
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IGovernor.GovernorOnlyExecutor.selector, alice));
        governor.setProposalThreshold(1);
        (address[] memory targets, uint256[] memory values, bytes[] memory calls) =
            _do(address(governor), abi.encodeCall(governor.setProposalThreshold, (1)));
        uint256 proposal = _propose(targets, values, calls);
        vm.roll(block.number + VOTING_DELAY + 1);
        _vote(proposal, alice, 1);
        vm.roll(block.number + VOTING_PERIOD);
        governor.queue(targets, values, calls, REASON);
        _pass(TIMELOCK_DELAY);
        governor.execute(targets, values, calls, REASON);
        vm.assertEq(governor.proposalThreshold(), 1);
    }
}

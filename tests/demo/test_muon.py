"""Muon's updates, and training's pure functions."""

from __future__ import annotations

import torch

from rios.demo.muon import Muon, orthogonal


def test_orthogonal_brings_singular_values_near_one() -> None:
    matrices = torch.randn(3, 48, 32, generator=torch.Generator().manual_seed(0))
    found = torch.linalg.svdvals(orthogonal(matrices))
    assert found.shape == (3, 32)
    assert 0.5 < found.min() < found.max() < 1.3


def test_a_stack_is_updated_as_its_matrices_are() -> None:
    generator = torch.Generator().manual_seed(0)
    start, gradient = (torch.randn(2, 16, 24, generator=generator) for _ in range(2))
    stack = torch.nn.Parameter(start.clone())
    single = torch.nn.Parameter(start[1].clone())
    stack.grad, single.grad = gradient.clone(), gradient[1].clone()
    for parameter in (stack, single):
        Muon([parameter], lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(stack[1], single, atol=2e-2, rtol=0)


def test_it_descends() -> None:
    goal = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.2)
    first = (weight - goal).square().sum().item()
    for _ in range(60):
        optimizer.zero_grad()
        (weight - goal).square().sum().backward()
        optimizer.step()
    assert (weight - goal).square().sum().item() < first / 10

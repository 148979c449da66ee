"""The table of roles and scopes: what it says is what holds, and what the documentation shows."""

from __future__ import annotations

import pytest

from rios.accounts import roles
from rios.words.errors import InvalidRequest
from tests.campaigns import ROOT


def test_the_table_is_sound() -> None:
    assert len(set(roles.SCOPES)) == len(roles.TABLE)
    for right in roles.TABLE:
        assert right.roles <= set(roles.ROLES)
        assert roles.ADMIN in right.roles, "an admin may all that anybody may"
        if right.network:
            assert right.roles == {roles.ADMIN}
        acts = right.roles == {roles.ADMIN} and right.scope.endswith(":write")
        assert right.recent == acts, "what only admins may change takes a recent sign-in"


@pytest.mark.parametrize("role", roles.ROLES)
@pytest.mark.parametrize("operator", [False, True])
def test_a_role_has_what_its_column_says(role: str, operator: bool) -> None:
    expected = {r.scope for r in roles.TABLE if role in r.roles and (operator or not r.network)}
    assert roles.scopes_of(role, operator=operator) == expected


def test_what_is_not_in_the_table_is_denied() -> None:
    assert roles.scopes_of("root", operator=True) == frozenset()
    with pytest.raises(InvalidRequest, match="root"):
        roles.check_role("root")
    with pytest.raises(InvalidRequest, match="everything"):
        roles.check_scopes(["generate", "everything"])


def test_the_documentation_shows_the_table() -> None:
    text = (ROOT / "docs" / "roles.md").read_text()
    assert roles.markdown() in text, "write it anew: python -m tests.accounts.test_roles > docs/roles.md"


if __name__ == "__main__":
    print(
        """# Roles and scopes

Made from the table in `rios/accounts/roles.py`, which decides. What is not in it is denied. `network`: only in the
organisation that runs the network. A token has at most the scopes of its user's role, and those that it was made with.
`recent`: what changes something takes a sign-in of the last 30 minutes (`RIOS_GATEWAY_RECENT_S`), or a key that has the
scope `unattended`.
"""
    )
    print(roles.markdown(), end="")

"""Words that answers are made of, and how a route names its answer."""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
Moment = Annotated[int, Field(description="Microseconds of UTC since 1970.", examples=[1_764_410_400_000_000])]
Wei = Annotated[
    str, Field(pattern=r"^-?[0-9]+$", description="Wei as decimal text: 10^18 are 1 ROS.", examples=["250000000000000"])
]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+$", description="A count as decimal text.", examples=["4096"])]
Iso = Annotated[str, Field(description="ISO 8601, in UTC.", examples=["2026-11-29T10:00:00+00:00"])]
UserId = Annotated[str, Field(description="The id of a user.", examples=["user-3f9a1c0e5b7d2468"])]
OwnerLogin = Annotated[
    str, Field(description='What the owner signs in as; "closed:" and the id of a closed account.', examples=["ada"])
]
OrganisationId = Annotated[str, Field(examples=["org-5d2c8e1f7a904b36"])]
Login = Annotated[str, Field(examples=["ada"])]
Address = Annotated[str, Field(description="On the chain.", examples=["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"])]
Hash = Annotated[
    str,
    Field(
        description="SHA-256, as hex digits.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    ),
]
Root = Annotated[str, Field(examples=["0x1f675bff07515f5df96737194ea945c36c41e7b4fcef307b7cd4d0e602a69111"])]
ModelName = Annotated[str, Field(description="What requests call a model.", examples=["demo"])]
WorkerName = Annotated[str, Field(examples=["host-1"])]
RequestId = Annotated[str, Field(examples=["req-7d1f0c2b9a4e5f60"])]
Scopes = Annotated[list[str], Field(description="In their order.", examples=[["generate", "models:read"]])]
Document = Annotated[dict[str, Any], Field(description="A document of its own kind.")]
PAGE = Field(
    description="The `after` of the page that follows; null on the last one.", examples=[None]
)  # fmt: skip


class Answer(BaseModel):
    """What is answered."""

    model_config = ConfigDict(defer_build=True)


class Rows(Answer, Generic[T]):
    """A list that is whole: it has a bound of its own."""

    data: list[T]


class Page(Answer, Generic[T]):
    """A part of a list."""

    data: list[T]
    next: str | int | None = PAGE


def says(model: type[Answer], status: int = 200) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route: its answer with that status is a `model`."""
    return {status: {"model": model}}

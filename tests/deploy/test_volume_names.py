"""What volumes are called where they are kept: each place its own, and what is there stays."""

from __future__ import annotations

import pytest

from rios.deploy.spec import App
from rios.deploy.volume_names import PATH_MAX_BYTES, check_new, volume_name
from rios.words.errors import InvalidRequest


def test_usual_places_are_called_as_ever() -> None:
    assert [volume_name(path) for path in ("/data", "/srv/www/a.b", "/m%2B")] == ["data", "srv+www+a.b", "m%2B"]


@pytest.mark.parametrize(
    ("paths", "before", "why"),
    [
        (["/a/b", "/a+b"], [], "no '\\+'"), (["/a+b"], [], "no '\\+'"), (["/a+b"], ["/a/b"], "no '\\+'"),
        (["/a/b"], ["/a+b"], "lie under its name"), (["/a/b", "/a+b"], ["/a+b"], "lie under its name"),
        (["/" + "a" * PATH_MAX_BYTES], [], "at most 229 bytes"), (["/" + "\u00e4" * 120], [], "at most 229 bytes"),
    ],
)  # fmt: skip
def test_a_new_volume_takes_no_other_ones_name(paths: list[str], before: list[str], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        check_new(paths, before)


def test_what_is_there_stays() -> None:
    check_new(["/data", "/a/b", "/" + "a" * (PATH_MAX_BYTES - 1)])
    check_new(["/a+b", "/data"], ["/a+b"])
    stored = App(name="old", command=("true",), volumes={"/a+b": {"size": 1 << 20}}).stored()
    assert "/a+b" in App.model_validate(stored).volumes, "an earlier version took it"

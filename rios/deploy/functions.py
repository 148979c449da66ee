"""Python functions as applications: by value, with all of their own module that they refer to.

Inside, the function is read by the interpreter of the version that packed it, which the base must have. What it imports
must be in the base, too. It is code of the user who deploys it, and runs in that user's sandbox alone.
"""

from __future__ import annotations

import base64
import io
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rios.deploy.spec import Function
from rios.words.errors import InvalidRequest

BYTES_MAX = 8 << 20
_FUNCTION, _LIBRARY = "function", "cloudpickle.zip"
_RUN = (
    f"import sys; sys.path.insert(0, '/run/rios/{_LIBRARY}'); import pickle; "
    f"pickle.load(open('/run/rios/{_FUNCTION}', 'rb'))()"
)


def packed(function: Callable[[], Any]) -> Function:
    """A function without arguments, as a specification carries it.

    Raises InvalidRequest for what is no function, cannot be pickled, or is larger than 8 MiB.
    """
    import cloudpickle

    name = getattr(function, "__qualname__", type(function).__name__)
    if not callable(function):
        raise InvalidRequest(f"{function!r} is no function: give one that takes no arguments")
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    by_value = module is not None and module.__name__ not in cloudpickle.list_registry_pickle_by_value()
    try:
        if by_value:  # the module is not there inside
            cloudpickle.register_pickle_by_value(module)
        payload = cloudpickle.dumps(function)
    except Exception as error:  # whatever the objects that it holds raise
        raise InvalidRequest(
            f"the function {name} cannot be sent: {error}; let it make inside what it needs"
        ) from error
    finally:
        if by_value:
            cloudpickle.unregister_pickle_by_value(module)
    if len(payload) > BYTES_MAX:
        raise InvalidRequest(
            f"the function {name} and what it holds are {len(payload)} bytes, and at most {BYTES_MAX} can be sent: "
            "read data from a volume"
        )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Function(payload=base64.b64encode(payload).decode(), python=version, name=name)


def command(function: Function) -> tuple[str, ...]:
    """What runs it inside."""
    return (f"python{function.python}", "-u", "-c", _RUN)


def files(function: Function) -> Mapping[str, bytes]:
    """What `command` reads: files for `Launch.files`. Raises InvalidRequest for a payload that is no base64."""
    try:
        payload = base64.b64decode(function.payload, validate=True)
    except ValueError as error:
        raise InvalidRequest(
            f"the function {function.name} is no base64: pack it with rios.deploy.functions"
        ) from error
    return {_FUNCTION: payload, _LIBRARY: _library()}


def _library() -> bytes:
    """The library that wrote the pickle, to read it: a few files of pure Python."""
    import cloudpickle

    buffer = io.BytesIO()
    root = Path(cloudpickle.__file__).parent
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(root.glob("*.py")):
            archive.write(path, f"cloudpickle/{path.name}")
    return buffer.getvalue()

"""A host that writes down how it was started."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rios.dmoe.host import Host


class Telling(Host):
    """Its settings and its folder are in the file that TELL names."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        said = {"call_timeout_s": options["settings"].call_timeout_s, "folder": str(Path.cwd()), "sid": os.getsid(0)}
        Path(os.environ["TELL"]).write_text(json.dumps(said))
        super().__init__(*arguments, **options)

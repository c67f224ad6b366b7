"""The JSON schema of a configuration file, by which editors complete and check it."""

from typing import Any, Final

from shared.host.configuration.model import Configuration

#: Where `deploy/install` puts it; generated files name it, so that editors find it.
URL: Final = "file:///usr/local/share/vmbackup/config.schema.json"


def schema() -> dict[str, Any]:
    """The schema of what may stand in a file: sections may be left out, and sizes have units."""
    made = Configuration.model_json_schema(mode="validation")
    made.pop("required", None)
    for table in made["$defs"].values():
        for setting in table.get("properties", {}).values():
            if setting.get("default") in ("", "."):  # stands for what the host says
                setting.pop("default")
    return {"$schema": "http://json-schema.org/draft-07/schema#", **made, "title": "vmbackup"}

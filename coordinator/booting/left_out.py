"""What a VM that runs from its copy has not, though its original had it."""

from coordinator.restore.completing import RestoreDifference
from shared.virtualbox.drives import image_drives
from shared.virtualbox.importing import ImportPlan
from shared.virtualbox.put_back import kept_host_access
from shared.virtualbox.settings_writing import parse_settings


def left_out(what: ImportPlan, kept: bytes) -> RestoreDifference:
    """It, by the settings that were kept. Raises `SettingsError` if they cannot be read."""
    machine = parse_settings(kept).find("Machine")
    drives = () if machine is None else tuple(image_drives(machine))
    discs = tuple(
        f"the image in its CD drive ({drive.path})" for drive in drives if drive.kind == "dvddrive"
    )
    return RestoreDifference(kept_host_access(kept), what.left_out, discs)

"""The resource file of the bare DRBD that figures are compared with. Pure.

It is the very file that the agent made DRBD read for one of its volumes, with another name, number,
port and other devices: whatever is set there is set here.
"""

from __future__ import annotations

import re

RESOURCE = "bench-bare"
MINOR = 500
"""The operator's numbers begin at 1000."""
PORT = 17500
"""The operator's ports begin at 7000 and count volumes."""
DONT_CARE = "dont-care"
"""The fencing policy that freezes nothing: what is left of a pause is DRBD's own detection."""


class BareConfigError(ValueError):
    """A resource file that does not look as the agent's do."""


def plan_config(agents: str, data_device: str, metadata_device: str, fencing: str = "") -> str:
    """The agent's file for the bare resource. ``fencing``: another policy than the agent's.

    BareConfigError when a part that must change is not there, so that a comparison with other
    settings is never made in silence.
    """
    changes = (
        (r'resource "[^"]+"', f'resource "{RESOURCE}"', 1),
        (r"(floating ipv[46] \S+):\d+ \{", rf"\1:{PORT} {{", 2),
        (r"device minor \d+;", f"device minor {MINOR};", 2),
        (r"(?<!meta-)disk /\S+;", f"disk {data_device};", 2),
        (r"meta-disk /\S+;", f"meta-disk {metadata_device};", 2),
    )
    text = agents
    for pattern, replacement, wanted in changes:
        text, count = re.subn(pattern, replacement, text)
        if count != wanted:
            raise BareConfigError(f"{pattern} is {count} times in the agent's file, not {wanted}")
    if fencing:
        text, count = re.subn(r"fencing [a-z-]+;", f"fencing {fencing};", text)
        if count != 1:
            raise BareConfigError(f"the agent's file has {count} fencing policies, not one")
    return text

"""Whether Weights & Biases can be used from here, and how it fails."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from urllib.parse import urlparse

_HOSTS = ("wandb", "coreweave")


def has_key() -> bool:
    """Whether wandb will find credentials: WANDB_API_KEY, a token file, or `wandb login`'s.

    wandb itself is not imported: that takes longer than the question is worth.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        hosts = netrc.netrc(str(path)).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    if own := os.environ.get("WANDB_BASE_URL"):
        return urlparse(own).hostname in hosts
    return any(name in host for host in hosts for name in _HOSTS)


def failures() -> tuple[type[Exception], ...]:
    """What wandb raises when it cannot go on; its mailbox has errors outside its own family."""
    import wandb
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    return (wandb.Error, HandleAbandonedError, MailboxClosedError, OSError, RuntimeError,
            ValueError, TypeError)  # fmt: skip

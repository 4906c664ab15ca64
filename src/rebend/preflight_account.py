"""The account that jobs are sent to a Slurm cluster under, looked at before the first is sent."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Iterable

from rebend.errors import ConfigError, likely_typo


def check_accounts(named: Iterable[str]) -> None:
    """Raise `ConfigError` for a `slurm_account` that this user does not have; nothing where no accounts are kept.

    Snakemake's executor looks too, but a group of jobs that it cannot send leaves a run waiting without a word.
    """
    wanted = {word for accounts in named for word in re.split(r"[,\s]+", accounts) if word}
    if not wanted or not (known := _accounts()):
        return
    for account in sorted(wanted):
        if account.lower() not in known:
            raise ConfigError(
                f"slurm_account: '{account}' is none of your accounts on this cluster ({', '.join(sorted(known))})."
                f"{likely_typo(account, known)} It is set in the profile's `default-resources`, or on the command line."
            )


def _accounts() -> set[str]:
    """The user's accounts; none where the cluster keeps none, or does not answer."""
    command = ["sacctmgr", "-n", "-P", "-s", "list", "user", getpass.getuser(), "format=account"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return set()
    return {line.strip().lower() for line in done.stdout.splitlines() if line.strip()}

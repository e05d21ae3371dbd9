"""Tests that are not of this directory, each with a bug in the server that it is to find.

What they test, and that a server without a bug passes, is in their own modules.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import Phase, settings

from tests import (
    test_attacks_access,
    test_attacks_files,
    test_chat_crowds,
    test_chat_room,
    test_logs,
    test_model,
    test_protocol_files,
    test_protocol_pressure,
    test_store_away,
)
from tests.chaos import plants
from tests.chaos.control import judged, planted
from tests.chaos.pair import Make
from tests.fake_store import Scene
from tests.service import Valkey

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("tally")]

places = test_logs.places


@planted("no-repeats")
def test_conversations_differ_from_the_model(buggy: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    # The shortest conversation that shows it is of no interest here, and takes long to find.
    brief = settings(test_model.PROFILE, phases=[Phase.generate], max_examples=1000)
    monkeypatch.setattr(test_model, "PROFILE", brief)
    with judged(r"^assert [\[{]"):  # messages are others than expected, or more
        test_model.test_a_server_does_what_the_model_does(buggy)


@planted("endless-buffer")
def test_what_is_not_read_takes_memory(buggy: Make) -> None:
    with judged(r"\.memory"):
        test_protocol_pressure.test_a_client_that_does_not_read_misses_nothing_and_takes_no_memory(
            buggy().start(), "seed"
        )


@planted("never-full", always=True)
@pytest.mark.usefixtures("here")
def test_a_full_disk_of_the_store_is_not_heeded() -> None:
    with judged(r"not True\n.*Frame\(response='SENDMSG', ok=True"):
        test_chat_room.test_with_a_full_store_nothing_new_is_stored(Scene(), "SENDMSG")


@planted("never-full", always=True)
@pytest.mark.usefixtures("here")
def test_a_full_disk_of_files_is_not_heeded() -> None:
    with judged(r"not True\n.*Frame\(response='SENDMSG', ok=True"):
        test_chat_room.test_with_a_full_disk_of_files_texts_go_on(Scene())


@planted("failed-group-ok", always=True)
def test_what_a_full_store_refuses_is_answered_ok(valkey: Callable[..., Valkey], buggy: Make) -> None:
    with judged("At index 0 diff: 'OK' != 'ERR'"):
        test_store_away.test_a_full_store_refuses_what_is_new_and_gives_what_it_has(valkey, buggy)


@planted("anybodys-message", always=True)
def test_a_third_person_gets_a_file_by_its_message(buggy: Make) -> None:
    with judged(r"^FETCHFILE\n"):
        third_person(buggy)


@planted("anybodys-hash")
def test_a_third_person_gets_a_file_by_its_hash(buggy: Make) -> None:
    with judged(r"^FINDFILE\n"):
        third_person(buggy)


def third_person(make: Make) -> None:
    """One asks for what two others have."""
    scene = test_attacks_access.meet(make().start())
    test_attacks_access.test_what_others_have_is_answered_as_what_nobody_has(scene)


@planted("any-sender", always=True)
def test_one_sends_in_another_name(buggy: Make) -> None:
    server = buggy().start()
    scene = test_attacks_access.meet(server)
    with judged(r"diff: \('SENDMSG', True\) != \('SENDMSG', False\)"):
        test_attacks_access.test_whoever_is_logged_in_sends_in_no_other_name(scene, server)


@planted("any-md5")
def test_a_path_is_taken_for_an_md5(buggy: Make) -> None:
    with judged("has 32 hexadecimal digits"):
        test_attacks_files.test_no_name_leads_out_of_the_directory(buggy)


@planted("followed-links", always=True)
def test_a_link_gives_away_what_it_points_to(buggy: Make) -> None:
    with judged("payload=b'secret'"):
        test_attacks_files.test_a_link_among_the_blobs_gives_nothing_away(buggy)


@planted("named-by-md5", always=True)
def test_of_twins_one_is_given_for_both(buggy: Make) -> None:
    with judged(r"At index 1 diff"):
        test_protocol_files.test_two_files_of_one_md5_stay_two(buggy().start())


@planted("newest-twin")
def test_of_twins_one_is_had_by_hash(buggy: Make) -> None:
    with judged(r"not True\n.*has\("):
        test_attacks_files.test_of_twins_a_user_has_neither_by_hash_and_each_by_message(buggy().start())


@planted("all-at-once", always=True)
@pytest.mark.usefixtures("here")
def test_all_who_go_are_noted_at_once() -> None:
    with judged(r"^assert \d+ == \d+$"):
        test_chat_crowds.test_those_who_go_together_are_noted_some_at_a_time(Scene())


@planted("noted-too-late", always=True)
@pytest.mark.usefixtures("here")
def test_who_is_back_is_noted_as_offline() -> None:
    with judged(r"^assert \(\d+, .* in \{"):
        test_chat_crowds.test_who_is_back_before_it_was_noted_stays_online(Scene())


@planted("logged-bodies", always=True)
def test_what_is_said_is_logged(
    places: Callable[[str], test_logs.Place], bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(test_logs.LOGGERS, "text", plants.command(bug))
    with judged(r"^assert not \{"):
        test_logs.test_the_log_has_no_secret_and_a_line_an_event("text", places)

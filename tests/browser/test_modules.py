"""The page's modules against the Python that they have to agree with, in the browser that runs them."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from chatsvc.client.forms import PLAIN, message_name
from chatsvc.wire.frames import RELEASED, frame
from tests.browser.person import Person

TEXTS = ["", "a", "bob", "Ym9i", "Ym9", "YQ==", "YR==", "////", "é", "\N{PILE OF POO}", "a\0b", "=", "aGk=\n"]


def on_page(person: Person, module: str, code: str, *values: Any) -> Any:
    """What `code`, a function's body that knows a `module` of the page and some `values`, returns."""
    script = f"async (values) => {{ const module = await import('/{module}'); {code} }}"
    return person.page.evaluate(script, list(values))


def test_md5_is_that_of_everybody(person: Person) -> None:
    lengths = [*range(130), 1000, 65536, 1024 * 1024 + 17]
    found = on_page(
        person,
        "md5.js",
        """
        const bytes = (length) => Uint8Array.from({ length }, (_, at) => (at * 7 + length) & 0xff);
        const whole = values.map((length) => module.md5(bytes(length)));
        const parts = new module.Md5();
        for (let at = 0; at < 1000; at += 37) parts.update(bytes(1000).subarray(at, at + 37));
        const blob = await module.md5OfBlob(new Blob([bytes(values[values.length - 1])]));
        return [whole, parts.hex(), blob];
        """,
        *lengths,
    )

    def digest(length: int) -> str:
        return hashlib.md5(bytes((at * 7 + length) & 0xFF for at in range(length))).hexdigest()

    assert found == [[digest(length) for length in lengths], digest(1000), digest(lengths[-1])]


def test_names_contents_and_passwords_are_those_of_the_client_library(person: Person) -> None:
    wires = [*TEXTS, *map(PLAIN.write, TEXTS), base64.b64encode(b"\xff\xfe").decode()]
    code = "return [values[0].map(module.written), values[1].map(module.shown), values[0].map(module.hashed)]"
    written, shown, hashed = on_page(person, "forms.js", code, TEXTS, wires)
    assert written == [PLAIN.write(text) for text in TEXTS]
    assert shown == [PLAIN.read(wire) for wire in wires]
    assert hashed == [PLAIN.password(text) for text in TEXTS]


def test_messages_are_named_as_by_the_client_library(person: Person) -> None:
    cases = [(text, 1, 2**33 + 7, 1_700_000_000_123) for text in TEXTS]
    found = on_page(person, "forms.js", "return values.map((one) => module.messageName(...one))", *cases)
    assert found == [message_name(*case) for case in cases]


def test_frames_are_those_of_the_server(person: Person) -> None:
    code = "return Array.from(module.encode(...values))"
    request = bytes(on_page(person, "wire.js", code, "SENDMSG", {"content": "é"}, 7, 2**40))
    assert json.loads(request[12:]) == {"request": "SENDMSG", "body": {"content": "é"}, "tokenid": 7}
    assert request == frame(RELEASED, request[12:], 2**40)


def test_answers_are_read_wherever_the_network_cuts_them(person: Person) -> None:
    answers = [{"response": f"KIND{number}", "body": "x" * number} for number in (0, 1, 300)]
    stream = b"".join(
        frame(RELEASED, json.dumps(answer).encode(), size) + bytes(range(size))
        for answer, size in zip(answers, (0, 5, 250), strict=True)
    )
    code = """
    const [stream, ...sizes] = values;
    return sizes.map((size) => {
        const got = [], payload = [];
        const reader = new module.FrameReader((...one) => got.push(one), (part) => payload.push(...part));
        for (let at = 0; at < stream.length; at += size) {
            reader.receive(Uint8Array.from(stream.slice(at, at + size)));
        }
        return [got, payload];
    });
    """
    expected = [[[answer, size] for answer, size in zip(answers, (0, 5, 250), strict=True)]]
    expected.append([*range(5), *range(250)])
    sizes = [1, 2, 7, 12, 64, len(stream)]
    assert on_page(person, "wire.js", code, list(stream), *sizes) == [expected] * len(sizes)


def test_what_is_no_frame_is_refused(person: Person) -> None:
    code = """
    return values.map((bytes) => {
        try { new module.FrameReader(() => {}, () => {}).receive(Uint8Array.from(bytes)); return false; }
        catch { return true; }
    });
    """
    good = frame(RELEASED, b"{}")
    bad = [b"\xff" * 12, bytes(12), frame(RELEASED, b"no"), good[:4] + b"\xff" * 8]
    assert on_page(person, "wire.js", code, *(list(data) for data in [good, *bad])) == [False] + [True] * 4


def test_files_are_saved_under_harmless_names(person: Person) -> None:
    names = {
        "photo.jpg": "photo.jpg",
        "../../etc/passwd": "passwd",
        "C:\\con\\a.txt": "a.txt",
        "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe": "gpj.exe",
        ".bashrc": "bashrc",
        "": "file",
        "...": "file",
        'a<b>"c"|d?.txt': "a_b__c__d_.txt",
        "x" * 300 + ".tar": "x" * 116 + ".tar",
        "données ✓.bin": "données ✓.bin",
    }
    found = on_page(person, "forms.js", "return values.map(module.fileName)", *names)
    assert found == list(names.values())


def test_others_are_told_of_typing_now_and_then(person: Person) -> None:
    code = """
    const told = [];
    const ask = async (kind, body) => told.push(body.typing);
    const people = { contacts: new Set([2]) };
    const typing = new module.Typing({ features: new Set(["typing"]), people, ask, emit() {} });
    const { now } = Date;
    const steps = values.map(([time, peer, text]) => {
        Date.now = () => time;
        if (text === null) typing.sent();
        else typing.typed(peer, text);
        return told.splice(0);
    });
    Date.now = now;
    return steps;
    """
    steps: list[tuple[int, int, str | None, list[bool]]] = [
        (10_000, 3, "To a stranger", []),
        (10_000, 2, "H", [True]),
        (13_999, 2, "He", []),
        (14_000, 2, "Hel", [True]),
        (14_001, 2, " ", [False]),
        (14_002, 2, "", []),
        (14_003, 2, "H", [True]),
        (14_004, 2, None, []),
        (14_005, 2, "A", [True]),
    ]
    assert on_page(person, "typing.js", code, *(step[:3] for step in steps)) == [step[3] for step in steps]


def test_who_types_is_shown_for_a_while(person: Person) -> None:
    code = """
    const timers = [];
    const people = { contacts: new Set([2]) };
    const typing = new module.Typing({ people, emit() {} });
    const { setTimeout } = globalThis;
    globalThis.setTimeout = (work, pause) => timers.push({ work, pause });
    for (const userid of [2, 3]) typing.heard({ userid, typing: true });
    globalThis.setTimeout = setTimeout;
    const shown = [typing.writes(2), typing.writes(3)];
    timers[0].work();
    return [shown, timers[0].pause, typing.writes(2)];
    """
    assert on_page(person, "typing.js", code) == [[True, False], 6000, False]


def test_when_somebody_was_last_seen_is_said_as_people_do(person: Person) -> None:
    code = """
    const noon = new Date();
    noon.setHours(12, 5, 0, 0);
    const yesterday = new Date(noon);
    yesterday.setDate(noon.getDate() - 1);
    const { lastSeen } = module.texts;
    return [noon, yesterday, new Date(2020, 0, 31)].map((date) => lastSeen(date.getTime()));
    """
    assert on_page(person, "texts.js", code) == [
        "last seen today at 12:05",
        "last seen yesterday",
        "last seen on January 31, 2020",
    ]


#: What tests of what is kept begin with: a store, and messages of user 1 to user 2 or back, named by numbers.
KEPT = """
const { Store } = await import('/store.js');
const store = await Store.open();
const message = (name, userid, timestamp = name, state = "stored") => ({
    owner: 1, peer: 2, userid, targetid: 3 - userid, contenttype: "plaintext", content: "", timestamp,
    md5encoded: String(name), filemd5: null, state,
});
"""


def test_marks_stand_for_all_that_was_stored_before(person: Person) -> None:
    code = """
    const client = Object.assign(new EventTarget(), { me: { userid: 1 }, store, emit() {} });
    const marks = new module.Marks(client);
    const told = (mark, name) =>
        marks.heard({ marks: [{ userid: 2, targetid: 1, mark, timestamp: name, md5encoded: String(name) }] });
    const seen = [];
    const [file, text] = await store.add([message(1, 1, 1, "waiting"), message(2, 1)]);
    await told("read", 2);
    await store.update(Object.assign(file, { state: "stored" }));
    seen.push([marks.of(file), marks.of(text)]);
    await told("delivered", 1);
    await told("delivered", 2);
    seen.push([marks.of(file), marks.of(text)]);
    await told("read", 5);
    const [four, six] = await store.add([message(4, 1), message(6, 1)]);
    seen.push([marks.of(file), marks.of(four), marks.of(six)]);
    const [five, slow] = await store.add([message(5, 1), message(7, 1, 3)]);
    seen.push([marks.of(five), marks.of(slow)]);
    client.dispatchEvent(new CustomEvent("change", { detail: { what: "messages", messages: [five] } }));
    await told("delivered", 1);  // which goes back, and comes after what was begun before
    seen.push([marks.of(five), marks.of(slow)]);
    const again = new module.Marks(client);
    await again.load();
    return [...seen, [again.of(file), again.of(five), again.of(slow)]];
    """
    assert on_page(person, "marks.js", KEPT + code) == [
        [None, "read"],  # a file whose sending took longer
        ["delivered", "read"],  # and no mark goes back
        ["read", "read", None],  # without the message, by time
        ["read", "read"],  # as long as nobody has looked: of a device whose clock is slow
        ["read", None],
        ["read", "read", None],  # from what is kept
    ]


def test_one_mark_is_told_for_all_that_came_together(person: Person) -> None:
    code = """
    const told = [];
    const ask = async (kind, { userid, mark, md5encoded }) => told.push([userid, mark, md5encoded]);
    const inbox = { working: true };
    const people = { contacts: new Set([2, 3]) };
    const client = { me: { userid: 1 }, store, features: new Set(["marks"]), inbox, people, ask };
    const marks = new module.Marks(Object.assign(new EventTarget(), client));
    const [from2, again, from3, stranger] = [[1, 2], [2, 2], [3, 3], [4, 4]].map(
        ([seq, peer]) => ({ ...message(seq, peer), seq, peer }),
    );
    const timers = [];
    const { setTimeout } = globalThis;
    globalThis.setTimeout = (work) => timers.push(work);
    marks.got([from2, again, from3, stranger]);
    marks.sendSoon();
    const early = timers.length;
    inbox.working = false;
    marks.read(again);
    await timers.pop()();
    await marks.setTellsRead(false);
    const last = { ...message(5, 2), seq: 5 };
    marks.got([last]);
    marks.read(last);
    await timers.pop()();
    globalThis.setTimeout = setTimeout;
    return [early, told];
    """
    told = [[2, "read", "2"], [3, "delivered", "3"], [2, "delivered", "5"]]
    assert on_page(person, "marks.js", KEPT + code) == [0, told]


def test_what_was_read_elsewhere_is_not_unread_here(person: Person) -> None:
    code = """
    const unread = async () => (await store.conversations(1)).find((one) => one.peer === 2).unread;
    await store.clear();
    await store.readUpTo(1, 2, { timestamp: 5, md5encoded: "5" });
    const found = [];
    const slow = message(7, 2, 3);
    for (const batch of [[message(4, 2), message(6, 2)], [message(5, 2)], [slow, message(8, 2)]]) {
        await store.add(batch);
        found.push(await unread());
    }
    for (const name of [slow, message(9, 2)]) {
        await store.readUpTo(1, 2, name);
        found.push(await unread());
    }
    return found;
    """
    assert on_page(person, "store.js", KEPT + code) == [1, 0, 2, 1, 0]

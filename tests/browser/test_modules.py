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

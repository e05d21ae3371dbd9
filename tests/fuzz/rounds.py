"""Rounds of hostile conversations with a running server: seeded, interleaved, cut anywhere, checked.

What is said in them is ``grammar``'s matter; what must hold of the server beside them is ``watch``'s.
"""

from __future__ import annotations

import socket
from collections import deque
from contextlib import suppress
from random import Random

from tests.fuzz.grammar import Grammar, Person, Step
from tests.fuzz.watch import Watch
from tests.raw import HEADERS, Raw, unique

#: What a peer does when it has said all, and how often. Only the last two do not read what comes back.
ENDS = {"half-close": 6, "violation": 4, "half a frame": 3, "reset": 3, "close": 2}
DEAF = {"reset", "close"}


class Talk:
    """One hostile connection: all that it says, in pieces, and all that must come back."""

    def __init__(self, random: Random, raw: Raw, grammar: Grammar) -> None:
        self.raw = raw
        self.end = random.choices(list(ENDS), list(ENDS.values()))[0]
        self.steps = [grammar.first(), *(grammar.next() for _ in range(random.randrange(12)))]
        if self.end == "violation":
            self.steps.append(grammar.violation())
        stream = b"".join(step.data for step in self.steps)
        if self.end == "half a frame":
            half = grammar.first().data
            stream += half[: random.randrange(1, len(half))]
        elif self.end in DEAF:
            stream = stream[: random.randrange(len(stream))]
        self.pieces = deque(_cut(random, stream))
        raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self) -> None:
        """Send the next piece."""
        try:
            self.raw.socket.sendall(self.pieces.popleft())
        except ConnectionError:
            assert any(step.may_end for step in self.steps) or self.end == "violation"
            self.pieces.clear()

    def conclude(self, deadline: float) -> None:
        """End it, and check what came back."""
        if self.end == "reset":
            self.raw.reset()
        elif self.end != "close":
            if self.end != "violation":
                with suppress(OSError):  # it was closed already, as it may have been
                    self.raw.socket.shutdown(socket.SHUT_WR)
            if self._answered(deadline):
                self._nothing_more()
        self.raw.close()

    def _answered(self, deadline: float) -> bool:
        """Whether all was answered; if not, the connection was closed where it may be."""
        may_end = False
        for step in self.steps:
            try:
                if step.kinds:
                    self._take_answer(step, deadline)
                    may_end = False
                may_end |= step.may_end
            except ConnectionError:
                assert may_end, f"closed instead of {set(step.kinds)}"
                assert not self.raw.unread, "closed in the middle of a frame"
                return False
        return True

    def _take_answer(self, step: Step, deadline: float) -> None:
        found = self.raw.answer(deadline)
        assert found.response in step.kinds, (found, step.kinds)
        assert not (step.refused and found.ok), found
        if found.response == "FETCHMSG":
            while found.ok and found.body["more"] and not step.limited:
                found = self.raw.answer(deadline)
                assert found.response == "FETCHMSG", found
        elif found.response == "ADDCONTACT" and self.raw.dialect == "released":
            assert self.raw.answer(deadline).response == "FETCHCONTACT"

    def _nothing_more(self) -> None:
        late = {answer.response for answer in self.raw.rest()}
        assert late <= {"FORWARDMSG", "TOKEN"}, late


class Rounds:
    """Rounds with one seed; each needs nothing from those before it, so that one can be had again alone."""

    def __init__(self, watch: Watch, seed: int) -> None:
        self._watch = watch
        self._seed = seed
        #: Frames that were sent, some not to their end.
        self.frames = 0

    def play(self, number: int) -> None:
        """One round: some connections side by side, and the good clients among them."""
        random = Random(f"{self._seed}/{number}")
        talks: list[Talk] = []
        try:
            people = [self._person() for _ in range(3)]
            for _ in range(random.randint(2, 6)):
                raw = Raw(self._watch.server.address, random.choice(list(HEADERS)))
                chance = Random(random.getrandbits(64))
                talks.append(Talk(chance, raw, Grammar(chance, raw.dialect, people, self._watch.plant)))
            self._let_talk(random, talks)
        except BaseException as error:
            error.add_note(f"Again: python -m tests.fuzz socket --seed {self._seed} --round {number}")
            self._watch.alive()
            raise
        finally:
            for talk in talks:
                talk.raw.close()

    def _let_talk(self, random: Random, talks: list[Talk]) -> None:
        speaking = list(talks)
        while speaking:
            talk = random.choice(speaking)
            talk.say()
            if not talk.pieces:
                speaking.remove(talk)
            if random.random() < 0.01:
                self._watch.served()
        for talk in talks:
            self.frames += len(talk.steps)
            talk.conclude(self._watch.deadline)
            if talk.raw.token is not None:
                self._watch.plant(str(talk.raw.token))
        self._watch.served()

    def _person(self) -> Person:
        with Raw(self._watch.server.address) as raw:
            name = unique("fuzz")
            password = self._watch.plant(f"password of {name}")
            user = raw.register(name, password)
            token = int(self._watch.plant(str(raw.token)))
            return Person(user, name, password, token)


def _cut(random: Random, stream: bytes) -> list[bytes]:
    """`stream` in one piece, or in pieces of mixed sizes, some of a byte or two."""
    sizes = random.choice([[len(stream) or 1], [1, 2, 3, 8, 13, 500, 20_000], [500, 1460, 30_000]])
    pieces, at = [], 0
    while at < len(stream):
        size = random.choice(sizes)
        pieces.append(stream[at : at + size])
        at += size
    return pieces or [b""]

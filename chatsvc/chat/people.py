"""Requests about people: accounts, profiles, contacts, and finding each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from msgspec import UNSET

from chatsvc.chat.calls import Call, request
from chatsvc.chat.guard import Attempt
from chatsvc.store.accounts import User
from chatsvc.tasks import gather, spawn
from chatsvc.wire import errors, invites, schema, text
from chatsvc.wire.errors import Refusal
from chatsvc.wire.schema import UserInfo

#: Records that FETCHCONTACT asks the store for at a time.
_AT_ONCE = 200
#: Characters of avatars in one FETCHCONTACT answer; beyond them the later users come without.
AVATARS_IN_ANSWER = 16 * 1024 * 1024


def user_info(call: Call, user: User) -> UserInfo:
    """A user as the reader of this call's answer can read it."""
    return UserInfo(user.id, text.for_released(user.name) if call.wraps else user.name, user.avatar)


async def _existing(call: Call, user_id: int) -> User:
    user = await call.hub.store.accounts.get(user_id)
    if user is None:
        raise Refusal(errors.USER_NOT_FOUND)
    return user


def _check(problem: str | None) -> None:
    if problem is not None:
        raise Refusal(problem)


@request("STATE", schema.Features)
async def state(call: Call, body: schema.Features) -> UserInfo:
    """Who is logged in on this device; a client may say which features it knows."""
    user = user_info(call, await _existing(call, call.user_id))
    if body.features is None:
        return user
    call.hub.guard.admit("people_rate", call.session)  # of each contact something may have to be looked up
    granted = call.hub.extras.grant(call.session, body.features)
    return schema.OwnInfo(user.userid, user.username, user.avatar, granted)


@request("REGISTER", schema.Registration, login=False, grows=True)
async def register(call: Call, body: schema.Registration) -> UserInfo:
    """Create a user, and bind the device; where an invite is needed, one that is good."""
    hub, guard = call.hub, call.hub.guard
    name, code = _with_invite(hub.limits.registration, body)
    _check(text.check_name(name))
    _check(text.check_password(body.passwd))
    with guard.registration(call.session) as made, guard.probe(call.session) as probe:
        async with _invited(call, code, probe):
            if await hub.store.accounts.find(name) is not None:
                probe.counts()
                raise Refusal(errors.NAME_TAKEN)  # before a costly hash; what decides is create()
            hashed = await hub.passwords.hash(body.passwd, guard.turn(call.session))
            user = await hub.store.accounts.create(name, hashed)
        made.counts()
    await hub.bind(call.device, user.id, hashed, call.session)
    return user_info(call, user)


def _with_invite(registration: str, body: schema.Registration) -> tuple[str, str | None]:
    """The name of a new account, and the code of its invite if it needs one."""
    if registration == "open":
        return body.username, None
    if registration == "closed":
        raise Refusal(errors.REGISTRATION_CLOSED)
    name, code = (body.username, body.invite) if body.invite is not None else invites.split(body.username)
    if code is None:
        raise Refusal(errors.NEEDS_INVITE)
    return name, code


@asynccontextmanager
async def _invited(call: Call, code: str | None, probe: Attempt) -> AsyncIterator[None]:
    """Use an invite, if one is needed; it is given back if there is no account at the end."""
    store = call.hub.store.invites
    if code is not None and not await store.take(code):
        probe.counts()
        raise Refusal(errors.WRONG_INVITE)
    try:
        yield
    except Exception:
        if code is not None:
            spawn(store.give_back(code), "giving an invite back")
        raise


@request("LOGIN", schema.Credentials, login=False)
async def login(call: Call, body: schema.Credentials) -> UserInfo:
    """Bind the device. A name that nobody has costs the same time as a wrong password."""
    hub, accounts = call.hub, call.hub.store.accounts
    with await _attempt(call, text.name_key(body.username)) as attempt:
        user = await accounts.find(body.username)
        stored = await accounts.password_hash(user.id if user is not None else 0)
        matches = await hub.passwords.verify(body.passwd, stored, hub.guard.turn(call.session))
        if not matches or user is None or stored is None:
            attempt.counts()
            raise Refusal(errors.BAD_CREDENTIALS)
    if not await hub.bind(call.device, user.id, stored, call.session):
        raise Refusal(errors.BAD_CREDENTIALS)  # the password was changed meanwhile
    return user_info(call, user)


async def _attempt(call: Call, name: str) -> Attempt:
    """Count a LOGIN, for its device if that was this user's before.

    Whether there is an account of this name is not asked, or the time until a refusal would tell it.
    """
    guard, device = call.hub.guard, call.device
    if device.last_user is not None:
        user = await call.hub.store.accounts.get(device.last_user)
        if user is not None and text.name_key(user.name) == name:
            return guard.own_password(call.session, device)
    return guard.password(call.session, name)


@request("LOGOUT", schema.Nothing, login=False, limit=None)
async def logout(call: Call, _: schema.Nothing) -> None:
    """Unbind the device; no error if it is not bound."""
    if call.device.user_id is not None:
        await call.hub.store.devices.unbind(call.device.id, call.device.user_id)
        call.hub.unbound(call.device)


@request("PROFILE", schema.UserRef, limit="people_rate")
async def profile(call: Call, body: schema.UserRef) -> UserInfo:
    """Somebody's profile."""
    return user_info(call, await _existing(call, body.userid))


@request("MODIFYPROFILE", schema.ProfileChange, limit="people_rate", grows=True)
async def modify_profile(call: Call, body: schema.ProfileChange) -> UserInfo:
    """Change one's name or avatar; all is checked before anything is changed."""
    accounts = call.hub.store.accounts
    user = await _existing(call, call.user_id)
    limit = call.hub.limits.avatar
    if body.avatar is not UNSET and body.avatar is not None and len(body.avatar) > limit:
        raise Refusal(f"An avatar may have at most {limit} characters, not {len(body.avatar)}.")
    if body.username is not None and text.name_key(body.username) != text.name_key(user.name):
        _check(text.check_name(body.username))
        await accounts.rename(user, body.username)
    if body.avatar is not UNSET:
        await accounts.set_avatar(user.id, body.avatar)
    return user_info(call, await _existing(call, user.id))


@request("MODIFYPASSWD", schema.PasswordChange)
async def modify_password(call: Call, body: schema.PasswordChange) -> None:
    """Change one's password; all other devices are logged out."""
    hub = call.hub
    _check(text.check_password(body.newPasswd))
    turn = hub.guard.turn(call.session)
    with hub.guard.own_password(call.session, call.device) as attempt:
        stored = await hub.store.accounts.password_hash(call.user_id)
        if stored is None or not await hub.passwords.verify(body.passwd, stored, turn):
            attempt.counts()
            raise Refusal(errors.WRONG_PASSWORD)
    hashed = await hub.passwords.hash(body.newPasswd, turn)
    if not await hub.store.devices.change_password(call.user_id, stored, hashed, call.device.id):
        raise Refusal(errors.WRONG_PASSWORD)  # it was changed meanwhile


@request("SEARCHUSR", schema.Search, limit="people_rate")
async def search(call: Call, body: schema.Search) -> UserInfo:
    """Find a user by exact name, or by id."""
    if body.username is not None:
        user = await call.hub.store.accounts.find(body.username)
    elif body.userid is not None:
        user = await call.hub.store.accounts.get(body.userid)
    else:
        raise Refusal("SEARCHUSR needs a username or a userid.")
    if user is None:
        raise Refusal(errors.USER_NOT_FOUND)
    return user_info(call, user)


@request("ADDCONTACT", schema.UserRef, limit="people_rate", followed_by="FETCHCONTACT", grows=True)
async def add_contact(call: Call, body: schema.UserRef) -> None:
    """Add somebody; who was added accepts by adding back."""
    await _check_other(call, body.userid, "add yourself as a contact")
    await call.hub.store.contacts.add(call.user_id, body.userid, call.device.id)


@request("REMOVECONTACT", schema.UserRef, limit="people_rate", feature="contacts")
async def remove_contact(call: Call, body: schema.UserRef) -> None:
    """End a relation, whatever it is."""
    _check_not_oneself(call, body.userid, "remove yourself from your contacts")
    await call.hub.store.contacts.remove(call.user_id, body.userid, call.device.id)


@request("BLOCKCONTACT", schema.UserRef, limit="people_rate", feature="contacts", grows=True)
async def block_contact(call: Call, body: schema.UserRef) -> None:
    """End a relation, and take nothing from that user any more."""
    await _check_other(call, body.userid, "block yourself")
    await call.hub.store.contacts.block(call.user_id, body.userid, call.device.id)


@request("UNBLOCKCONTACT", schema.UserRef, limit="people_rate", feature="contacts")
async def unblock_contact(call: Call, body: schema.UserRef) -> None:
    """Let a user write and ask again."""
    _check_not_oneself(call, body.userid, "unblock yourself")
    await call.hub.store.contacts.unblock(call.user_id, body.userid, call.device.id)


def _check_not_oneself(call: Call, user_id: int, what: str) -> None:
    if user_id == call.user_id:
        raise Refusal(f"You cannot {what}.")


async def _check_other(call: Call, user_id: int, what: str) -> None:
    _check_not_oneself(call, user_id, what)
    await _existing(call, user_id)


@request("FETCHCONTACT", schema.Nothing)
async def fetch_contacts(call: Call, _: schema.Nothing) -> schema.Contacts:
    """All contacts and open requests of the user, by ascending id; blocked ones for who knows the feature."""
    contacts = call.hub.store.contacts
    relations: list[list[int]] = list(await contacts.of(call.user_id))
    if call.session.has("contacts"):
        relations.append(await contacts.blocked(call.user_id))
    found: dict[int, UserInfo] = {}
    left = AVATARS_IN_ANSWER
    wanted = [user_id for ids in relations for user_id in ids]
    for start in range(0, len(wanted), _AT_ONCE):
        for user in await gather(map(call.hub.store.accounts.get, wanted[start : start + _AT_ONCE])):
            if user is None:
                continue
            left -= len(user.avatar or "")
            found[user.id] = user_info(call, user if left >= 0 else user._replace(avatar=None))

    def infos(ids: Iterable[int]) -> list[UserInfo]:
        return [found[user_id] for user_id in ids if user_id in found]

    return schema.Contacts(*map(infos, relations))

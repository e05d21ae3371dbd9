"""Requests about people: accounts, profiles, contacts, and finding each other."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET

from chatsvc.chat.calls import Call, request
from chatsvc.store.accounts import User
from chatsvc.tasks import gather
from chatsvc.wire import errors, schema, text
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


@request("STATE", schema.Nothing)
async def state(call: Call, _: schema.Nothing) -> UserInfo:
    """Who is logged in on this device."""
    return user_info(call, await _existing(call, call.user_id))


@request("REGISTER", schema.Credentials, login=False)
async def register(call: Call, body: schema.Credentials) -> UserInfo:
    """Create a user, and bind the device."""
    hub = call.hub
    _check(text.check_name(body.username))
    _check(text.check_password(body.passwd))
    if await hub.store.accounts.find(body.username) is not None:
        raise Refusal(errors.NAME_TAKEN)  # before a costly hash; what decides is create()
    hashed = await hub.passwords.hash(body.passwd)
    user = await hub.store.accounts.create(body.username, hashed)
    await hub.bind(call.device, user.id, hashed, call.session)
    return user_info(call, user)


@request("LOGIN", schema.Credentials, login=False)
async def login(call: Call, body: schema.Credentials) -> UserInfo:
    """Bind the device. A name that nobody has costs the same time as a wrong password."""
    hub = call.hub
    user = await hub.store.accounts.find(body.username)
    stored = await hub.store.accounts.password_hash(user.id if user is not None else 0)
    if not await hub.passwords.verify(body.passwd, stored) or user is None or stored is None:
        raise Refusal(errors.BAD_CREDENTIALS)
    if not await hub.bind(call.device, user.id, stored, call.session):
        raise Refusal(errors.BAD_CREDENTIALS)  # the password was changed meanwhile
    return user_info(call, user)


@request("LOGOUT", schema.Nothing, login=False)
async def logout(call: Call, _: schema.Nothing) -> None:
    """Unbind the device; no error if it is not bound."""
    if call.device.user_id is not None:
        await call.hub.store.devices.unbind(call.device.id, call.device.user_id)
        call.hub.unbound(call.device)


@request("PROFILE", schema.UserRef)
async def profile(call: Call, body: schema.UserRef) -> UserInfo:
    """Somebody's profile."""
    return user_info(call, await _existing(call, body.userid))


@request("MODIFYPROFILE", schema.ProfileChange)
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
    stored = await hub.store.accounts.password_hash(call.user_id)
    if stored is None or not await hub.passwords.verify(body.passwd, stored):
        raise Refusal(errors.WRONG_PASSWORD)
    hashed = await hub.passwords.hash(body.newPasswd)
    if not await hub.store.devices.change_password(call.user_id, stored, hashed, call.device.id):
        raise Refusal(errors.WRONG_PASSWORD)  # it was changed meanwhile


@request("SEARCHUSR", schema.Search)
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


@request("ADDCONTACT", schema.UserRef, followed_by="FETCHCONTACT")
async def add_contact(call: Call, body: schema.UserRef) -> None:
    """Add somebody; who was added accepts by adding back."""
    if body.userid == call.user_id:
        raise Refusal("You cannot add yourself as a contact.")
    await _existing(call, body.userid)
    await call.hub.store.contacts.add(call.user_id, body.userid)


@request("FETCHCONTACT", schema.Nothing)
async def fetch_contacts(call: Call, _: schema.Nothing) -> schema.Contacts:
    """All contacts and open requests of the user, by ascending id."""
    relations = await call.hub.store.contacts.of(call.user_id)
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

"""The command `chatsvc`: chatting from a shell and from scripts, on the client library alone.

What a conversation is on the wire is known to ``chatsvc.client``; nothing here knows the server.
"""

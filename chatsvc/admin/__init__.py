"""The operator's command, ``chatsvc-admin``: users, upkeep, backups. No client's request is answered here."""

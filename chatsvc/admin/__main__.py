"""``python -m chatsvc.admin``, the same as ``chatsvc-admin``. Nothing else lives here."""

from __future__ import annotations

from chatsvc.admin.cli import main

main(prog_name="chatsvc-admin")

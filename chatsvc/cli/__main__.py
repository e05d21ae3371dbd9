"""`python -m chatsvc.cli` is the command `chatsvc`."""

from chatsvc.cli.main import main

main(prog_name="chatsvc")

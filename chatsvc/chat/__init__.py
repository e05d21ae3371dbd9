"""The chat floor: what each request means and who is told of what. No transport, no Redis command."""

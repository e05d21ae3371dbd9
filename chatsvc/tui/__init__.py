"""`chatsvc chat`: a chat on a whole terminal, with Textual (the extra ``tui``).

What it shows comes from a `Backend`; how that speaks to a server is known to ``backend`` alone.
"""

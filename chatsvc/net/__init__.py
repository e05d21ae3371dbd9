"""The network floor: bytes in and out, order, back-pressure, time-outs. No chat rule."""

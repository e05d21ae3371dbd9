"""The ground floor: frames, typed requests and answers, text rules, errors. Pure: no Twisted, no I/O."""

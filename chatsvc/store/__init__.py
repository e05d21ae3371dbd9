"""The store floor: what lives in Redis or Valkey, a module a kind of data. No chat rule, no client."""

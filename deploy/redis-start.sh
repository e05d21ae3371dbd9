# Starts one Redis of a group. Its role must outlive it: after a failover the former primary comes back as a
# replica. So a file on its volume says what it is; Sentinel has that file rewritten, with all other settings in it
# too, which is why redis.conf comes last and decides.
set -eu
own=/data/node.conf
if [ ! -e "$own" ]; then
  if [ -n "${PRIMARY:-}" ]; then echo "replicaof $PRIMARY 6379"; fi > "$own.new"
  mv "$own.new" "$own"
fi
exec redis-server "$own" --include /etc/chatsvc/redis.conf

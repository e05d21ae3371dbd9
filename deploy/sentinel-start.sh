# Starts one Sentinel. It writes what it learns into its settings, so they lie on its volume.
set -eu
own=/data/sentinel.conf
if [ ! -e "$own" ]; then
  sed "s/PRIMARY/$PRIMARY/" /etc/chatsvc/sentinel.conf > "$own.new"
  mv "$own.new" "$own"
fi
exec redis-server "$own" --sentinel

#!/bin/sh
# A deploy hook of certbot: puts a renewed certificate where chatsvc may read it, and has it used. Install it as
# /etc/letsencrypt/renewal-hooks/deploy/chatsvc; the service listens then on
# ssl:8443:privateKey=…/privkey.pem:certKey=…/cert.pem:extraCertChain=…/chain.pem with the directory below.
set -eu
directory=/etc/chatsvc/tls
install -d -o root -g chatsvc -m 750 "$directory"
# Key and certificate must match when they are read: each file is there whole, and read after the last one.
install -o root -g chatsvc -m 640 \
  "$RENEWED_LINEAGE/privkey.pem" "$RENEWED_LINEAGE/cert.pem" "$RENEWED_LINEAGE/chain.pem" "$directory"
systemctl reload chatsvc

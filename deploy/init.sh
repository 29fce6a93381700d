#!/bin/sh
# Makes what docker-compose.yml needs and git must not hold: deploy/secrets/ and .env. What exists is kept.
# Usage: deploy/init.sh UPSTREAM_URL
set -eu
upstream=${1:?"give the base URL of your server, e.g. deploy/init.sh https://api.example.com"}
cd "$(dirname "$0")/.."

random_hex() { od -An -v -tx1 -N"$1" /dev/urandom | tr -d ' \n'; }

# Compose mounts these files with their owner and mode, and each container runs as a user of its own. So the files
# can be read by all, and the directory by nobody else.
[ -d deploy/secrets ] || mkdir -m 700 deploy/secrets
umask 022
if [ ! -s deploy/secrets/redis_url ] && [ ! -s deploy/secrets/redis_auth.conf ]; then
    password=$(random_hex 32)
    echo "requirepass $password" > deploy/secrets/redis_auth.conf
    echo "redis://:$password@redis:6379/0" > deploy/secrets/redis_url
fi
if [ ! -s deploy/secrets/keys ]; then
    head -c 32 /dev/urandom | base64 | tr '+/' '-_' > deploy/secrets/keys
fi
if [ ! -s .env ]; then
    umask 077
    printf 'FLUXY_SYNC_UPSTREAM=%s\nFLOWER_BASIC_AUTH=admin:%s\n' "$upstream" "$(random_hex 16)" > .env
fi
for file in redis_url redis_auth.conf; do
    if [ ! -s "deploy/secrets/$file" ]; then
        echo "deploy/secrets/$file is missing: it holds the password that the other one has. Put it back, or delete both" \
            "and run this again, then 'docker-compose up -d --force-recreate'." >&2
        exit 1
    fi
done
if ! grep -qxF "FLUXY_SYNC_UPSTREAM=$upstream" .env; then
    echo ".env was kept, and names another upstream ($(grep '^FLUXY_SYNC_UPSTREAM=' .env || echo none)):" \
        "change FLUXY_SYNC_UPSTREAM there, then 'docker-compose up -d'." >&2
    exit 1
fi
echo "Ready. The dashboard's user and password are in .env; keep a copy of deploy/secrets/keys in a safe place."

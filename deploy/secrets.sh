#!/bin/sh
# Writes the secrets that compose.yaml mounts into deploy/secrets/, random and each only once; never overwrites one that is there.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
chmod 700 secrets
umask 022 # containers run as users of their own; the folder keeps others out

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
# put NAME TEXT
put() { [ -e "secrets/$1" ] || printf '%s\n' "$2" >"secrets/$1"; }

sha256() { printf %s "$1" | openssl dgst -sha256 -r | cut -c1-64; }
put redis_operator "$(random)"
put redis_metrics "$(random)"
metrics=$(cat secrets/redis_metrics)
if [ ! -e secrets/redis_users ]; then # it has passwords as SHA-256 only, so the addresses that contain them are made with it
  control=$(random) worker=$(random)
  rm -f secrets/redis_url_control secrets/redis_url_worker
  put redis_url_control "redis://control:$control@redis:6379/0"
  put redis_url_worker "redis://worker:$worker@redis:6379/0"
  sed -e "s/#OPERATOR_SHA256/#$(sha256 "$(cat secrets/redis_operator)")/" -e "s/#METRICS_SHA256/#$(sha256 "$metrics")/" \
    -e "s/#CONTROL_SHA256/#$(sha256 "$control")/" -e "s/#WORKER_SHA256/#$(sha256 "$worker")/" redis/users.acl >secrets/redis_users
fi
# Redis's exporter looks for user and address; 1.45, the one that the tests run, for the address alone.
put redis_exporter "{\"redis://metrics@redis:6379\": \"$metrics\", \"redis://redis:6379\": \"$metrics\"}"
put s3_access_key "$(random | cut -c1-20)"
put s3_secret_key "$(random)"
put s3_identities "{\"identities\": [{\"name\": \"dihedral\", \"credentials\": [{\"accessKey\": \"$(cat secrets/s3_access_key)\", \"secretKey\": \"$(cat secrets/s3_secret_key)\"}], \"actions\": [\"Admin\", \"Read\", \"Write\", \"List\", \"Tagging\"]}]}"
put grafana_password "$(random)"

api_key() { printf 'dhk_%s_%s' "$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')" "$(head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')"; }
put metrics_key "$(api_key)"
put api_keys "admin admin $(api_key)
prometheus read $(cat secrets/metrics_key)"
if [ ! -e secrets/tls_key ]; then
  openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj "/CN=${1:-localhost}" -addext "subjectAltName=DNS:${1:-localhost},DNS:s3.${1:-localhost}" \
    -keyout secrets/tls_key -out secrets/tls_cert 2>/dev/null
  chmod 644 secrets/tls_key
fi
echo "deploy/secrets is complete; your API key is the last word of the first line of api_keys; the certificate is self-signed for ${1:-localhost}: put your own in tls_cert and tls_key"

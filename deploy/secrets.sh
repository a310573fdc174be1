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

put redis_password "$(random)"
password=$(cat secrets/redis_password)
put redis_auth "requirepass $password"
put redis_url "redis://:$password@redis:6379/0"
put redis_exporter "{\"redis://redis:6379\": \"$password\"}"
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

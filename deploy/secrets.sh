#!/bin/sh
# Writes the secrets that compose.yaml mounts into deploy/secrets/, random and each only once; never overwrites one that is there.
# secrets.sh [HOST ...]: the hosts of the self-signed certificate; a later run adds hosts to it, and leaves a certificate of your own alone.
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

# names HOST ...: what a certificate for them says. The store is found at s3.HOST.
names() {
  for host in "$@"; do
    case $host in
    *:*:*) echo "IP:$host" ;;
    *[!0-9.]*) printf 'DNS:%s\n' "$host" "s3.$host" ;;
    *) echo "IP:$host" ;;
    esac
  done
}
named() { openssl x509 -in secrets/tls_cert -noout -ext subjectAltName | tr -d ' ' | tr ',' '\n' | sed -n -e 's/^IPAddress:/IP:/' -e '/^DNS:/p' -e '/^IP:/p'; }
# certify OPTION ...: a certificate for $wanted; the options name its key
certify() { openssl req -x509 -days 365 -subj "/O=Dihedral self-signed/CN=dihedral" -addext "subjectAltName=$wanted" "$@" -out secrets/tls_cert 2>/dev/null || {
  echo "no certificate can be made for $wanted" >&2
  exit 1
}; }
if [ ! -e secrets/tls_key ]; then
  wanted=$(names "${@:-localhost}" | paste -s -d , -)
  certify -newkey rsa:2048 -nodes -keyout secrets/tls_key
  chmod 644 secrets/tls_key
elif openssl x509 -in secrets/tls_cert -noout -subject | grep -q 'Dihedral self-signed'; then
  before=$(named)
  wanted=$( (echo "$before" && names "$@") | sort -u | paste -s -d , -)
  if [ "$wanted" != "$(echo "$before" | sort -u | paste -s -d , -)" ]; then
    certify -key secrets/tls_key
    echo "the certificate names $* too now: docker compose restart traefik"
  fi
else
  for name in $(names "$@"); do
    named | grep -qx "$name" || echo "tls_cert is your own and does not name ${name#*:}: make one that does" >&2
  done
fi
echo "deploy/secrets is complete; your API key is the last word of the first line of api_keys; the certificate is for $(named | sed 's/^[^:]*://' | paste -s -d ' ' -)"

#!/usr/bin/env bash
# Triton on a machine of its own, for the gateways of a mesh: mutual TLS, named models alone, nobody administers.
#
#   MODELS          names of models in the repository, with commas between
#   REPOSITORY      the model repository (/models); read only
#   CERTIFICATES    folder with tls.crt, tls.key and ca.crt (/run/certificates); ca.crt signs the gateways' certificates
#   ADDRESS, PORT   where it listens (0.0.0.0, 8001)
#   ADMIN_FILE      file with the secret of administration; without one it is drawn anew at each start and told to nobody
#   OTLP_HTTP       collector for traces (http://collector:4318); none if empty
#   TRITONSERVER    the binary (tritonserver)
#
# What else is given goes to Triton as it is.
set -euo pipefail

refuse() {
  echo "serve.sh: $*" >&2
  exit 64
}

repository=${REPOSITORY:-/models} certificates=${CERTIFICATES:-/run/certificates}
[[ -n ${MODELS:-} ]] || refuse "MODELS is empty; name the models to load, with commas between"
[[ -d $repository ]] || refuse "$repository: no such directory; mount the model repository there or set REPOSITORY"
for file in tls.crt tls.key ca.crt; do
  [[ -r $certificates/$file ]] || refuse "$certificates/$file: cannot be read; mount it there or set CERTIFICATES"
done

if [[ -n ${ADMIN_FILE:-} ]]; then
  [[ -r $ADMIN_FILE ]] || refuse "$ADMIN_FILE: cannot be read; mend ADMIN_FILE or leave it empty"
  secret=$(<"$ADMIN_FILE")
  [[ $secret =~ ^[A-Za-z0-9_-]{32,}$ ]] || refuse "$ADMIN_FILE: needs 32 or more of A-Z a-z 0-9 _ -"
else
  secret=$(od -An -vtx1 -N32 /dev/urandom | tr -d ' \n')
fi

arguments=(
  "--model-repository=$repository"
  --model-control-mode=explicit
  --exit-timeout-secs=30
  --allow-http=false
  --allow-metrics=false
  "--grpc-address=${ADDRESS:-0.0.0.0}"
  "--grpc-port=${PORT:-8001}"
  --grpc-use-ssl=true
  --grpc-use-ssl-mutual=true
  "--grpc-server-cert=$certificates/tls.crt"
  "--grpc-server-key=$certificates/tls.key"
  "--grpc-root-cert=$certificates/ca.crt"
  # As an argument it can be read by whoever sees this process, and is worth nothing without a certificate.
  "--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:moltbot-admin=$secret"
)
IFS=, read -ra models <<<"$MODELS"
for model in "${models[@]}"; do
  [[ -d $repository/$model ]] || refuse "$repository/$model: no such model; mend MODELS"
  arguments+=("--load-model=$model")
done
if [[ -n ${OTLP_HTTP:-} ]]; then
  arguments+=(
    --trace-config=mode=opentelemetry
    --trace-config=level=TIMESTAMPS
    --trace-config=rate=0
    --trace-config=count=-1
    "--trace-config=opentelemetry,url=${OTLP_HTTP%/}/v1/traces"
    --trace-config=opentelemetry,resource=service.name=moltbot-triton
  )
fi

exec "${TRITONSERVER:-tritonserver}" "${arguments[@]}" "$@"

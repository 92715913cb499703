#!/bin/sh
# Pack artifacts/NAME into model_store/NAME.mar:
#   ./build_mar.sh NAME [--version V] [--engines EXPORT,...] [--force] [--sign [KEY.pem]]
# --sign writes NAME.mar.sig beside it; without a file the key comes from MARPRESS_SIGNING_KEY.
# Prints path, size and SHA-256. Exit codes: python -m deploy --help
set -eu
case "${1:-}" in
'' | -h | --help)
    echo "usage: ./build_mar.sh NAME [--version V] [--engines EXPORT,...] [--force] [--sign [KEY.pem]]"
    [ -n "${1:-}" ] && exit 0
    exit 2
    ;;
esac
cd "$(dirname "$0")"
if [ -x .venv/bin/python ]; then
    python=.venv/bin/python
else
    python=$(command -v python3) || python=
fi
if [ -z "$python" ] || ! "$python" -c 'import model_archiver, requests, psutil, tqdm' 2>/dev/null; then
    echo "build_mar.sh: no Python with torch-model-archiver: run 'make setup' first" >&2
    exit 2
fi
exec "$python" -m deploy archive "$@"

#!/bin/sh
# Exercises the Dockerfile as far as that goes without an engine: its own build line,
# and the binary as the image runs it: static, without an environment, as an
# unprivileged user, in an empty directory that it cannot write to.
set -eu
cd "$(dirname "$0")/../.."

build=$(sed -n 's/^RUN \(CGO_ENABLED=0 go build .*\)/\1/p' Dockerfile)
user=$(sed -n 's/^USER //p' Dockerfile)
[ -n "$build" ] && [ -n "$user" ] || { echo "image.sh: the Dockerfile has no build line or no user" >&2; exit 1; }

work=$(mktemp -d)
pid=""
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$work/out" "$work/empty"
echo "$build" | sed "s#/out/#$work/out/#" | sh -eu
binary=$work/out/flashgate
chmod 755 "$work" "$work/out" "$work/empty"

if ldd "$binary" >/dev/null 2>&1; then
	echo "image.sh: the binary is not static" >&2
	exit 1
fi

# As whom the image runs it; the words of these are meant to be split.
as="env -i"
[ "$(id -u)" -ne 0 ] || as="setpriv --reuid ${user%:*} --regid ${user#*:} --clear-groups env -i"

# bare runs what follows as the image would.
bare() { (cd "$work/empty" && exec $as "$@"); }

# refuses runs what must end with an error that says why.
refuses() {
	why=$1
	shift
	if bare "$@" >"$work/said" 2>&1; then
		echo "image.sh: $* succeeded" >&2
		exit 1
	fi
	if ! grep -q "$why" "$work/said"; then
		echo "image.sh: $* does not say $why:" >&2
		cat "$work/said" >&2
		exit 1
	fi
}

bare "$binary" version
# The image's command, with nothing configured, says what is missing.
refuses redis.addrs "$binary" serve
# The health check, with no gateway there.
refuses "connection refused" FLASHGATE_ADMIN__LISTEN=127.0.0.1:1 "$binary" health
# A gateway beside which the health check succeeds. Port 0 is no use here: the check
# has to know the port.
port=$((20000 + $$ % 20000))
mkdir "$work/data"
[ "$(id -u)" -ne 0 ] || chown "$user" "$work/data"
(cd "$work/empty" && exec $as FLASHGATE_SERVER__LISTEN=127.0.0.1:0 FLASHGATE_ADMIN__LISTEN=127.0.0.1:$port \
	"$binary" dev --data "$work/data") >"$work/dev" 2>&1 &
pid=$!
tries=0
until bare FLASHGATE_ADMIN__LISTEN=127.0.0.1:$port "$binary" health --ready >/dev/null 2>&1; do
	tries=$((tries + 1))
	if [ "$tries" -gt 600 ] || ! kill -0 "$pid" 2>/dev/null; then
		echo "image.sh: the gateway is not healthy:" >&2
		cat "$work/dev" >&2
		exit 1
	fi
	sleep 0.1
done
bare FLASHGATE_ADMIN__LISTEN=127.0.0.1:$port "$binary" health
kill "$pid"
wait "$pid" || { echo "image.sh: the gateway did not end well:" >&2; cat "$work/dev" >&2; exit 1; }
pid=""
echo "the image's steps: ok"

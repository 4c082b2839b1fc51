#!/bin/sh
# Installs the Debian packages given as arguments, where they are missing, without
# letting them start services. Works as root, or with sudo.
set -eu

missing=""
for pkg in "$@"; do
	if ! dpkg-query -W -f='${Status}' "$pkg" 2>/dev/null | grep -q 'ok installed'; then
		missing="$missing $pkg"
	fi
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
	root="env"
else
	command -v sudo >/dev/null || { echo "install.sh: needs root or sudo for:$missing" >&2; exit 1; }
	root="sudo env"
fi

# A policy-rc.d that answers 101 forbids every service start for as long as it
# stands; one that is there already is kept.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap '$root rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' | $root tee "$policy" >/dev/null
	$root chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt="$root DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300"
$apt update
# shellcheck disable=SC2086 # the list is meant to be split
$apt install --no-install-recommends $missing

#!/bin/sh
# Runs a tier of the tests: gotest.sh NAME WHAT COMMAND... where the command is go test.
# Its output is shown as it comes, its exit status is kept, and what is on the screen
# last is which tests failed, and what they said.
set -u
name=$1 what=$2
shift 2
log=$(mktemp)
trap 'rm -f "$log" "$log.status"' EXIT
echo "== $name: $what"
echo "== $*"
{ "$@" 2>&1; echo $? >"$log.status"; } | tee "$log"
status=$(cat "$log.status")

# A failed test's lines stand indented under its "--- FAIL"; where its servers' output
# is kept comes first, so that the end is what it said. Of a package that ended without
# a failed test, what counts is why.
awk '
	function flush() { if (test != "") printf "\n%s\n%s%s", test, kept, said; test = kept = said = ""; lines = 0 }
	function begin(name) { flush(); test = name }
	/^ *--- FAIL: / { begin($3); next }
	/^ *--- / || /^(ok|\?|PASS)/ || /^FAIL$/ { flush(); next }
	/^FAIL\t/ { begin($0); flush(); next }
	/^panic: / || /^WARNING: DATA RACE/ || /^fatal error: / || /^goroutines are left over/ || /^# / { begin($0); lines = 20; next }
	test != "" && /: output of .*flashgate-failed/ { kept = kept $0 "\n"; next }
	test != "" && lines < 30 { lines++; said = said substr($0, 1, 300) "\n" }
	END { flush() }
' "$log" >"$log.status"

if [ "$status" -eq 0 ]; then
	echo "== $name: passed: $what; $(grep -c '^ok' "$log") packages"
else
	echo
	echo "== $name: FAILED: $what"
	cat "$log.status"
fi
exit "$status"

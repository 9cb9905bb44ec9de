#!/bin/sh
# A policy for one directory: snapshots of photos every so often, of which the last three are kept; one is held for good.
#
# What the policy covers is said by an attribute of the directory, and inherited by all that is stored in it from then on. Run the part from
# "run_policy" on by cron or a systemd timer; with "-o autodelete=oldest", snapshots with the tag "policy" also go when space runs out.
set -e
. "$(dirname "$0")/volume.sh"

# As setfattr(1) and getfattr(1) do, from the package "attr".
designate() { python3 -c 'import os, sys; os.setxattr(sys.argv[1], "user.snapfs.designate", sys.argv[2].encode())' "$1" "$2"; }
policy_of() { python3 -c 'import os, sys; print(os.getxattr(sys.argv[1], "user.snapfs.designate").decode())' "$1"; }

# The names of the snapshots of a policy that are not held, oldest first.
of_policy() {
    snapfs snapshot list "$MNT" --tag policy="$1" --json | python3 -c '
import json, sys
for one in json.load(sys.stdin):
    if not one["holds"]:
        print(one["name"])'
}

run_policy() {
    snapfs snapshot create "$MNT" "$1-$2" --designated "$1" --tag policy="$1" --read-only
    of_policy "$1" | head -n -3 | while read -r name; do run snapfs snapshot delete "$MNT" "$name"; done
}

mkdir -p photos/2026 scratch
echo '# The directory is designated once; what is stored later, however deep, is covered.'
run designate photos nightly
mkdir photos/2026/summer
echo 'a beach' >photos/2026/summer/one
echo 'anything' >scratch/notes
test "$(policy_of photos/2026/summer/one)" = nightly

for night in 1 2 3 4 5; do
    echo "taken on day $night" >photos/2026/day$night
    echo "# Night $night"
    run_policy nightly $night
    if [ $night = 1 ]; then run snapfs snapshot hold "$MNT" nightly-1 --reason 'the first one'; fi
done

run snapfs snapshot list "$MNT"
test "$(of_policy nightly | tr '\n' ' ')" = 'nightly-3 nightly-4 nightly-5 '
test "$(cat photos/.snap/nightly-3/2026/day3)" = 'taken on day 3'
test ! -e photos/.snap/nightly-3/2026/day4

echo '# A photo is lost, and comes back with the newest of them.'
rm photos/2026/summer/one
run snapfs restore "$MNT" nightly-5 --path /photos/2026/summer
test "$(cat photos/2026/summer/one)" = 'a beach'

#!/bin/sh
# One file, of which snapshots know several versions: find the right one, look at it, have it back.
set -e
. "$(dirname "$0")/volume.sh"

mkdir letters
for day in monday tuesday wednesday; do
    echo "what was written on $day" >letters/draft
    run mkdir .snap/$day
done
echo '# On Thursday the file is spoilt, and another one is deleted that Wednesday knows.'
echo 'only now' >letters/note
run mkdir .snap/wednesday-evening
echo 'oops' >letters/draft
rm letters/note

echo '# Which versions are there? Which files have been deleted?'
run snapfs versions letters/draft
run snapfs versions letters --deleted

echo '# Looking costs nothing: snapshots are directories. (The .snap of "letters" shows the same as that of the root.)'
run cat letters/.snap/tuesday/draft

echo '# One file goes back in place, by sharing blocks: also a large one, also on a full volume.'
run snapfs restore "$MNT" tuesday --path /letters/draft
test "$(cat letters/draft)" = 'what was written on tuesday'
echo '# Or it is copied, like any file.'
run cp -a letters/.snap/wednesday-evening/note letters/note
test "$(cat letters/note)" = 'only now'

#!/bin/sh
# An upgrade of an application goes wrong: its directory goes back to what it was, and nothing else does.
#
# The snapshot covers the directory alone. Making it takes no time and no space, and restoring it changes only what the upgrade has changed,
# so what users have done elsewhere meanwhile stays.
set -e
. "$(dirname "$0")/volume.sh"

mkdir -p app/lib documents
for number in 1 2 3 4 5; do echo "version 1 of part $number" >app/lib/part$number; done
echo 'port = 80' >app/settings
checksums=$(cd app && find . -type f -exec sha256sum {} + | sort)

echo '# Before the upgrade: one mkdir.'
run mkdir app/.snap/before-upgrade

echo '# The upgrade: some parts are new, some are gone, and the settings are lost. Meanwhile somebody writes a letter.'
echo 'version 2 of part 1' >app/lib/part1
rm app/lib/part2 app/settings
mv app/lib/part3 app/lib/part3.old
mkdir app/lib/plugins
echo 'Dear reader' >documents/letter

echo '# What has it done?'
run snapfs diff "$MNT" before-upgrade

echo '# What would going back do? And then: do it.'
run snapfs restore "$MNT" before-upgrade --dry-run
run snapfs restore "$MNT" before-upgrade

test "$checksums" = "$(cd app && find . -type f -exec sha256sum {} + | sort)"
test ! -e app/lib/plugins
test "$(cat documents/letter)" = 'Dear reader'
echo '# The application is what it was, and the letter is still there. So is the upgrade, should it be needed after all:'
run ls app/.snap

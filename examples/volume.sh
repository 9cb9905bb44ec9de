# Sourced by the examples: a volume of their own, mounted at "$MNT", that is gone when they end. No root needed where fusermount3 is installed.

PLACE=$(mktemp -d)
MNT=$PLACE/mnt

leave() {
    cd /
    snapfs umount "$MNT" 2>/dev/null
    rm -rf "$PLACE"
}
trap leave EXIT
trap 'exit 1' INT TERM

# Shows a command, and runs it.
run() {
    echo "\$ $*"
    "$@"
}

snapfs mkfs --size 256M "$PLACE/volume.img" >/dev/null
mkdir "$MNT"
snapfs mount "$PLACE/volume.img" "$MNT"
cd "$MNT"

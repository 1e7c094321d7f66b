#!/bin/sh
# The suite holds vaultik against the plain tools. Install what is missing where that is possible; say so where not.
missing=""
disks=""
# Only root mounts file systems of other kinds.
[ "$(id -u)" = 0 ] && disks="mkfs.btrfs mkfs.xfs"
for tool in age zstd sqlite3 rsync setfattr setfacl strace git ssh-keygen systemd-analyze chromium fusermount3 $disks; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq && apt-get install -y -qq age zstd sqlite3 rsync attr acl strace git openssh-client systemd chromium fuse3 btrfs-progs xfsprogs >/dev/null && exit 0
fi
echo "The tests need these command-line tools:$missing" >&2
echo "  Debian: apt-get install age zstd sqlite3 rsync attr acl strace git openssh-client systemd chromium fuse3 btrfs-progs xfsprogs" >&2
exit 1

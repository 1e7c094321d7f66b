#!/bin/sh
# The main job from key to restored tree, on the embedded store. Everything stays below one directory.
#   demo.sh DIR SOURCE...
set -eu
demo=$1
shift
for source in "$@"; do
    [ -e "$source" ] || { echo "demo: $source: no such file or directory (DEMO_SOURCE names what is backed up)" >&2; exit 2; }
done
rm -rf "$demo"
mkdir -p "$demo/store" "$demo/host"
demo=$(cd "$demo" && pwd)
say() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
run() { printf '$ %s\n' "$*"; "$@"; }
where="--endpoint file://$demo/store demo host1/"

say "1. A real tree: copies of $*, so that the demo may change them"
for source in "$@"; do
    mkdir -p "$demo/host$(dirname "$source")"
    cp -a "$source" "$demo/host$(dirname "$source")/" 2>/dev/null || echo "  (what this user may not read of $source is left out)"
done
printf '  %s files\n' "$(find "$demo/host" -type f | wc -l)"

say "2. A pair of keys. The recipient goes to the host, the identity stays away from it"
run vaultik keygen -o "$demo/identity.txt" | tee "$demo/recipient"
cat > "$demo/vaultik.yaml" <<YAML
source_dirs: [$demo/host]
age_recipient: $(grep '^age1' "$demo/recipient")
index_path: $demo/state/index.sqlite
s3:
  endpoint: file://$demo/store
  bucket: demo
  prefix: host1/
YAML
run vaultik check "$demo/vaultik.yaml"

say "3. The first backup: everything is new"
run vaultik backup "$demo/vaultik.yaml"

say "4. A day's work: one file changed, one added, one copied, one removed"
victim=$(find "$demo/host" -type f -size +1k | sort | head -n 1)
chmod u+w "$victim"
echo "a new line" >> "$victim"
echo "a new file" > "$demo/host/new-file"
cp "$victim" "$demo/host/a-copy"
rm -f "$(find "$demo/host" -type f -size +1k | sort | tail -n 1)"

say "5. The second backup: only what is new is stored"
run vaultik backup "$demo/vaultik.yaml"

export VAULTIK_PRIVATE_KEY="$demo/identity.txt"
say "6. What the store holds, seen with the identity"
# shellcheck disable=SC2086
run vaultik snapshots $where

say "7. The newest snapshot, restored elsewhere and compared with the source"
# shellcheck disable=SC2086
run vaultik restore $where latest "$demo/restored"
run diff -r --no-dereference "$demo/host" "$demo/restored$demo/host"
echo "  no difference"

say "8. One file, to standard output"
# shellcheck disable=SC2086
run vaultik fetch $where latest "$demo/host/new-file" -

say "9. Prune: only the newest snapshot stays. --grace 0 is fine here, where no other host and no clone of this one uses the prefix"
# shellcheck disable=SC2086
run vaultik prune $where --grace 0 --yes

say "10. What is left, restored and compared once more"
# shellcheck disable=SC2086
run vaultik restore $where latest "$demo/restored-again"
run diff -r --no-dereference "$demo/host" "$demo/restored-again$demo/host"
echo "  no difference"

say "Done. What lies where:"
cat <<END
  $demo/host            what was backed up
  $demo/vaultik.yaml    the host's configuration; it holds a recipient, which can't open anything
  $demo/state           the host's index: names and hashes, no content; losing it costs a full upload, never a backup
  $demo/store/demo      the store: encrypted blobs and snapshots, each named by the SHA-256 of its bytes
  $demo/identity.txt    the one thing that opens them; in real life it is on no host that is backed up
  $demo/restored        the restored tree
END

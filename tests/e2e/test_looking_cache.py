"""Looking at what an S3 server holds, again and again: what is downloaded for it."""

from tests.conftest import S3_GROUP, make_site
from tests.support.proxy import Proxy

pytestmark = S3_GROUP
READ = ("GetObject", "HeadObject")


def test_metadata_is_downloaded_once(request, weed, tmp_path):
    site = make_site(request, tmp_path, "seaweedfs")
    site.source.mkdir()
    for number in range(2):
        (site.source / "file").write_text(f"content {number}")
        site.backup()
    site.env |= {"VAULTIK_CACHE_SIZE": "10MB", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with Proxy(weed) as proxy:
        site.endpoint = proxy.endpoint

        def reads(*arguments):
            before = len(proxy.requests)
            done = site.run(arguments[0], *site.where, *arguments[1:])
            return [r.target for r in proxy.requests[before:] if r.operation in READ], done.stdout

        first, rows = reads("snapshots")
        assert len(first) == 2
        assert rows.count("\n") == 3
        first, listed = reads("ls", "latest", site.source)
        assert len(first) == 1
        assert reads("ls", "latest", site.source) == ([], listed)
        content, text = reads("fetch", "latest", site.source / "file", "-")
        assert text == "content 1"
        assert content
        assert all("/blobs/" in target for target in content)
        without, _ = reads("ls", "latest", site.source, "--no-cache")
        assert len(without) == 2
        assert len(list((tmp_path / "cache/vaultik/objects").iterdir())) == 3

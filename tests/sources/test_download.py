"""A remote's files into a folder: resumed, checked, whole or not there; on a remote without a network."""

import hashlib
import threading

import pytest

from octavo_runtime.errors import ModelFetchFailed
from octavo_runtime.sources import download as module
from octavo_runtime.sources.choose import RemoteFile
from octavo_runtime.sources.download import Download, Interrupted

CONTENT = {"config.json": b"{}", "model.safetensors": bytes(range(250)) * 40}


class Memory:
    """A remote whose reads break off after so many bytes, in turn; None: not at all."""

    def __init__(self, *breaks, content=CONTENT):
        self._breaks = list(breaks)
        self._content = content
        self.starts = []

    def read(self, file, start):
        data = self._content[file.name][start:]
        if file.name != "model.safetensors":
            yield data
            return
        self.starts.append(start)
        limit = self._breaks.pop(0) if self._breaks else None
        for offset in range(0, len(data), 100):
            if limit is not None and offset >= limit:
                raise Interrupted("the line is gone")
            yield data[offset : offset + 100]


def listing(content=CONTENT):
    return [
        RemoteFile(name, len(data), digest=f"sha256:{hashlib.sha256(data).hexdigest()}")
        for name, data in content.items()
    ]


@pytest.fixture
def fetch(tmp_path):
    """`fetch(remote)` downloads into `tmp_path / "model"`, and notes its waits in `fetch.waits`."""

    def run(remote, files=None):
        return Download(remote, files or listing(), tmp_path / "model", sleep=run.waits.append).run()

    run.waits = []
    return run


def assert_whole(folder):
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    assert not folder.with_name("model.part").exists()


def test_all_files_arrive(fetch):
    assert_whole(fetch(Memory()))
    assert fetch.waits == []


def test_a_broken_line_is_taken_up_where_it_broke(fetch):
    remote = Memory(1000, 2000)
    assert_whole(fetch(remote))
    assert remote.starts == [0, 1000, 3000]
    assert fetch.waits == [1.0, 1.0]  # each try made progress


def test_without_progress_the_waits_grow_and_end(fetch, tmp_path):
    with pytest.raises(ModelFetchFailed, match="the line is gone; given up after 9 tries"):
        fetch(Memory(*[0] * 20))
    assert fetch.waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert not (tmp_path / "model").exists()


def test_a_second_start_goes_on_where_the_first_ended(fetch):
    with pytest.raises(ModelFetchFailed):
        fetch(Memory(5000, *[0] * 20))
    remote = Memory()
    assert_whole(fetch(remote))
    assert remote.starts == [5000]


def test_what_is_there_is_not_fetched_again(fetch):
    fetch(Memory())
    remote = Memory()
    fetch(remote)
    assert remote.starts == []


def test_bytes_that_are_not_those_announced_are_fetched_anew(fetch, tmp_path):
    part = tmp_path / "model.part"
    part.mkdir()
    (part / "model.safetensors.part").write_bytes(b"wrong" * 100)
    remote = Memory()
    assert_whole(fetch(remote))
    assert remote.starts == [500, 0]


def test_more_bytes_than_there_can_be_are_thrown_away(fetch, tmp_path):
    part = tmp_path / "model.part"
    part.mkdir()
    (part / "model.safetensors.part").write_bytes(bytes(20_000))
    remote = Memory()
    assert_whole(fetch(remote))
    assert remote.starts == [0]


def test_an_error_for_good_ends_it_at_once(fetch):
    class Refuses(Memory):
        def read(self, *_):
            raise ModelFetchFailed("no")
            yield b""

    with pytest.raises(ModelFetchFailed, match="no"):
        fetch(Refuses())
    assert fetch.waits == []


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(fetch, monkeypatch):
    class Usage:
        free = 5000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Usage)
    remote = Memory()
    with pytest.raises(ModelFetchFailed, match=r"disk full: 0.0 MB are to be fetched.*--download-dir"):
        fetch(remote)
    assert remote.starts == []


def test_a_disk_that_fills_up_is_said(fetch):
    class Full(Memory):
        def read(self, *_):
            raise OSError(28, "No space left on device")
            yield b""

    with pytest.raises(ModelFetchFailed, match="disk full: No space left"):
        fetch(Full())


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ModelFetchFailed, match=r"cannot write to .*file"):
        Download(Memory(), listing(), tmp_path / "file" / "model").run()


def test_two_at_once_fetch_once(tmp_path):
    """The second waits for the first, and finds the model there."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Memory):
        def read(self, file, start):
            begun.set()
            assert go_on.wait(180)
            yield from super().read(file, start)

    first, second = Slow(), Memory()
    folders = []
    one = threading.Thread(target=lambda: folders.append(Download(first, listing(), tmp_path / "model").run()))
    one.start()
    assert begun.wait(180)
    waited = threading.Event()

    def wait(seconds):
        waited.set()
        go_on.set()
        threading.Event().wait(seconds)

    folders.append(Download(second, listing(), tmp_path / "model", sleep=wait).run())
    one.join(180)
    assert waited.is_set()
    assert second.starts == []
    assert folders == [tmp_path / "model"] * 2


def test_progress_counts_what_was_there_before(tmp_path):
    part = tmp_path / "model.part"
    part.mkdir()
    (part / "model.safetensors.part").write_bytes(CONTENT["model.safetensors"][:700])
    download = Download(Memory(), listing(), tmp_path / "model")
    assert (download.done, download.total) == (700, 10_002)
    download.run()
    assert download.done == 10_002

"""Random changes to a tree, of every kind that a backup can see."""

import os
import random
import shutil
import stat
from pathlib import Path

NAMES = [b"a", b"b", b"c", b"d", b"e", b"f", b"odd \xff\xfe", b"new\nline"]
SPECIAL = [b"x.tmp", b"build", b".nobackup", b"CACHEDIR.TAG"]
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n"


class Mutator:
    """Changes what lies below `root`; `outside` is a place that nobody watches.

    Names that stay out of a backup and hard links don't go together: what happens to a link that is out of sight
    changes the one in sight without an event. Nor is a link removed before a run has seen it.
    """

    def __init__(self, root: Path, outside: Path, seed, *, links):
        self.links = links
        self.moved = 0
        self.linked = False
        self.root = os.fsencode(root)
        self.outside = os.fsencode(outside)
        self.rng = random.Random(seed)
        self.log = []

    def begin(self):
        """Begin a series of changes; a run has seen all earlier ones."""
        self.log.clear()
        self.linked = False

    def step(self):
        """One change; whatever can't be done is left out."""
        removing = [
            (self.rename, 10),
            (self.replace, 4),
            (self.exchange, 1),
            (self.delete, 5),
            (self.delete_tree, 1),
            (self.recreate, 2),
            (self.become_other, 2),
            (self.move_out, 1),
            (self.move_in, 2),
        ]
        kinds = [
            *([] if self.linked else removing),
            (self.create, 12),
            (self.write, 6),
            (self.append, 4),
            (self.truncate, 2),
            (self.make_directory, 6),
            (self.make_tree, 6),
            (self.chmod, 4),
            (self.xattr, 3),
            (self.times, 2),
            (self.link, 4 if self.links else 0),
            (self.write_linked, 6 if self.links else 0),
            (self.symlink, 2),
            (self.fifo, 1),
        ]
        kind = self.rng.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
        try:
            kind()
        except OSError as exc:
            self.log.append((kind.__name__, exc.strerror))

    # -- choices ----------------------------------------------------------------------------------

    def directories(self):
        return [self.root, *(path for path, st in self._walk() if stat.S_ISDIR(st.st_mode))]

    def others(self, wanted=lambda _st: True):
        return [path for path, st in self._walk() if not stat.S_ISDIR(st.st_mode) and wanted(st)]

    def _walk(self):
        todo = [self.root]
        while todo:
            at = todo.pop()
            try:
                names = sorted(os.listdir(at))
            except OSError:
                continue
            for name in names:
                path = at + b"/" + name
                try:
                    st = os.lstat(path)
                except OSError:
                    continue
                if stat.S_ISDIR(st.st_mode):
                    todo.append(path)
                yield path, st

    def any_directory(self):
        return self.rng.choice(self.directories())

    def any_file(self, wanted=lambda _st: True):
        return self._one(self.others(lambda st: stat.S_ISREG(st.st_mode) and wanted(st)))

    def anything(self):
        return self._one([path for path, _ in self._walk()])

    def _one(self, paths):
        if not paths:
            raise FileNotFoundError(2, "nothing there")
        return self.rng.choice(paths)

    def place(self):
        return self.any_directory() + b"/" + self.name()

    def name(self):
        return self.rng.choice(NAMES if self.links or self.rng.random() < 0.85 else SPECIAL)

    def data(self):
        return self.rng.randbytes(self.rng.choice([0, 3, 100, 5000]))

    # -- changes ----------------------------------------------------------------------------------

    def _said(self, *what):
        self.log.append(what)

    def create(self):
        path = self.place()
        self._said("create", path)
        signed = path.endswith(b"CACHEDIR.TAG") and self.rng.random() < 0.5
        self._write(path, "wb", SIGNATURE if signed else self.data())

    def write(self):
        self._written("wb", self.any_file(), self.data())

    def append(self):
        self._written("ab", self.any_file(), self.data())

    def _written(self, mode, path, data):
        self._said("write", mode, path)
        self._write(path, mode, data)

    def _write(self, path, mode, data):
        # Never through a symlink, nor into a pipe that nobody reads.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        flags |= os.O_TRUNC if mode == "wb" else os.O_APPEND
        with os.fdopen(os.open(path, flags, 0o644), mode) as file:
            file.write(data)

    def truncate(self):
        path = self.any_file()
        self._said("truncate", path)
        os.truncate(path, self.rng.randrange(200))

    def make_directory(self):
        path = self.place()
        self._said("mkdir", path)
        os.mkdir(path)

    def make_tree(self):
        path = self.place()
        self._said("tree", path)
        self._tree(path)

    def _tree(self, path):
        for _ in range(self.rng.randint(1, 3)):
            below = path + b"/" + b"/".join(self.name() for _ in range(self.rng.randint(1, 3)))
            os.makedirs(below, exist_ok=True)
            self._write(below + b"/" + self.name(), "wb", self.data())

    def rename(self):
        old, new = self.anything(), self.place()
        self._said("rename", old, new)
        os.rename(old, new)

    def replace(self):
        old, new = self.any_file(), self._one(self.others())
        self._said("replace", old, new)
        os.rename(old, new)

    def exchange(self):
        """Two whole trees change places."""
        one, two = self.anything(), self.anything()
        if one == two or one.startswith(two + b"/") or two.startswith(one + b"/"):
            return
        self._said("exchange", one, two)
        aside = self.root + b"/aside"
        os.rename(one, aside)
        os.rename(two, one)
        os.rename(aside, two)

    def chmod(self):
        path = self.anything()
        self._said("chmod", path)
        if not stat.S_ISLNK(os.lstat(path).st_mode):
            os.chmod(path, self.rng.choice([0o700, 0o755, 0o750, 0o711]))

    def xattr(self):
        path = self._one([self.any_directory(), self.any_file()])
        self._said("xattr", path)
        os.setxattr(path, b"user.note", self.data()[:100])

    def times(self):
        path = self.anything()
        self._said("times", path)
        os.utime(path, ns=(1, self.rng.randrange(10**18)), follow_symlinks=False)

    def link(self):
        old, new = self._one(self.others()), self.place()
        self._said("link", old, new)
        os.link(old, new, follow_symlinks=False)
        self.linked = True

    def write_linked(self):
        path = self.any_file(lambda st: st.st_nlink > 1)
        self._said("write linked", path)
        self._write(path, self.rng.choice(["wb", "ab"]), self.data())

    def symlink(self):
        path = self.place()
        self._said("symlink", path)
        os.symlink(self.rng.choice(NAMES), path)

    def fifo(self):
        path = self.place()
        self._said("fifo", path)
        os.mkfifo(path)

    def delete(self):
        path = self._one(self.others())
        self._said("delete", path)
        os.unlink(path)

    def delete_tree(self):
        path = self.any_directory()
        if path != self.root:
            self._said("delete tree", path)
            shutil.rmtree(path)

    def recreate(self):
        """Gone and back under its name, perhaps with the same inode number."""
        path = self.anything()
        self._said("recreate", path)
        is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
        self._remove(path)
        if is_directory:
            self._tree(path)
        else:
            self._write(path, "wb", self.data())

    def become_other(self):
        """A directory where a file was, or the other way round."""
        path = self.anything()
        self._said("become other", path)
        is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
        self._remove(path)
        if is_directory:
            self._write(path, "wb", self.data())
        else:
            self._tree(path)

    def _remove(self, path):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def move_out(self):
        path = self.anything()
        self._said("move out", path)
        self.moved += 1
        os.rename(path, self.outside + b"/%d" % self.moved)

    def move_in(self):
        path = self._one([self.outside + b"/" + name for name in sorted(os.listdir(self.outside))])
        new = self.place()
        self._said("move in", path, new)
        os.rename(path, new)

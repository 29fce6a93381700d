"""What a launcher does before it starts the server: mend what is damaged, and say what that cost."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fluxy_sync.errors import StorageUnavailable
from fluxy_sync.host.files import exists, paths_in, read_private, remove, write_private
from fluxy_sync.journal import Journal, Store, connect
from fluxy_sync.journal.recount import namespaces, new_epoch, recount
from fluxy_sync.repair import manifest
from fluxy_sync.repair.bench import arities_of, on_the_bench
from fluxy_sync.repair.files import Mended, disagree, mend
from fluxy_sync.repair.record import COPIES, REPAIRS_FILE, Copies, describe, note

RECOUNT_FILE = "recount"  # while it is there, the journals are counted anew before the next start
RECOUNT_S = 3600.0  # the longest wait for one lane

Say = Callable[[str], object]


class Mechanic:
    """Sees to the files of one store while no server runs on them.

    Args:
        data_dir: the gateway's; the files are in ``store/appendonlydir``.
        server: the program.
        log: where it writes what it has to say.
        say: is told each repair, in one line.
    """

    def __init__(self, data_dir: Path, server: Path, log: Path, say: Say) -> None:
        self._data_dir = data_dir
        self._folder = data_dir / "store" / manifest.FOLDER
        self._server, self._log, self._say = server, log, say
        self._recount_file = data_dir / RECOUNT_FILE

    def is_needed(self) -> bool:
        """Whether there is something to do before the next start, whatever the server says."""
        return disagree(self._folder) or exists(self._recount_file)

    def ask_for_recount(self) -> None:
        """Let the journals be counted anew, whether files are damaged or not."""
        if not exists(self._recount_file):
            write_private(self._recount_file, "")

    def run(self, configuration: str, keep_open: Sequence[int] = ()) -> bool:
        """Mend what is damaged; whether anything was.

        Args:
            configuration: of the server, without its addresses.
            keep_open: descriptors that the server holds while it works for us.

        Raises:
            StorageUnavailable: it can't be mended; nothing was deleted.
        """
        try:
            mended = self._mend()
            if exists(self._recount_file):
                self._recount(configuration, keep_open)
                return True
        except OSError as error:
            raise StorageUnavailable(
                f"the store's files can't be repaired ({error.strerror}); nothing of them was deleted; "
                f"free disk space, or copy {self._folder} to a disk that is whole"
            ) from error
        return mended

    def _mend(self) -> bool:
        copies = Copies(self._data_dir)

        def keep(files: Sequence[Path]) -> None:
            copies.keep(files)
            write_private(self._recount_file, f"{copies.folder}\n")

        try:
            arities = arities_of(self._server, self._log)
        except StorageUnavailable:
            return False  # it is not the files: its own last words tell more
        mended = mend(self._folder, arities, keep, new_epoch)
        if mended is None:
            self._finish_earlier()
            return False
        if not mended.found:
            self._say(f"the store's last write was cut off: {mended.cut_off:,} bytes that nobody was told of are gone")
            return True
        self._tell(mended, copies.folder)
        return True

    def _finish_earlier(self) -> None:
        """A repair that was cut off when all but its record was done."""
        named = Path(read_private(self._recount_file, "", errors="replace").strip()).name
        copy = next((folder for folder in paths_in(self._data_dir / COPIES) if folder.name == named), None)
        if copy is not None:
            kept = manifest.read(self._folder)
            names = {part.name for part in kept.parts} if kept else set()
            for path in manifest.files_in(self._folder):
                if path.name not in names and exists(copy / path.name):
                    remove(path)
            found = ("they were repaired, but what that cost was not written down",)
            self._tell(Mended(found, unknown=True), copy)

    def _tell(self, mended: Mended, copy: Path) -> None:
        repair = describe(mended, copy, time.time())
        note(self._data_dir, repair)
        write_private(self._recount_file, "")
        self._say(f"{repair.line}; see {self._data_dir / REPAIRS_FILE}")

    def _recount(self, configuration: str, keep_open: Sequence[int]) -> None:
        try:
            with (
                on_the_bench(self._server, configuration, self._log, keep_open) as url,
                contextlib.closing(Store(connect(url, RECOUNT_S))) as store,
            ):
                for namespace in namespaces(store):
                    recount(Journal(store, namespace))
        except StorageUnavailable as error:
            raise StorageUnavailable(
                f"the store's repaired files can't be used ({error}); nothing was deleted: see "
                f"{self._data_dir / COPIES}; restore a backup, or move {self._folder} away to begin anew"
            ) from error
        remove(self._recount_file)

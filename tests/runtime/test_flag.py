"""A count shared between processes."""

from __future__ import annotations

import stat
from pathlib import Path

from lightmem_engine.runtime.admission import Admission
from lightmem_engine.runtime.flag import ForegroundFlag
from lightmem_engine.runtime.policy import Policy
from tests.support.process import python


def test_what_one_process_writes_another_reads(tmp_path: Path) -> None:
    path = tmp_path / "foreground"
    with ForegroundFlag(path, is_writer=True) as flag, ForegroundFlag(path) as reader:
        assert reader.read() == 0
        flag.set(3)
        assert reader.read() == 3
        code = "from pathlib import Path; from lightmem_engine.runtime.flag import ForegroundFlag as Flag; "
        code += f"print(Flag(Path({str(path)!r})).read())"
        assert python("-c", code).stdout.strip() == "3"
    with ForegroundFlag(path) as reader:
        assert reader.read() == 3
    with ForegroundFlag(path, is_writer=True) as flag:  # the next owner begins anew
        assert flag.read() == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_admission_tells_of_users_and_not_of_searches() -> None:
    told = list[int]()
    admission = Admission(Policy(1), told.append)
    with admission.foreground(), admission.foreground(brief=True), admission.foreground():
        assert told == [1, 2]
    assert told == [1, 2, 1, 0]

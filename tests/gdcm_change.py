"""Rewrite a DICOM file in another transfer syntax: `python gdcm_change.py FROM TO NAME`, NAME as GDCM calls the syntax.

A program of its own, because GDCM's Python objects and some of its encoders can end the process that they run in.
"""

import subprocess
import sys
from pathlib import Path


def change_syntax(source: Path, target: Path, name: str) -> None:
    """Rewrite the file in a process of its own.

    Raises:
        NotImplementedError: GDCM cannot do it.
    """
    command = [sys.executable, __file__, str(source), str(target), name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotImplementedError(f"GDCM does not write {name}: {done.stdout} {done.stderr}")


def _main(source: str, target: str, name: str) -> str | None:
    import gdcm

    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(source)
    if not reader.Read():
        return "the file cannot be read"
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    if not change.Change():
        return "its samples do not fit"
    writer.SetFile(reader.GetFile())
    writer.SetFileName(target)
    writer.SetImage(change.GetOutput())
    return None if writer.Write() else "the file cannot be written"


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))

"""The verb `doctor`."""

from cli.console import Table, answer, reported
from cli.options import DEFAULT_WORKSPACE, DebugOption, JsonOption, WorkspaceOption


def doctor(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show versions, devices, threads, workspace and weights, and what to do about what is missing."""
    with reported(debug=debug):
        import peftbench

        found = peftbench.doctor(workspace)
        rows = [("version", name, version or "not installed") for name, version in found.versions.items()]
        rows += [
            ("device", each["device"], each["name"] + (", bf16 in hardware" if each["bf16"] else ", no bf16"))
            for each in found.devices
        ]
        rows += [("threads", name, str(value)) for name, value in found.threads.items()]
        rows += [("workspace", name, str(value)) for name, value in found.workspace.items()]
        rows += [("weights", name, each["where"] or "not here") for name, each in found.weights.items()]
        rows += [("to do", str(index), each) for index, each in enumerate(found.advice or ["nothing"], start=1)]
        answer(found.to_json(), as_json=as_json, table=Table("", ("what", "name", "value"), rows))

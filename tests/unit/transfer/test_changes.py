import pytest

from lading.errors import InvalidArgumentError
from lading.oci.config import RunConfig
from lading.transfer.changes import apply


def test_command_in_both_forms():
    assert apply(RunConfig(), ['CMD ["a", "b c"]']).cmd == ("a", "b c")
    assert apply(RunConfig(), ["cmd echo $HOME"]).cmd == ("/bin/sh", "-c", "echo $HOME")
    assert apply(RunConfig(), ['SHELL ["/bin/bash","-c"]', "ENTRYPOINT run"]).entrypoint == (
        "/bin/bash",
        "-c",
        "run",
    )


def test_an_empty_command_is_one():
    config = RunConfig(cmd=("old",), entrypoint=("old",))
    assert apply(config, ["CMD"]).cmd == ("/bin/sh", "-c")
    assert apply(config, ["CMD []"]).cmd == ()
    assert apply(config, ["ENTRYPOINT"]).entrypoint is None
    assert apply(config, ["ENTRYPOINT []"]).entrypoint is None


def test_environment_is_replaced_by_key_and_keeps_its_order():
    config = RunConfig(env=("PATH=/bin", "A=1"))
    changed = apply(config, ['ENV A=2 B="two words" C=back\\ slash', "ENV OLD form of it"])
    assert changed.env == ("PATH=/bin", "A=2", "B=two words", "C=back slash", "OLD=form of it")


def test_the_other_instructions():
    changed = apply(
        RunConfig(working_dir="/srv"),
        [
            "EXPOSE 80 53/udp",
            "LABEL a=b 'c d'=e",
            "USER app:app",
            "WORKDIR sub",
            'VOLUME ["/data", "/log"]',
            "VOLUME /more",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl localhost",
            "# a comment",
        ],
    )
    assert changed.exposed_ports == {"80/tcp": {}, "53/udp": {}}
    assert changed.labels == {"a": "b", "c d": "e"}
    assert (changed.user, changed.working_dir, changed.stop_signal) == ("app:app", "/srv/sub", "SIGINT")
    assert list(changed.volumes or {}) == ["/data", "/log", "/more"]
    assert changed.on_build == ("RUN make",)
    assert changed.healthcheck is not None
    assert changed.healthcheck.test == ("CMD-SHELL", "curl localhost")
    assert (changed.healthcheck.interval, changed.healthcheck.retries) == (90_000_000_000, 3)
    assert apply(RunConfig(), ["HEALTHCHECK NONE"]).healthcheck.test == ("NONE",)


@pytest.mark.parametrize(
    "change",
    [
        "RUN rm -rf /",
        "FROM x",
        "EXPOSE http",
        "USER a b",
        "ENV A",
        "LABEL a=b c",
        "ONBUILD FROM x",
        "SHELL sh",
        "HEALTHCHECK --often=1s CMD x",
        "HEALTHCHECK --interval=soon CMD x",
        "HEALTHCHECK",
    ],
)
def test_what_is_refused(change: str):
    with pytest.raises(InvalidArgumentError):
        apply(RunConfig(), [change])


def test_changes_are_read_as_a_dockerfile_is():
    config = RunConfig(env=("HOME=/root", "PORT=80"))
    changed = apply(
        config,
        [
            "ENV A=${HOME:-x}/bin B=$UNSET",
            "ENV LONG=a\\\nb",
            "WORKDIR $HOME/../srv",
            "EXPOSE $PORT 90-91/udp",
            "LABEL where=$A",
            "USER $A",
        ],
    )
    assert changed.env == ("HOME=/root", "PORT=80", "A=/root/bin", "B=", "LONG=ab")
    assert changed.working_dir == "/srv"
    assert list(changed.exposed_ports or {}) == ["80/tcp", "90/udp", "91/udp"]
    assert changed.labels == {"where": "/root/bin"}
    assert changed.user == "/root/bin"
    assert apply(config, []) == config
    assert apply(config, ["", "# nothing"]) == config
    with pytest.raises(InvalidArgumentError, match="RUN is not a valid change command"):
        apply(config, ["RUN x"])

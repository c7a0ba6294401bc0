"""COPY and ADD: files from the context, from stages and images, from the web and from repositories."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from lading.builder.frontend.contexts import git_source, http_source, internal, named
from lading.builder.frontend.scope import Scope, new_group
from lading.builder.frontend.shells import owner
from lading.builder.frontend.state import StageNode, Work
from lading.errors import InvalidArgumentError
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.gitref import GitRef, is_git, is_http, parse_git_ref
from lading.formats.dockerfile.lines import Heredoc
from lading.formats.dockerfile.patterns import clean
from lading.formats.dockerfile.shell import Lexer
from lading.formats.llb import make, ops
from lading.formats.llb.make import Edge, Style
from lading.oci.digest import Digest

_SYMBOLIC = re.compile(r"[ugoa]*(?:[-+=][rwxXstugo]*)+(?:,[ugoa]*(?:[-+=][rwxXstugo]*)+)*")
Step = tuple[ops.Action, Edge | None]


def copy(work: Work, command: ins.Copy, sources: Sequence[StageNode | None], scope: Scope) -> None:
    """Carry out a COPY. Raises `DockerfileError`."""
    command = command.expanded(lambda word: scope.expand(work, word, command.lines))
    origin = sources[0] if sources else None
    tree = scope.context
    if origin is not None:
        tree = scope.tree_of(
            origin,
            f'cannot copy from stage "{command.origin}", it needs to be defined before current stage '
            f'"{work.node.shown}"',
        )
    _Transfer(work=work, command=command, scope=scope, tree=tree, stage=origin).carry_out()
    used = {clean(f"/{source}") for source in command.sources}
    if origin is None:
        work.context_paths |= used
    else:
        scope.works[origin].used_paths |= used


def add(work: Work, command: ins.Add, scope: Scope) -> None:
    """Carry out an ADD. Raises `DockerfileError`."""
    command = command.expanded(lambda word: scope.expand(work, word, command.lines))
    _Transfer(work=work, command=command, scope=scope, tree=scope.context).carry_out()
    work.context_paths |= {
        clean(f"/{source}") for source in command.sources if not source.startswith(("http://", "https://"))
    }


@dataclass(slots=True, kw_only=True)
class _Transfer:
    work: Work
    command: ins.Add | ins.Copy
    scope: Scope
    tree: Edge | None
    stage: StageNode | None = None
    _name: str = ""
    _steps: list[Step] = field(default_factory=list[Step])

    def carry_out(self) -> None:
        """Make the vertices, and record the instruction."""
        command = self.command
        linked = command.link and not command.chmod
        base = None if linked else self.work.tree
        options = ops.Copy(
            src="",
            dest=self._dest(),
            owner=owner(self._chown(), None if base is None else 0),
            mode=_mode(command.chmod),
            create_dest_path=True,
            exclude=command.exclude,
        )
        self._check_checksum()
        self._name = self.scope.shown(self.work, command)
        label = self.scope.step(self.work, self._name)
        for source in command.sources:
            self._take(source, options, label)
        for document in command.files:
            self._take_document(document, options)
        if linked:
            self._link(label)
        else:
            style = self.scope.style(self.work, command, label)
            self.work.tree = make.change(base, self._steps, style, *_caps(self._steps))
        self.scope.record(self.work, self._told(), layer=True)

    def _chown(self) -> str:
        chown = self.command.chown
        return f"{chown}:{chown}" if chown and ":" not in chown and not self.scope.own_groups else chown

    def _dest(self) -> str:
        dest = self.command.dest
        if dest in ("", "."):
            dest = "./"
        whole = dest if dest.startswith("/") else f"{self.work.directory}/{dest}"
        cleaned = clean(f"/{whole}")
        if dest.endswith("/") and cleaned != "/":
            return f"{cleaned}/"
        if dest.endswith("/."):
            return f"{cleaned}/." if cleaned != "/" else "/."
        return cleaned

    def _told(self) -> str:
        command = self.command
        words = ["ADD" if isinstance(command, ins.Add) else "COPY"]
        if isinstance(command, ins.Copy) and command.parents:
            words.append("--parents")
        if command.chown:
            words.append(f"--chown={command.chown}")
        if command.chmod:
            words.append(f"--chmod={command.chmod}")
        words += [*command.sources, *(f"<<{one.name}" for one in command.files), command.dest]
        return f"{' '.join(words)} # buildkit"

    def _link(self, label: str) -> None:
        """The files as a layer of their own, laid over what was there."""
        weak = new_group(label, weak=True)
        alone = make.change(
            None,
            self._steps,
            self.scope.style(self.work, self.command, label, group=weak),
            *_caps(self._steps),
        )
        name = self.scope.step_again(self.work, f"LINK {self._name}")
        group = new_group(label, weak=False, id=weak.id)
        style = self.scope.style(self.work, self.command, name, group=group)
        self.work.tree = make.merge([self.work.tree, alone], style)

    # Sources.

    def _take(self, source: str, options: ops.Copy, label: str) -> None:
        git = parse_git_ref(source)
        adds = isinstance(self.command, ins.Add)
        if git is not None and not git.like_local:
            if not adds:
                raise DockerfileError("source can't be a git ref for COPY")
            self._steps.append((replace(options, src="/"), self._git(git, label)))
        elif is_http(source):
            if not adds:
                raise DockerfileError("source can't be a URL for COPY")
            self._take_url(source, options, label)
        else:
            self._take_path(source, options)

    def _git(self, git: GitRef, label: str) -> Edge:
        assert isinstance(self.command, ins.Add)
        keep, checksum = self.command.keep_git_dir, self.command.checksum
        if None not in (keep, git.keep_git_dir) and keep != git.keep_git_dir:
            raise DockerfileError("inconsistent keep-git-dir configuration")
        if checksum and git.checksum and checksum != git.checksum:
            raise DockerfileError(f'checksum mismatch "{checksum}" != "{git.checksum}"')
        return git_source(
            git,
            Style(metadata=named(label)),
            keep_git_dir=bool(keep if git.keep_git_dir is None else git.keep_git_dir),
            checksum=git.checksum or checksum,
        )

    def _take_url(self, url: str, options: ops.Copy, label: str) -> None:
        assert isinstance(self.command, ins.Add)
        filename = _path(url).rstrip("/").rpartition("/")[2] or "__unnamed__"
        checksum = self.command.checksum
        if checksum:
            try:
                Digest(checksum)
            except InvalidArgumentError as exc:
                raise DockerfileError(exc.message) from exc
        style = Style(metadata=named(label, command=""))
        tree = http_source(url, style, filename=filename, checksum=checksum)
        action = replace(options, src=f"/{filename}", attempt_unpack=bool(self.command.unpack))
        self._steps.append((action, tree))

    def _take_path(self, source: str, options: ops.Copy) -> None:
        self._check_ignored(source)
        include: tuple[str, ...] = ()
        if isinstance(self.command, ins.Copy) and self.command.parents:
            pivot, found, pattern = source.partition("/./")
            source, pattern = (pivot, pattern) if found else ("/", source)
            include = (clean(f"/{pattern}").lstrip("/"),)
        unpack = isinstance(self.command, ins.Add) and self.command.unpack is not False
        action = replace(
            options,
            src=clean(f"/{source}"),
            follow_symlink=True,
            dir_copy_contents=True,
            include=include,
            attempt_unpack=unpack,
            allow_wildcard=True,
            allow_empty_wildcard=self.scope.empty_wildcards or len(self.command.sources) > 1,
        )
        self._steps.append((action, self.tree))

    def _take_document(self, document: Heredoc, options: ops.Copy) -> None:
        text = document.text
        if document.expand:
            lexer = Lexer(ignore_quotes=True, allowance=self.scope.lexer.allowance)
            text = self.scope.expand(self.work, text, self.command.lines, lexer)
        path = clean(f"/{document.name}")
        file = ops.MakeFile(path=path, mode=0o644, data=text.encode("utf-8", "surrogateescape"))
        tree = make.change(None, [(file, None)], internal("preparing inline document"))
        self._steps.append((replace(options, src=path), tree))

    # Checks.

    def _check_checksum(self) -> None:
        if not isinstance(self.command, ins.Add) or not self.command.checksum:
            return
        if len(self.command.sources) != 1:
            raise DockerfileError("checksum can't be specified for multiple sources")
        source = self.command.sources[0]
        if not is_http(source) and not is_git(source):
            raise DockerfileError("checksum requires HTTP(S) or Git sources")

    def _check_ignored(self, source: str) -> None:
        ignored = self.scope.ignored
        if self.stage is None and ignored is not None and ignored.matches(clean(source).lstrip("/")):
            verb = "Add" if isinstance(self.command, ins.Add) else "Copy"
            message = f'Attempting to {verb} file "{source}" that is excluded by .dockerignore'
            self.scope.report(rules.COPY_IGNORED_FILE, message, self.command.lines)


def _path(url: str) -> str:
    """The path of an address; empty for one that is none, which its source will say."""
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _mode(text: str) -> int | str | None:
    """Permission bits of ``--chmod``: octal, or symbolic as text."""
    if not text:
        return None
    if re.fullmatch("[0-9]+", text):
        if re.fullmatch("[0-7]{1,11}", text) and int(text, 8) <= 0o7777:
            return int(text, 8)
        raise DockerfileError(
            f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
        )
    if not _SYMBOLIC.fullmatch(text):
        raise DockerfileError(f'invalid mode "{text}"')
    return text


def _caps(steps: Sequence[Step]) -> list[str]:
    copies = [action for action, _ in steps if isinstance(action, ops.Copy)]
    caps: list[str] = []
    if any(action.include or action.exclude for action in copies):
        caps.append("file.copy.includeexcludepatterns")
    if any(isinstance(action.mode, str) for action in copies):
        caps.append("file.copy.modestring")
    return caps

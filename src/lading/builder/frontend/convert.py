"""One platform's build: a Dockerfile to a graph and an image config.

Which files of the client are wanted is known only when all instructions are carried out, and the tree that they read is part of
the graph. So they are carried out twice if need be: once to learn the paths, and once with trees of these paths. A thread does
it, as a long file takes seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from lading.builder.frontend import checks, image
from lading.builder.frontend.arguments import Globals, global_arguments, platform_variables, proxy
from lading.builder.frontend.bases import Bases, Images
from lading.builder.frontend.contexts import Contexts
from lading.builder.frontend.dispatch import dispatch, set_directory
from lading.builder.frontend.image import Draft
from lading.builder.frontend.plan import Plan, Planner
from lading.builder.frontend.scope import Scope
from lading.builder.frontend.state import LocalContext, Planned, StageNode, Work, as_paths, reachable
from lading.formats.dockerfile import instructions as ins
from lading.formats.dockerfile import rules, values
from lading.formats.dockerfile.errors import DockerfileError
from lading.formats.dockerfile.patterns import Matcher
from lading.formats.dockerfile.shell import Lexer
from lading.formats.llb.make import Edge
from lading.formats.llb.metadata import SourceFile
from lading.kit import aio
from lading.oci.descriptor import Platform


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What became of a Dockerfile for one platform."""

    target: Work
    draft: Draft
    globals: Globals
    works: Mapping[StageNode, Work]
    context: Edge | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Converter:
    """Carries out a Dockerfile for one platform. ``all_stages`` also those that the target does not need."""

    contexts: Contexts
    images: Images
    file: SourceFile
    dockerfile: ins.Dockerfile
    native: tuple[Platform, ...]
    """What this worker runs; the first is the one that it is."""
    asked: Platform | None
    report: rules.Report
    all_stages: bool = False
    predefined: bool = True
    """Whether there are TARGETPLATFORM and its kin."""
    empty_wildcards: bool = True
    """`Scope.empty_wildcards`."""
    own_groups: bool = True
    """`Scope.own_groups`."""
    observe: Callable[[Work, Planned | None], None] | None = None
    """`Scope.observe`, of the round that counts."""

    async def convert(self) -> Converted:
        """Raises `DockerfileError`, with the lines at fault where there are such."""
        options, stages = self.contexts.options, self.dockerfile.stages
        if not stages:
            raise DockerfileError("dockerfile contains no stages to build")
        checks.check_stages(stages, self.report)
        target = self.asked or self.native[0]
        lexer = Lexer(escape=self.dockerfile.escape)
        name = options.target or stages[-1].head.stage
        predefined: dict[str, str] = {}
        if self.predefined:
            predefined = platform_variables(self.native[0], target, name, options.build_args)
        self._check_defaults(predefined, lexer)
        variables = global_arguments(predefined, self.dockerfile.arguments, options.build_args, lexer)
        plan = Planner(
            globals=variables,
            lexer=lexer,
            report=self.report,
            find_context=self.contexts.find,
            target=target,
            ignores_cache=options.ignores_cache,
        ).plan(stages, options.target)
        goal = plan.goal
        await Bases(
            contexts=self.contexts,
            images=self.images,
            file=self.file,
            lexer=lexer,
            report=self.report,
            target=target,
            implicit=self.asked is None,
            runnable=self.native,
        ).resolve(plan, goal, all_stages=self.all_stages)
        found = rules.Deferred()
        scope = await self._scope(variables, lexer, target, found)
        try:
            done = await aio.run(
                aio.DATA, self._carry_out_with_paths, scope, plan, goal, abandon_on_cancel=True
            )
        finally:
            found.pass_on(self.report)
        work = done.works[goal]
        work.draft.labels.update(options.labels)
        draft = image.with_target(work.draft, target, implicit=self.asked is None)
        return Converted(target=work, draft=draft, globals=variables, works=done.works, context=done.context)

    def _check_defaults(self, predefined: Mapping[str, str], lexer: Lexer) -> None:
        try:
            defaults = global_arguments(predefined, self.dockerfile.arguments, {}, lexer)
        except DockerfileError:
            return
        checks.check_default_bases(self.dockerfile.stages, defaults.variables, lexer, self.report)

    async def _scope(self, variables: Globals, lexer: Lexer, target: Platform, report: rules.Report) -> Scope:
        ignored = await self.contexts.ignored()
        return Scope(
            options=self.contexts.options,
            globals=variables,
            lexer=lexer,
            file=self.file,
            report=report,
            proxy=proxy(self.contexts.options.build_args),
            target=target,
            context=self.contexts.main([], ignored),
            ignored=Matcher(ignored) if ignored else None,
            empty_wildcards=self.empty_wildcards,
            own_groups=self.own_groups,
        )

    def _carry_out_with_paths(self, scope: Scope, plan: Plan, goal: StageNode) -> Scope:
        wanted = reachable(goal)
        nodes = plan.nodes if self.all_stages else [node for node in plan.nodes if node in wanted]
        locals_ = {node: node.tree for node in nodes if isinstance(node.tree, LocalContext)}
        _carry_out(scope, nodes, {node: self.contexts.local(one, []) for node, one in locals_.items()})
        scope.works[goal].used_paths.add("/")
        follow = as_paths(path for work in scope.works.values() for path in work.context_paths)
        trees = {
            node: self.contexts.local(one, as_paths(scope.works[node].used_paths))
            for node, one in locals_.items()
        }
        ignored = (
            [f"{'!' if one.inverted else ''}{one.text}" for one in scope.ignored.patterns]
            if scope.ignored
            else []
        )
        again = replace(
            scope,
            context=self.contexts.main(follow, ignored),
            works={},
            report=rules.ignore,
            observe=self.observe,
        )
        _carry_out(again, nodes, trees)
        return again


def _carry_out(scope: Scope, nodes: list[StageNode], trees: Mapping[StageNode, Edge]) -> None:
    for node in sorted(nodes, key=lambda node: not node.settled):
        if node.settled:
            scope.works[node] = _settled(node, trees, scope)
    for node in nodes:
        if not node.settled:
            work = _begun(node, trees, scope)
            observe = scope.observe or _unobserved
            observe(work, None)
            for planned in node.commands:
                dispatch(work, planned, scope)
                if scope.observe is not None:
                    scope.spend_on_copy(work)
                observe(work, planned)
            _mark_scans(work, scope)
            scope.works[node] = work


def _unobserved(_work: Work, _planned: Planned | None) -> None:
    """Nobody wants to know."""


def _settled(node: StageNode, trees: Mapping[StageNode, Edge], scope: Scope) -> Work:
    platform = node.platform or scope.target
    draft = node.draft.copy() if node.draft is not None else image.empty(platform)
    tree = trees.get(node, node.tree)
    assert not isinstance(tree, LocalContext)
    return Work(node=node, tree=tree, draft=draft, platform=platform, env=dict(draft.env))


def _begun(node: StageNode, trees: Mapping[StageNode, Edge], scope: Scope) -> Work:
    """A stage before its first instruction."""
    if node.base is None:
        work = _settled(node, trees, scope)
        work.env = {}
        work.step = node.first_step
    else:
        work = _inherited(node, scope.works[node.base])
        scope.spend_on_copy(work)
    draft = work.draft
    draft.on_build = ()
    if draft.platform.os != "windows":
        draft.env.setdefault("PATH", image.DEFAULT_PATH)
    for key, value in draft.env.items():
        work.set_variable(key, value)
    if draft.working_dir:
        set_directory(work, draft.working_dir)
    work.user = draft.user
    return work


def _inherited(node: StageNode, base: Work) -> Work:
    return Work(
        node=node,
        tree=base.tree,
        draft=base.draft.copy(),
        platform=base.platform,
        env=dict(base.env),
        directory=base.directory,
        arguments=list(base.arguments),
        workdir_set=base.workdir_set,
        used_paths=base.used_paths,
    )


def _mark_scans(work: Work, scope: Scope) -> None:
    for kind in ("context", "stage"):
        key = f"BUILDKIT_SBOM_SCAN_{kind.upper()}"
        told = [scope.globals.variables.get(key)]
        told += [argument.value for argument in work.arguments if argument.key == key]
        given = [text for text in told if text is not None]
        if given and _enabled(work.node.shown, given[-1]):
            work.scans.add(kind)


def _enabled(stage: str, text: str) -> bool:
    truth = values.truth(text)
    return stage in text.split(",") if truth is None else truth

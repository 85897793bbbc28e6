"""``gato serve``: a trained network behind a port."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence

from gato.data_pipelines.environments.base import install_command
from gato.evaluation.demonstrations import run_directory
from gato.inference.agent import Agent
from gato.inference.sampling import Sampling
from gato.inference.session import prompt_budget
from gato.serving.limits import TOKEN_VARIABLE, Limits, ServeError, check_address, read_token
from gato.tokenizers.errors import counted, suggest
from gato.training.setup import enable_compilation_cache

try:
    import msgpack  # noqa: F401
    import websockets  # noqa: F401
except ModuleNotFoundError as error:
    raise ServeError(
        f"gato serve needs the package {error.name}, which is not installed; in the checkout: "
        f"{install_command('serve')}"
    ) from None

from gato.serving.policy import Policy
from gato.serving.server import Server, check_address_is_free


def run(arguments: argparse.Namespace) -> None:
    """Serves until Ctrl-C or SIGTERM."""
    token = read_token(arguments.token_file)
    check_address(arguments.host, token)
    if token is None:
        _say(f"warning: no token (--token-file, {TOKEN_VARIABLE}): every program on this machine may use the server")
    Sampling.of(arguments.temperature or 0.0, arguments.top_k, arguments.top_p)  # refused now, not when one connects
    enable_compilation_cache()
    agent = Agent.from_checkpoint(arguments.checkpoint)
    prompt_budget(agent.meta.length, arguments.memory, arguments.prompt_tokens)
    _check_sources(agent, arguments.warm)  # now, not after minutes of compiling; so is the address
    check_address_is_free(arguments.host, arguments.port)
    policy = Policy(
        agent,
        arguments.sessions,
        run_directory(arguments.checkpoint),
        arguments.seed,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        memory=arguments.memory,
        prompt_tokens=arguments.prompt_tokens,
        prompt_part=arguments.prompt,
    )
    for source in arguments.warm:
        _say(f"compiling for {source}")
        policy.warm(source)
    limits = Limits(sessions=arguments.sessions, message=arguments.max_message << 20, idle=arguments.idle)
    asyncio.run(_serve(policy, limits, token, arguments.host, arguments.port))


def _check_sources(agent: Agent, warm: Sequence[str]) -> None:
    """Raises ServeError or AgentError: there is nothing to act in, or not in one of ``warm``."""
    acting = [name for name, source in agent.meta.sources.items() if source.spec.kind == "control"]
    if not acting:
        raise ServeError(
            f"none of this checkpoint's {counted(len(agent.meta.sources), 'source')} has actions, so there is nothing "
            "to serve; gato generate writes its texts"
        )
    for name in warm:
        if agent.source(name)[0] not in acting:
            raise ServeError(f"--warm {name}: has no actions; {suggest(name, acting)}")


async def _serve(policy: Policy, limits: Limits, token: str | None, host: str, port: int) -> None:
    server = Server(policy, limits, token, _say)
    loop = asyncio.get_running_loop()

    def end(name: str) -> None:
        _say(f"{name}: answering what was asked, then closing; once more: at once")
        server.drain()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # an exception would wait for the thread that acts, or compiles

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number.name)

    def ready(port: int) -> None:
        where = f"{f'[{host}]' if ':' in host else host}:{port}"
        print(f"serving step {policy.meta.step} at ws://{where}, health at http://{where}/health", flush=True)

    await server.run(host, port, ready)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

"""An agent's conversation with buildctl, held with the official Python SDK: of 1.x, or of 2.x in one of its modes.

    converse.py http URL MODE            MODE: legacy, auto or 2026-07-28 (1.x: always legacy)
    converse.py stdio BUILDCTL MODE      the program, which is started with `mcp`

What is built is named by REPOSITORY and REGISTRY in the environment, of which the program gets all. The SDK checks structured answers against the schemas that the tools have. Ends with `ok` and what was spoken.
"""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

try:
    from mcp import Client
except ImportError:
    Client = None


def field(value, snake, camel):
    """The SDK names fields in camelCase in 1.x and in snake_case in 2.x."""
    return getattr(value, snake) if hasattr(value, snake) else getattr(value, camel)


def program(buildctl):
    return StdioServerParameters(command=buildctl, args=["mcp"], env=dict(os.environ))


@asynccontextmanager
async def connected(how, where, mode):
    """A client, and the revision that is spoken."""
    if Client:
        async with Client(where if how == "http" else stdio_client(program(where)), mode=mode) as client:
            yield client, client.protocol_version
        return
    from mcp.client.streamable_http import streamable_http_client

    transport = streamable_http_client(where) if how == "http" else stdio_client(program(where))
    async with transport as streams, ClientSession(streams[0], streams[1]) as session:
        hello = await session.initialize()
        yield session, hello.protocolVersion


async def call(client, tool, **arguments):
    """A call that is answered: its structured answer, which is the same as its text."""
    result = await client.call_tool(tool, arguments)
    text = result.content[0].text
    assert not field(result, "is_error", "isError"), text
    answer = field(result, "structured_content", "structuredContent")
    assert json.loads(text) == answer, text
    return answer


async def converse(client):
    tools = [tool.name for tool in (await client.list_tools()).tools]
    assert tools[:2] == ["submitJob", "waitJob"] and len(tools) == 9, tools
    asked = dict(owner="team", repo_url=os.environ["REPOSITORY"], registry_url=os.environ["REGISTRY"])
    broken = {"commands": ["echo tests/test_a.py FAILED; exit 1"]}
    submitted = await call(client, "submitJob", image_name="broken", test=broken, **asked)
    told = []

    async def hear(progress, total, message):
        told.append((progress, message))

    takes_long = {"commands": ["sleep 1"]}
    slow = await call(client, "submitJob", image_name="slow", image_tags='["v1"]', test=takes_long, **asked)
    result = await client.call_tool("waitJob", {"job_id": slow["job_id"]}, progress_callback=hear)
    assert field(result, "structured_content", "structuredContent")["status"] == "SUCCEEDED"
    assert len(told) > 1 and sorted(told) == told, told
    waited = await call(client, "waitJob", job_id=submitted["job_id"], timeout_s=30)
    assert waited["status"] == "FAILED" and waited["failed_phase"] == "test", waited
    logs = await call(client, "getLogs", job_id=submitted["job_id"], errors_only=True)
    assert any("FAILED" in line for line in logs["test"]), logs
    refused = await client.call_tool("getStatus", {"job_id": "none"})
    assert field(refused, "is_error", "isError"), refused
    assert (await call(client, "listJobs", owner="team"))["total"] >= 2
    assert (await call(client, "getHistory"))["jobs"]
    templates = await client.list_resource_templates()
    assert len(field(templates, "resource_templates", "resourceTemplates")) == 2
    resources = (await client.list_resources()).resources
    read = await client.read_resource(resources[0].uri)
    assert slow["job_id"] in read.contents[0].text or submitted["job_id"] in read.contents[0].text


async def main(how, where, mode):
    async with connected(how, where, mode) as (client, revision):
        await converse(client)
    print("ok", revision)


asyncio.run(main(*sys.argv[1:4]))

"""An XMPP client as a program: reads one order from standard input, writes its outcome to standard output, as JSON.

A program of its own because slixmpp lives in asyncio.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from slixmpp import JID, ClientXMPP
from slixmpp.exceptions import IqError

PATIENCE_S = 45
"""Less than the patience of the test, so that what went wrong is said."""


async def logged_in(order: dict[str, Any]) -> ClientXMPP:
    """A client with a session, on a server without TLS."""
    client = ClientXMPP(order["jid"], order["password"])
    for plugin in ("xep_0030", "xep_0363"):
        client.register_plugin(plugin)
    client.plugin["feature_mechanisms"].unencrypted_plain = True
    session = asyncio.get_running_loop().create_future()
    client.add_event_handler("session_start", lambda _: session.set_result(None))
    client.add_event_handler("failed_all_auth", lambda _: session.set_exception(PermissionError("login refused")))
    client.enable_starttls = False
    client.enable_plaintext = True
    client.connect("127.0.0.1", order["port"])
    await session
    return client


async def slots(client: ClientXMPP, order: dict[str, Any]) -> list[dict[str, Any]]:
    """Request slots with the attributes exactly as ordered, an absent or empty content type among them."""
    replies = []
    for filename, size_bytes, content_type in order["requests"]:
        iq: Any = client.make_iq_get(ito=JID(order["component"]))
        request = iq["http_upload_request"]
        request["filename"] = filename
        request["size"] = str(size_bytes)
        if content_type is not None:
            request.xml.set("content-type", content_type)
        slot = (await iq.send(timeout=PATIENCE_S))["http_upload_slot"]
        headers = {header["name"]: header["value"] for header in slot["put"]["headers"]}
        replies.append({"put": slot["put"]["url"], "get": slot["get"]["url"], "headers": headers})
    return replies


async def upload(client: ClientXMPP, order: dict[str, Any]) -> list[str]:
    """Upload files in slixmpp's own way: discovery, slot, PUT."""
    urls = []
    for path, content_type in order["files"]:
        domain = JID(order["component"])
        url = await client.plugin["xep_0363"].upload_file(
            Path(path), content_type=content_type, domain=domain, timeout=PATIENCE_S
        )
        urls.append(url)
    return urls


async def perform(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out an order."""
    client = await logged_in(order)
    work = {"slots": slots, "upload": upload}[order["do"]]
    try:
        return {"result": await work(client, order)}
    except IqError as refused:
        return {"error": f"{refused.condition}: {refused.text}"}
    except Exception as failed:
        return {"error": f"{type(failed).__name__}: {failed}"}
    finally:
        await client.disconnect()


async def main() -> None:
    """Carry out the order on standard input."""
    outcome = await asyncio.wait_for(perform(json.load(sys.stdin)), PATIENCE_S)
    json.dump(outcome, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())

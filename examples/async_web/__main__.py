"""A web page whose uploads are worked on by plugins: `python examples/async_web [--port PORT]`."""

import argparse
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web

import shmhub
import shmhub.aio

LARGEST = 64 << 20  # bytes of one upload
SECONDS = 30
WAITING = 100  # uploads that may wait for a plugin

PAGE = """<!doctype html>
<title>Thumbnails</title>
<form method="post" action="/thumbnail" enctype="multipart/form-data">
<input type="file" name="image" accept="image/*" required> <button>Make it small</button>
</form>
"""

PLUGIN: web.AppKey[Any] = web.AppKey("PLUGIN")  # what `spawn` has returned


async def page(_request: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


async def thumbnail(request: web.Request) -> web.Response:
    if request.content_type == "multipart/form-data":
        field = (await request.post()).get("image")
        if not isinstance(field, web.FileField):
            raise web.HTTPBadRequest(text="there is no file in the field 'image'")
        data = field.file.read()
    else:
        data = await request.read()
    try:
        made = await request.app[PLUGIN].call("thumbnail", data, width=256)
    except OSError as error:  # Pillow's UnidentifiedImageError is one, over here as well
        if not isinstance(error, shmhub.RemoteError):
            raise
        raise web.HTTPUnsupportedMediaType(text="that is no image") from error
    except shmhub.QueueFullError as error:
        raise web.HTTPServiceUnavailable(text="too busy", headers={"Retry-After": "1"}) from error
    except shmhub.HubTimeoutError as error:
        raise web.HTTPGatewayTimeout(text=f"not done within {SECONDS} s") from error
    except shmhub.PluginDiedError as error:
        raise web.HTTPInternalServerError(text="the image killed the plugin") from error
    return web.Response(body=made, content_type="image/webp")


async def plugins(app: web.Application) -> AsyncIterator[None]:
    """Plugins live as long as the server."""
    async with shmhub.aio.PluginHost() as host:
        app[PLUGIN] = await host.spawn(
            Path(__file__).with_name("thumbnailer.py"),
            replicas=2,
            max_pending=WAITING,
            call_timeout=SECONDS,
        )
        yield


def application() -> web.Application:
    app = web.Application(client_max_size=LARGEST)
    app.add_routes([web.get("/", page), web.post("/thumbnail", thumbnail)])
    app.cleanup_ctx.append(plugins)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python examples/async_web")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    listening = socket.create_server(("127.0.0.1", options.port))
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    # A handler is cancelled with its client, and its call with it.
    web.run_app(application(), sock=listening, print=None, handler_cancellation=True)


if __name__ == "__main__":
    main()

"""Lets requests pass that bring a header, and tells backend and client who looked."""

import json
from typing import Optional

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import attributes, logging
from wit_world.imports.types import Decision, LocalReply, Request, Response

NAME = b"my-plugin"

required = ""


class Configuration(exports.Configuration):
    def configure(self, config: str) -> None:
        """Called once for each instance, which many requests use one after the other."""
        global required
        required = json.loads(config)["header"]
        if not required:
            # For the operator to read.
            raise Err("header is empty: name the header that requests have to bring")


class RequestHeaders(exports.RequestHeaders):
    def on_request(self, request: Request) -> Optional[Decision]:
        value = request.header(required)
        if value is None:
            logging.info(f"refused: {request.method()} {request.path()}")
            reply = LocalReply(403)
            reply.set_header("content-type", b"text/plain; charset=utf-8")
            reply.set_body(f"the header {required} is missing\n".encode())
            return Decision.respond(reply)
        try:
            # For the access log, and for plugins that run later. A value may be too long for it.
            attributes.set_string("my-plugin.value", value.decode(errors="replace"))
        except Err as reason:
            logging.warn(f"no attribute was set: {reason.value}")
        request.set_header("x-checked-by", NAME)
        # To return nothing lets the request go on.
        return None


class ResponseHeaders(exports.ResponseHeaders):
    def on_response(self, request: Request, response: Response) -> Optional[Decision]:
        response.set_header("x-checked-by", NAME)
        return None

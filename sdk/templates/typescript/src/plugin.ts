// Lets requests pass that bring a header, and tells backend and client who looked.

import * as attributes from "sluice:plugin/attributes@0.1.0";
import type { Configuration } from "sluice:plugin/configuration@0.1.0";
import * as logging from "sluice:plugin/logging@0.1.0";
import type { RequestHeaders } from "sluice:plugin/request-headers@0.1.0";
import type { ResponseHeaders } from "sluice:plugin/response-headers@0.1.0";
import { Decision, LocalReply } from "sluice:plugin/types@0.1.0";

// Values of headers, and bodies, are bytes: HTTP does not promise UTF-8.
const bytes = (text: string) => new TextEncoder().encode(text);
const text = (value: Uint8Array) => new TextDecoder().decode(value);

const NAME = bytes("my-plugin");

interface Config {
  header: string;
}

let required = "";

export const configuration: Configuration = {
  // Runs once for each configuration: every instance starts from the memory as it is afterwards.
  configure(config) {
    required = (JSON.parse(config) as Config).header;
    if (!required) {
      // For the operator to read.
      throw "header is empty: name the header that requests have to bring";
    }
  },
};

export const requestHeaders: RequestHeaders = {
  onRequest(request) {
    const value = request.header(required);
    if (value === undefined) {
      logging.info(`refused: ${request.method()} ${request.path()}`);
      const reply = new LocalReply(403);
      reply.setHeader("content-type", bytes("text/plain; charset=utf-8"));
      reply.setBody(bytes(`the header ${required} is missing\n`));
      return Decision.respond(reply);
    }
    try {
      // For the access log, and for plugins that run later. A value may be too long for it.
      attributes.setString("my-plugin.value", text(value));
    } catch (error) {
      logging.warn(`no attribute was set: ${(error as { payload: string }).payload}`);
    }
    request.setHeader("x-checked-by", NAME);
    // To return nothing lets the request go on.
  },
};

export const responseHeaders: ResponseHeaders = {
  onResponse(request, response) {
    response.setHeader("x-checked-by", NAME);
  },
};

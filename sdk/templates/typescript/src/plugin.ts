// Lets requests pass that bring a header, and tells backend and client who looked.

import type { Decision, Request, Response } from "sluice:plugin/types@0.1.0";
import { setString } from "sluice:plugin/attributes@0.1.0";
import { info, warn } from "sluice:plugin/logging@0.1.0";
import { bytes, header, respond } from "../sdk/javascript/sluice.js";

const NAME = "my-plugin";

let required: string;

export const configuration = {
  // Called once for each instance, which many requests use one after the other. What is thrown is for the operator to read.
  configure(json: string): void {
    const config = JSON.parse(json) as { header: string };
    if (config.header === "") {
      throw "header is empty: name the header that requests have to bring";
    }
    required = config.header;
  },
};

export const requestHeaders = {
  onRequest(request: Request): Decision | undefined {
    const value = header(request, required);
    if (value === undefined) {
      info(`refused: ${request.method()} ${request.path()}`);
      return respond(403, `the header ${required} is missing\n`);
    }
    try {
      // For the access log, and for plugins that run later. A value may be too long for it.
      setString("my-plugin.value", value);
    } catch (reason) {
      warn(`no attribute was set: ${reason}`);
    }
    request.setHeader("x-checked-by", bytes(NAME));
    // To return nothing lets the request go on.
    return undefined;
  },
};

export const responseHeaders = {
  onResponse(_: Request, response: Response): Decision | undefined {
    response.setHeader("x-checked-by", bytes(NAME));
    return undefined;
  },
};

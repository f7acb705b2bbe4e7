// The contract `sluice:plugin` as JavaScript has it. What each function does stands in sdk/wit.
//
// A function that may refuse throws; the reason is the `payload` of what is thrown. A phase that throws is a failure of
// the request; `configure` and `selfTest` refuse by throwing a text.

declare module "sluice:plugin/types@0.1.0" {
  export class Request {
    private constructor();
    method(): string;
    scheme(): string;
    authority(): string;
    path(): string;
    query(): string | undefined;
    property(name: string): string | undefined;
    setPath(path: string): void;
    setQuery(query: string | undefined): void;
    header(name: string): Uint8Array | undefined;
    headerValues(name: string): Uint8Array[];
    headers(): [string, Uint8Array][];
    setHeader(name: string, value: Uint8Array): void;
    appendHeader(name: string, value: Uint8Array): void;
    removeHeader(name: string): void;
  }

  export class Response {
    private constructor();
    status(): number;
    setStatus(status: number): void;
    header(name: string): Uint8Array | undefined;
    headerValues(name: string): Uint8Array[];
    headers(): [string, Uint8Array][];
    setHeader(name: string, value: Uint8Array): void;
    appendHeader(name: string, value: Uint8Array): void;
    removeHeader(name: string): void;
  }

  export class Body {
    private constructor();
    size(): bigint;
    read(offset: bigint, length: bigint): Uint8Array;
    replace(content: Uint8Array): void;
  }

  export class Piece {
    private constructor();
    size(): bigint;
    read(): Uint8Array;
    isFirst(): boolean;
    isLast(): boolean;
    replace(content: Uint8Array): void;
  }

  export class Trailers {
    private constructor();
    get(name: string): Uint8Array | undefined;
    getAll(name: string): Uint8Array[];
    entries(): [string, Uint8Array][];
    set(name: string, value: Uint8Array): void;
    append(name: string, value: Uint8Array): void;
    remove(name: string): void;
  }

  export class LocalReply {
    constructor(status: number);
    setHeader(name: string, value: Uint8Array): void;
    appendHeader(name: string, value: Uint8Array): void;
    setBody(content: Uint8Array): void;
  }

  export class Decision {
    private constructor();
    static respond(reply: LocalReply): Decision;
    static readBody(limit: bigint): Decision;
    passOverLimit(): void;
    static abort(): Decision;
  }

  export class Summary {
    private constructor();
    duration(): bigint;
    bytesReceived(): bigint;
    bytesSent(): bigint;
    reason(): string | undefined;
  }
}

declare module "sluice:plugin/attributes@0.1.0" {
  export function getString(name: string): string | undefined;
  export function setString(name: string, value: string): void;
  export function getInteger(name: string): bigint | undefined;
  export function setInteger(name: string, value: bigint): void;
  export function getBoolean(name: string): boolean | undefined;
  export function setBoolean(name: string, value: boolean): void;
  export function remove(name: string): void;
}

declare module "sluice:plugin/logging@0.1.0" {
  export function error(message: string): void;
  export function warn(message: string): void;
  export function info(message: string): void;
  export function debug(message: string): void;
}

declare module "sluice:plugin/clock@0.1.0" {
  export function now(): bigint;
  export function monotonic(): bigint;
}

declare module "sluice:plugin/random@0.1.0" {
  export function getBytes(length: number): Uint8Array;
  export function getU64(): bigint;
}

declare module "sluice:plugin/secrets@0.1.0" {
  export function get(name: string): Uint8Array | undefined;
}

declare module "sluice:plugin/metrics@0.1.0" {
  export function add(name: string, labels: [string, string][], by: bigint): void;
  export function set(name: string, labels: [string, string][], value: number): void;
  export function observe(name: string, labels: [string, string][], value: number, buckets: Float64Array): void;
}

declare module "sluice:plugin/store@0.1.0" {
  export class Bucket {
    private constructor();
    static open(name: string): Bucket;
    get(key: string): Uint8Array | undefined;
    set(key: string, value: Uint8Array, ttlMs: bigint | undefined): void;
    compareAndSwap(
      key: string,
      expected: Uint8Array | undefined,
      value: Uint8Array,
      ttlMs: bigint | undefined,
    ): boolean;
    remove(key: string): boolean;
    increment(key: string, by: bigint, ttlMs: bigint | undefined): bigint;
    counter(key: string): bigint;
    takeTokens(
      key: string,
      capacity: bigint,
      refill: bigint,
      intervalMs: bigint,
      cost: bigint,
    ): [boolean, bigint, bigint];
  }
}

declare module "sluice:plugin/outgoing@0.1.0" {
  export class OutgoingRequest {
    constructor(method: string, pathAndQuery: string);
    setAuthority(authority: string): void;
    setHeader(name: string, value: Uint8Array): void;
    appendHeader(name: string, value: Uint8Array): void;
    setBody(content: Uint8Array): void;
    setTimeout(milliseconds: bigint): void;
    setBodyLimit(bytes: bigint): void;
  }

  export class IncomingResponse {
    private constructor();
    status(): number;
    header(name: string): Uint8Array | undefined;
    headerValues(name: string): Uint8Array[];
    headers(): [string, Uint8Array][];
    body(): Uint8Array;
  }

  export class Failure {
    private constructor();
    kind(): string;
    message(): string;
  }

  export function fetch(backend: string, request: OutgoingRequest): IncomingResponse;
}

declare module "sluice:plugin/routing@0.1.0" {
  export function useBackend(backend: string): void;
  export function findRoute(): void;
}

declare module "sluice:plugin/configuration@0.1.0" {
  /** Exported as `configuration`. */
  export interface Configuration {
    configure(config: string): void;
  }
}

declare module "sluice:plugin/self-test@0.1.0" {
  /** Exported as `selfTest`. */
  export interface SelfTest {
    run(): void;
  }
}

declare module "sluice:plugin/request-headers@0.1.0" {
  import type { Decision, Request } from "sluice:plugin/types@0.1.0";
  /** Exported as `requestHeaders`. */
  export interface RequestHeaders {
    onRequest(request: Request): Decision | undefined | void;
  }
}

declare module "sluice:plugin/request-body@0.1.0" {
  import type { Body, Decision, Request } from "sluice:plugin/types@0.1.0";
  /** Exported as `requestBody`. */
  export interface RequestBody {
    onRequestBody(request: Request, body: Body): Decision | undefined | void;
  }
}

declare module "sluice:plugin/request-body-stream@0.1.0" {
  import type { Decision, Piece, Request } from "sluice:plugin/types@0.1.0";
  /** Exported as `requestBodyStream`. */
  export interface RequestBodyStream {
    onRequestPiece(request: Request, piece: Piece): Decision | undefined | void;
  }
}

declare module "sluice:plugin/response-headers@0.1.0" {
  import type { Decision, Request, Response } from "sluice:plugin/types@0.1.0";
  /** Exported as `responseHeaders`. */
  export interface ResponseHeaders {
    onResponse(request: Request, response: Response): Decision | undefined | void;
  }
}

declare module "sluice:plugin/response-body@0.1.0" {
  import type { Body, Decision, Request, Response } from "sluice:plugin/types@0.1.0";
  /** Exported as `responseBody`. */
  export interface ResponseBody {
    onResponseBody(request: Request, response: Response, body: Body): Decision | undefined | void;
  }
}

declare module "sluice:plugin/response-body-stream@0.1.0" {
  import type { Decision, Piece, Request, Response } from "sluice:plugin/types@0.1.0";
  /** Exported as `responseBodyStream`. */
  export interface ResponseBodyStream {
    onResponsePiece(request: Request, response: Response, piece: Piece): Decision | undefined | void;
  }
}

declare module "sluice:plugin/response-trailers@0.1.0" {
  import type { Request, Response, Trailers } from "sluice:plugin/types@0.1.0";
  /** Exported as `responseTrailers`. */
  export interface ResponseTrailers {
    onResponseTrailers(request: Request, response: Response, trailers: Trailers): void;
  }
}

declare module "sluice:plugin/log@0.1.0" {
  import type { Request, Response, Summary } from "sluice:plugin/types@0.1.0";
  /** Exported as `log`. */
  export interface Log {
    onLog(request: Request, response: Response | undefined, summary: Summary): void;
  }
}

// What the engine has besides the language.
declare class TextEncoder {
  encode(text: string): Uint8Array;
}
declare class TextDecoder {
  decode(bytes: Uint8Array): string;
}

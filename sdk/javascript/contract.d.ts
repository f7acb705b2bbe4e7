// The contract (sdk/wit, package sluice:plugin@0.1.0) in TypeScript's words. A function whose result may be an error throws it.

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
    compareAndSwap(key: string, expected: Uint8Array | undefined, value: Uint8Array, ttlMs: bigint | undefined): boolean;
    remove(key: string): boolean;
    increment(key: string, by: bigint, ttlMs: bigint | undefined): bigint;
    counter(key: string): bigint;
    takeTokens(key: string, capacity: bigint, refill: bigint, intervalMs: bigint, cost: bigint): [boolean, bigint, bigint];
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

  /** Throws a Failure. */
  export function fetch(backend: string, request: OutgoingRequest): IncomingResponse;
}

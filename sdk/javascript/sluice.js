// What plugins in JavaScript need besides the contract itself: header values and bodies are bytes, and the engine that
// plugins run in (QuickJS) has no TextEncoder.

import { Decision, LocalReply } from "sluice:plugin/types@0.1.0";

/**
 * Text as bytes of UTF-8.
 * @param {string} text
 * @returns {Uint8Array}
 */
export function bytes(text) {
  const out = [];
  for (const character of text) {
    const code = character.codePointAt(0);
    // Half of a surrogate pair is no character.
    const point = code >= 0xd800 && code <= 0xdfff ? 0xfffd : code;
    if (point < 0x80) {
      out.push(point);
    } else if (point < 0x800) {
      out.push(0xc0 | (point >> 6), 0x80 | (point & 0x3f));
    } else if (point < 0x10000) {
      out.push(0xe0 | (point >> 12), 0x80 | ((point >> 6) & 0x3f), 0x80 | (point & 0x3f));
    } else {
      out.push(0xf0 | (point >> 18), 0x80 | ((point >> 12) & 0x3f), 0x80 | ((point >> 6) & 0x3f), 0x80 | (point & 0x3f));
    }
  }
  return Uint8Array.from(out);
}

/**
 * Bytes of UTF-8 as text; what is none becomes U+FFFD.
 * @param {Uint8Array} bytes
 * @returns {string}
 */
export function text(bytes) {
  let out = "";
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at++];
    const more = first < 0x80 ? 0 : first >= 0xc2 && first < 0xe0 ? 1 : first >= 0xe0 && first < 0xf0 ? 2 : first >= 0xf0 && first < 0xf5 ? 3 : -1;
    let point = more < 0 ? 0xfffd : first & (0xff >> (more === 0 ? 1 : more + 2));
    let read = 0;
    while (read < more && at < bytes.length && (bytes[at] & 0xc0) === 0x80) {
      point = (point << 6) | (bytes[at++] & 0x3f);
      read++;
    }
    const least = [0, 0x80, 0x800, 0x10000][Math.max(more, 0)];
    const broken = read < more || point < least || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff);
    out += String.fromCodePoint(broken ? 0xfffd : point);
  }
  return out;
}

/**
 * The first value of a header of a request or response, as text.
 * @param {{ header(name: string): Uint8Array | undefined }} message
 * @param {string} name
 * @returns {string | undefined}
 */
export function header(message, name) {
  const value = message.header(name);
  return value === undefined ? undefined : text(value);
}

/**
 * A decision to answer now. What the gateway refuses of it is thrown.
 * @param {number} status 200 to 599
 * @param {string} body
 * @param {Record<string, string>} headers
 * @returns {Decision}
 */
export function respond(status, body = "", headers = { "content-type": "text/plain; charset=utf-8" }) {
  const reply = new LocalReply(status);
  for (const [name, value] of Object.entries(headers)) {
    reply.setHeader(name, bytes(value));
  }
  reply.setBody(bytes(body));
  return Decision.respond(reply);
}
